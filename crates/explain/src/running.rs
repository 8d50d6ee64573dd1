//! A task that runs: is it healthy, does anything listen, and who may reach it?

use crate::facts::Facts;
use crate::network::doors;
use crate::{About, Finding, Weight};

pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = health(facts);
    findings.extend(stopped_containers(facts));
    findings.extend(ports(facts));
    findings
}

fn health(facts: &Facts) -> Vec<Finding> {
    let unhealthy = facts.containers().iter().filter(|of| of.health_status.as_deref() == Some("UNHEALTHY"));
    unhealthy
        .map(|container| {
            let name = container.name.as_deref().unwrap_or_default();
            let command = facts
                .definition_of(name)
                .and_then(|definition| definition.health_check.as_ref())
                .and_then(|check| check.command.clone())
                .unwrap_or_default();
            Finding::cause(
                About::Health,
                format!("Container {name} is UNHEALTHY: its health check failed as often as `retries` allows."),
            )
            .because(format!("healthCheck.command {command:?}"))
            .fix("Try the command by hand: is the program it calls in the image, and does it reach the port on localhost?")
            .fix("A slow start needs a longer healthCheck.startPeriod.")
        })
        .collect()
}

fn stopped_containers(facts: &Facts) -> Vec<Finding> {
    let stopped = facts.containers().iter().filter(|of| of.last_status.as_deref() == Some("STOPPED"));
    stopped
        .map(|container| {
            let name = container.name.as_deref().unwrap_or_default();
            let code =
                container.exit_code.map_or("without an exit code".into(), |code| format!("with {code}"));
            let finding = Finding::note(
                About::Container,
                format!("Container {name}, not essential, has exited {code}."),
            );
            let last = facts.last_lines(name).join("\n");
            finding.because(container.reason.clone().unwrap_or_default()).because(last)
        })
        .collect()
}

fn ports(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let eni = facts.interface("networkInterfaceId").unwrap_or_default();
    let definitions = facts.definition.as_ref().and_then(|of| of.container_definitions.as_deref());
    for container in definitions.unwrap_or_default() {
        let name = container.name.as_deref().unwrap_or_default();
        for mapping in container.port_mappings.iter().flatten() {
            let Some(port) = mapping.container_port.and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            let protocol = mapping.protocol.as_deref().unwrap_or("tcp");
            findings.extend(listening(facts, name, protocol, port));
            findings.extend(open(facts, eni, protocol, port));
        }
    }
    findings
}

fn listening(facts: &Facts, container: &str, protocol: &str, port: u16) -> Option<Finding> {
    let listeners = facts.node.listeners.as_deref()?;
    let of_port: Vec<_> = listeners.iter().filter(|of| of.protocol == protocol && of.port == port).collect();
    let others = || {
        let ports: Vec<String> = listeners.iter().map(|of| format!("{}/{}", of.port, of.protocol)).collect();
        if ports.is_empty() {
            "nothing listens at all".into()
        } else {
            format!("listening: {}", ports.join(", "))
        }
    };
    if of_port.is_empty() {
        let text = format!(
            "Nothing in the task listens on port {port}/{protocol}, which container {container} is said to serve."
        );
        return Some(
            Finding::cause(About::Port, text)
                .because(others())
                .fix("Correct portMappings.containerPort, or what the program listens on; a program that has just begun may need a moment more."),
        );
    }
    if of_port.iter().all(|of| of.address.is_loopback()) {
        let text = format!(
            "Port {port}/{protocol} is listened on at {} only: nobody outside the task can reach it.",
            of_port[0].address
        );
        return Some(Finding::cause(About::Port, text).fix("Let the program listen on 0.0.0.0."));
    }
    None
}

fn open(facts: &Facts, eni: &str, protocol: &str, port: u16) -> Vec<Finding> {
    let Some(doors) = doors(&facts.fabric, eni, protocol, port) else { return Vec::new() };
    let groups: Vec<String> = facts
        .fabric
        .vpcs
        .iter()
        .flat_map(|vpc| &vpc.enis)
        .filter(|of| of.eni_id == eni)
        .flat_map(|of| of.security_group_ids.clone())
        .collect();
    let group = groups.first().map_or("<group>", String::as_str);
    let let_in = format!(
        "aws ec2 authorize-security-group-ingress --group-id {group} --protocol {protocol} --port {port} --cidr <who may>"
    );
    let mut findings = Vec::new();
    if doors.from.is_empty() {
        let text = format!(
            "No rule of its security groups ({}) lets anybody in on port {port}/{protocol}.",
            groups.join(", ")
        );
        findings.push(Finding::cause(About::SecurityGroup, text).fix(let_in));
    } else if doors.public.is_some() && doors.from.iter().all(|from| from.starts_with("sg-")) {
        let text = format!(
            "Port {port}/{protocol} is open to members of {} only: nobody outside the VPC can reach it.",
            doors.from.join(", ")
        );
        findings.push(Finding::new(Weight::Obstacle, About::SecurityGroup, text).fix(let_in));
    } else {
        let mut text = format!("Port {port}/{protocol} is open to {}", doors.from.join(", "));
        match doors.public {
            Some(public) if doors.internet => text.push_str(&format!("; from outside at {public}.")),
            Some(public) => {
                text.push_str(&format!(
                    ", but {public} leads nowhere: its subnet's route table has no internet gateway."
                ));
            }
            None => text.push_str(", inside the VPC only: the task has no public address."),
        }
        findings.push(Finding::note(About::SecurityGroup, text));
    }
    for closed in &doors.closed_by_acl {
        findings.push(
            Finding::cause(About::NetworkAcl, closed.clone()).fix(
                "A network ACL keeps no state: allow the port in and the answers' ports 1024-65535 out.",
            ),
        );
    }
    findings
}
