//! What an instance has to say, and may (`RegisterInstance`, "Attributes").

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ferrogate_api::ApiError;

use crate::errors::{invalid_input, unsupported};
use crate::state::ServiceRecord;

const CUSTOM_MAX: usize = 30;
const CHARACTERS_MAX: usize = 5000;
pub(crate) const IPV4: &str = "AWS_INSTANCE_IPV4";
pub(crate) const IPV6: &str = "AWS_INSTANCE_IPV6";
pub(crate) const PORT: &str = "AWS_INSTANCE_PORT";
pub(crate) const CNAME: &str = "AWS_INSTANCE_CNAME";
pub(crate) const INIT_HEALTH: &str = "AWS_INIT_HEALTH_STATUS";
const KNOWN: [&str; 5] = [IPV4, IPV6, PORT, CNAME, INIT_HEALTH];

/// Whether the attributes are good for an instance of the service.
pub(crate) fn check(service: &ServiceRecord, attributes: &BTreeMap<String, String>) -> Result<(), ApiError> {
    for refused in ["AWS_ALIAS_DNS_NAME", "AWS_EC2_INSTANCE_ID"] {
        if attributes.contains_key(refused) {
            return Err(unsupported(&format!("the attribute {refused}")));
        }
    }
    let custom = attributes.keys().filter(|key| !KNOWN.contains(&key.as_str()));
    if custom.count() > CUSTOM_MAX {
        return Err(invalid_input(format!("An instance can have {CUSTOM_MAX} custom attributes at most.")));
    }
    let characters: usize = attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
    if characters > CHARACTERS_MAX {
        let words =
            format!("The attributes have {characters} characters in all; {CHARACTERS_MAX} are allowed.");
        return Err(invalid_input(words));
    }
    forms(service, attributes)?;
    let Some(dns) = &service.dns else { return Ok(()) };
    let needs = |kind: &str, key: &str| match dns.records.contains_key(kind) && !attributes.contains_key(key)
    {
        true => Err(missing(kind, key)),
        false => Ok(()),
    };
    needs("A", IPV4)?;
    needs("AAAA", IPV6)?;
    needs("CNAME", CNAME)?;
    needs("SRV", PORT)?;
    if dns.records.contains_key("SRV") && !attributes.contains_key(IPV4) && !attributes.contains_key(IPV6) {
        return Err(missing("SRV", &format!("{IPV4}, {IPV6}, or both")));
    }
    Ok(())
}

fn missing(kind: &str, key: &str) -> ApiError {
    invalid_input(format!(
        "The service has settings for {kind} records: the instance must have the attribute {key}."
    ))
}

fn forms(service: &ServiceRecord, attributes: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let wrong = |key: &str, value: &str, what: &str| {
        Err(invalid_input(format!("The value '{value}' of the attribute {key} is not {what}.")))
    };
    for (key, value) in attributes {
        match key.as_str() {
            IPV4 if value.parse::<Ipv4Addr>().is_err() => return wrong(key, value, "a valid IPv4 address"),
            IPV6 if value.parse::<Ipv6Addr>().is_err() => return wrong(key, value, "a valid IPv6 address"),
            PORT if value.parse::<u16>().is_err() => return wrong(key, value, "a port from 0 to 65535"),
            CNAME if value.is_empty() => return wrong(key, value, "a domain name"),
            INIT_HEALTH if !service.custom_health => {
                return Err(invalid_input(format!(
                    "The attribute {INIT_HEALTH} needs a service with HealthCheckCustomConfig."
                )));
            }
            INIT_HEALTH if value != "HEALTHY" && value != "UNHEALTHY" => {
                return wrong(key, value, "HEALTHY or UNHEALTHY");
            }
            other if other.starts_with("AWS_") && !KNOWN.contains(&other) => {
                return Err(invalid_input(format!(
                    "The attribute {other} is not one that Cloud Map defines; custom ones do not begin with AWS_."
                )));
            }
            _ => {}
        }
    }
    Ok(())
}
