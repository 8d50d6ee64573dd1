//! A task that is not running yet: what it waits for.

use crate::facts::{Facts, words};
use crate::{About, Finding};

/// A start takes seconds; after this long a step is told as one that hangs.
const LONG_SECONDS: i64 = 30;

pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let task = &facts.task;
    let age = task.created_at.map_or(0, |at| facts.now.as_second() - at.as_second());
    let status = task.last_status.as_deref().unwrap_or_default();
    let mut findings = Vec::new();
    let without_node = if status == "PENDING" { no_node(facts) } else { None };
    match (status, without_node) {
        ("PROVISIONING", _) => {
            let text = format!("It waits for its network interface, since {}.", words(age));
            let finding = if age > LONG_SECONDS {
                let subnet = facts.interface("subnetId").unwrap_or("its subnet");
                Finding::cause(About::Capacity, text)
                    .fix(format!("aws ec2 describe-subnets --subnet-ids {subnet} --query 'Subnets[].AvailableIpAddressCount'   (0: stop tasks in it, or use another subnet)"))
                    .fix("ferrogate status --controllers   (what the provision controller says)")
            } else {
                Finding::note(About::Start, text)
            };
            findings.push(finding);
        }
        (_, Some(finding)) => findings.push(finding),
        (_, None) => {
            let doing = facts.node.progress.clone().unwrap_or_else(|| match status {
                "PENDING" => "waiting for its node to take it".into(),
                _ => "images are pulled, the network and the containers are made".into(),
            });
            let text = format!("It is being started, since {}: {doing}.", words(age));
            findings.push(Finding::note(About::Start, text));
        }
    }
    // A pull that will not come through says nothing for a while; the route tables know at once.
    findings.extend(facts.blocked());
    for container in facts.containers().iter().filter(|container| container.reason.is_some()) {
        let name = container.name.as_deref().unwrap_or_default();
        findings.push(
            Finding::note(About::Container, format!("Container {name} has told something."))
                .because(container.reason.clone().unwrap_or_default()),
        );
    }
    findings
}

/// Why no node can take it, were it the only task. Tasks are not added up.
pub(crate) fn no_node(facts: &Facts) -> Option<Finding> {
    let Some(largest_mib) = facts.node.largest_mib else {
        let architecture = facts
            .definition
            .as_ref()
            .and_then(|definition| definition.runtime_platform.as_ref())
            .and_then(|platform| platform.cpu_architecture.as_deref())
            .unwrap_or("X86_64");
        let what = format!("There is no node of the architecture {architecture}.");
        let fix = "Set runtimePlatform.cpuArchitecture to the machine's own, or add such a node.";
        return Some(Finding::cause(About::Capacity, what).fix(fix));
    };
    let memory_mib: u64 = facts.task.memory.as_deref()?.parse().ok()?;
    (memory_mib > largest_mib).then(|| {
        let what = format!("The task has {memory_mib} MiB of memory and the largest node {largest_mib} MiB.");
        Finding::cause(About::Capacity, what)
            .fix("Give the task less memory, in its definition or as an override, or the machine more.")
    })
}
