//! Whether the task's own network interface could do what the node does for it.
//!
//! On Fargate a task's images, secrets and logs go through its network interface (platform version 1.4.0). Here the
//! node fetches them over the host's network, and asks the fabric first: what could not be reached on AWS is not
//! reached here, with AWS's words. A mirror counts as the registry it stands for.

use std::net::IpAddr;
use std::time::Duration;

use ferrogate_image::{ImageRef, PullError};
use ferrogate_nodeapi::{Fabric, TaskAssignment};
use ferrogate_vpc::{Destination, Transport, Unreachable, reach};

use super::{Shared, Stop};

/// Looks before it is given up; each sees the fabric as it is then.
const ATTEMPTS_MAX: u32 = 5;
/// As often as ECS asks ECR for a token.
const ECR_ATTEMPTS_MAX: u32 = 3;
/// Doubled after each.
const DELAY_FIRST: Duration = Duration::from_millis(200);
/// For the interface to be in the fabric at all; as long as the fabric itself waits for it.
const INTERFACE_WAIT: Duration = Duration::from_secs(10);
const HTTPS: u16 = 443;
/// Every API has a public endpoint only, as long as there are no VPC endpoints.
const API: Destination = Destination::Internet { port: HTTPS };

/// To the image's registry.
pub(super) async fn to_registry(
    shared: &Shared,
    assignment: &TaskAssignment,
    reference: &ImageRef,
) -> Result<(), PullError> {
    let found = look(shared, assignment, destination(reference), ATTEMPTS_MAX).await;
    found.map_err(|_| PullError::no_way(reference, ATTEMPTS_MAX))
}

/// To ECR's API, for a token; `Ok` at once for images from elsewhere.
pub(super) async fn to_registry_auth(
    shared: &Shared,
    assignment: &TaskAssignment,
    reference: &ImageRef,
) -> Result<(), String> {
    let Some(region) = ecr_region(reference.registry()) else { return Ok(()) };
    let found = look(shared, assignment, API, ECR_ATTEMPTS_MAX).await;
    found.map_err(|_| {
        format!(
            "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: \
             unable to retrieve ecr registry auth: service call has been retried {ECR_ATTEMPTS_MAX} time(s): RequestError: \
             send request failed caused by: Post \"https://api.ecr.{region}.amazonaws.com/\": dial tcp: i/o timeout"
        )
    })
}

/// To Secrets Manager and Parameter Store.
pub(super) async fn to_secrets(shared: &Shared, assignment: &TaskAssignment) -> Result<(), Stop> {
    look(shared, assignment, API, ATTEMPTS_MAX).await.map_err(|_| {
        Stop::failed_to_start(format!(
            "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: \
             unable to retrieve secret from asm: service call has been retried {ATTEMPTS_MAX} time(s): RequestCanceled: \
             request context canceled caused by: context deadline exceeded"
        ))
    })
}

/// To CloudWatch Logs.
pub(super) async fn to_logs(shared: &Shared, assignment: &TaskAssignment, region: &str) -> Result<(), Stop> {
    look(shared, assignment, API, ATTEMPTS_MAX).await.map_err(|_| {
        Stop::failed_to_start(format!(
            "ResourceInitializationError: failed to validate logger args: create stream has been retried \
             {ATTEMPTS_MAX} times: failed to create Cloudwatch log stream: RequestError: send request failed caused by: \
             Post \"https://logs.{region}.amazonaws.com/\": dial tcp: i/o timeout : exit status 1"
        ))
    })
}

async fn look(
    shared: &Shared,
    assignment: &TaskAssignment,
    to: Destination,
    attempts_max: u32,
) -> Result<(), Unreachable> {
    let eni_id = &assignment.network.eni_id;
    let mut fabric = shared.control.fabric();
    let there = |fabric: &std::sync::Arc<Fabric>| {
        fabric.vpcs.iter().flat_map(|vpc| &vpc.enis).any(|eni| eni.eni_id == *eni_id)
    };
    let known = tokio::time::timeout(INTERFACE_WAIT, fabric.wait_for(there)).await;
    let known = known.is_ok_and(|known| known.is_ok());
    if !known {
        // Whoever attaches it says so.
        return Ok(());
    }
    let mut delay = DELAY_FIRST;
    for attempt in 1.. {
        let now = std::sync::Arc::clone(&shared.control.fabric().borrow());
        match reach(&now, eni_id, to) {
            Ok(()) => break,
            Err(why) if attempt >= attempts_max => {
                tracing::warn!(task = assignment.task_arn, %to, %why, "the task's network cannot reach what it needs");
                return Err(why);
            }
            Err(_) => tokio::time::sleep(delay).await,
        }
        delay *= 2;
    }
    Ok(())
}

/// Where the registry's name says it is. One on this machine is out there for a task.
fn destination(reference: &ImageRef) -> Destination {
    let (host, port) = reference.endpoint();
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if !ip.is_loopback() => {
            Destination::Address { ip, port, protocol: Transport::Tcp }
        }
        _ => Destination::Internet { port },
    }
}

/// `123456789012.dkr.ecr.us-east-1.amazonaws.com`
fn ecr_region(registry: &str) -> Option<&str> {
    let (_, rest) = registry.split_once(".dkr.ecr.")?;
    rest.strip_suffix(".amazonaws.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_where_its_name_says() {
        let at = |text: &str| destination(&ImageRef::parse(text).unwrap());
        let internet = |port| Destination::Internet { port };
        assert_eq!(at("nginx"), internet(443));
        assert_eq!(at("registry.example:5000/a"), internet(5000));
        assert_eq!(at("localhost:5000/a"), internet(5000));
        assert_eq!(at("127.0.0.1:5000/a"), internet(5000));
        let ip = "10.0.0.7".parse().unwrap();
        assert_eq!(at("10.0.0.7:5000/a"), Destination::Address { ip, port: 5000, protocol: Transport::Tcp });
        assert_eq!(ecr_region("123456789012.dkr.ecr.eu-west-1.amazonaws.com"), Some("eu-west-1"));
        assert_eq!(ecr_region("docker.io"), None);
    }
}
