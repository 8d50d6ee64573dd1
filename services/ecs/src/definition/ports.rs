//! Ports that containers say they listen on.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use ferrogate_api::{ApiError, ecs};

use super::container::{in_range, is_one_of};
use crate::errors::client;

const NAME_CHARACTERS_MAX: usize = 64;
/// ECS API reference, PortMapping, `containerPortRange`.
const RANGES_OF_CONTAINER_MAX: usize = 100;

/// Checks one mapping and fills in its defaults.
pub(super) fn check(name: &str, port: &mut ecs::PortMapping, awsvpc: bool) -> Result<(), ApiError> {
    match &port.container_port_range {
        Some(range) => check_range(name, range, port)?,
        None => check_number(name, port, awsvpc)?,
    }
    let protocol = port.protocol.get_or_insert_with(|| "tcp".into());
    is_one_of(name, "protocol", protocol, protocol, "tcp udp")?;
    if let Some(of_app) = &port.app_protocol {
        is_one_of(name, "appProtocol", of_app, of_app, "http http2 grpc")?;
        if protocol != "tcp" {
            return Err(client(format!(
                "Invalid appProtocol '{of_app}' of container '{name}': it goes with the protocol tcp only."
            )));
        }
    }
    port.name.as_deref().map_or(Ok(()), |text| check_name(name, text))
}

fn check_number(name: &str, port: &mut ecs::PortMapping, awsvpc: bool) -> Result<(), ApiError> {
    in_range(name, "containerPort", Some(port.container_port.unwrap_or_default()), 1..=65_535)?;
    in_range(name, "hostPort", port.host_port, 0..=65_535)?;
    if awsvpc {
        if port.host_port.is_some_and(|host| host != 0 && Some(host) != port.container_port) {
            return Err(client(
                "When networkMode=awsvpc, the host ports and container ports in port mappings must match.",
            ));
        }
        port.host_port = port.container_port;
    }
    port.host_port.get_or_insert(0);
    Ok(())
}

fn check_range(name: &str, range: &str, port: &ecs::PortMapping) -> Result<(), ApiError> {
    let bad =
        |why: &str| client(format!("Invalid containerPortRange '{range}' of container '{name}': {why}."));
    if port.container_port.is_some() || port.host_port.is_some() {
        return Err(bad("it goes with neither 'containerPort' nor 'hostPort'"));
    }
    match numbers(range) {
        Some(_) => Ok(()),
        None => Err(bad("it is two ports between 1 and 65535 with a hyphen between, the lower one first")),
    }
}

fn numbers(range: &str) -> Option<RangeInclusive<i32>> {
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
    (1..=last).contains(&first).then_some(i32::from(first)..=i32::from(last))
}

fn check_name(name: &str, text: &str) -> Result<(), ApiError> {
    let of_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if (1..=NAME_CHARACTERS_MAX).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(of_name)
    {
        return Ok(());
    }
    Err(client(format!(
        "Invalid port mapping name '{text}' of container '{name}'. Up to 64 lowercase letters, numbers, underscores, and \
         hyphens are allowed, and no hyphen in front."
    )))
}

/// Of a checked mapping.
fn of(port: &ecs::PortMapping) -> RangeInclusive<i32> {
    let one = port.container_port.unwrap_or_default();
    port.container_port_range.as_deref().and_then(numbers).unwrap_or(one..=one)
}

/// The containers of a task share one interface, and names of ports are the task's.
pub(super) fn check_all(containers: &[ecs::ContainerDefinition], awsvpc: bool) -> Result<(), ApiError> {
    let mut used: Vec<(RangeInclusive<i32>, Option<&str>)> = Vec::new();
    let mut names = BTreeSet::new();
    for container in containers {
        let name = container.name.as_deref().unwrap_or_default();
        let mappings = container.port_mappings.as_deref().unwrap_or_default();
        if mappings.iter().filter(|port| port.container_port_range.is_some()).count()
            > RANGES_OF_CONTAINER_MAX
        {
            return Err(client(format!(
                "Container '{name}' has more than {RANGES_OF_CONTAINER_MAX} port ranges."
            )));
        }
        for port in mappings {
            let (own, protocol) = (of(port), port.protocol.as_deref());
            let taken = used.iter().find(|(other, of)| {
                *of == protocol && own.start() <= other.end() && other.start() <= own.end()
            });
            if let Some((other, _)) = taken.filter(|_| awsvpc) {
                let number = own.start().max(other.start());
                return Err(client(format!(
                    "Invalid port mapping of container '{name}': port {number} is mapped twice."
                )));
            }
            used.push((own, protocol));
            if let Some(text) = &port.name
                && !names.insert(text)
            {
                return Err(client(format!("Port mapping names should be unique: '{text}' is there twice.")));
            }
        }
    }
    Ok(())
}
