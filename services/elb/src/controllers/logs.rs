//! Makes objects of log windows that are over.

use std::sync::Arc;
use std::time::Duration;

use ferrogate_control::{Activation, Controller};
use ferrogate_store::range_json;
use serde_json::json;

use crate::ElbService;
use crate::logs::Spooled;
use crate::plan::attributes;
use crate::plan::logs::LogName;
use crate::state::*;

const PERIOD: Duration = Duration::from_secs(30);

pub(crate) struct Logs(pub(crate) Arc<ElbService>);

#[async_trait::async_trait]
impl Controller for Logs {
    fn name(&self) -> &'static str {
        "elb-logs"
    }

    fn prefixes(&self) -> Vec<String> {
        Vec::new()
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Activation {
        let service = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || publish(&service)).await {
            Ok(Ok(published)) => Activation::done(json!({ "objects": published })),
            Ok(Err(error)) => Activation::failed(format!("log objects cannot be written: {error}")),
            Err(error) => Activation::failed(error.to_string()),
        }
    }
}

fn publish(service: &ElbService) -> std::io::Result<usize> {
    let now = service.clock.now();
    let over: Vec<Spooled> = service.logs.spooled()?.into_iter().filter(|one| one.end <= now).collect();
    if over.is_empty() {
        return Ok(0);
    }
    let records = range_json::<serde_json::Value>(&*service.store, PREFIX);
    let balancers: Vec<BalancerRecord> = of_kind(&records, Kind::Balancer);
    let interfaces: Vec<InterfaceRecord> = of_kind(&records, Kind::Interface);
    let mut published = 0;
    for one in over {
        let log = if one.connection { "connection_logs" } else { "access_logs" };
        let balancer = balancers.iter().find(|balancer| balancer.id == one.balancer_id);
        let wanted = balancer.filter(|balancer| {
            let known = attributes::of_balancer(balancer.kind);
            attributes::is_on(&known, &balancer.attributes, &format!("{log}.s3.enabled"))
        });
        let Some(balancer) = wanted else {
            service.logs.forget(&one)?;
            continue;
        };
        let known = attributes::of_balancer(balancer.kind);
        let value = |what: &str| attributes::value(&known, &balancer.attributes, &format!("{log}.s3.{what}"));
        let interface = interfaces.iter().find(|own| own.balancer_id == balancer.id && own.zone == one.zone);
        let node_ip = interface
            .map_or(std::net::Ipv4Addr::UNSPECIFIED, |own| own.public_ip.unwrap_or(own.private_ip))
            .to_string();
        let of_application = balancer.kind == BalancerType::Application;
        let name = LogName {
            prefix: value("prefix"),
            account: &balancer.scope.account,
            region: &balancer.scope.region,
            balancer_path: &balancer.path(),
            connection: one.connection,
            end: one.end,
            node_ip: of_application.then_some(node_ip.as_str()),
            random: &ferrogate_model::hex_id()[..8],
        };
        service.logs.publish(&one, value("bucket"), &name.key())?;
        published += 1;
    }
    Ok(published)
}

fn of_kind<T: serde::de::DeserializeOwned>(
    records: &[ferrogate_store::Json<serde_json::Value>],
    wanted: Kind,
) -> Vec<T> {
    let of =
        records.iter().filter(|found| Scope::parse(&found.key).is_some_and(|(_, kind, _)| kind == wanted));
    of.filter_map(|found| serde_json::from_value(found.record.clone()).ok()).collect()
}
