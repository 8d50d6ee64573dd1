//! The services that a service's tasks are put behind, called in ECS's own name.

use std::sync::Arc;

use ferrogate_api::{Caller, Invoke, elbv2, servicediscovery};

pub(crate) use super::interfaces::SERVICE_PRINCIPAL;
use crate::state::Scope;

fn caller(scope: &Scope) -> Caller {
    Caller::Service { name: SERVICE_PRINCIPAL, account: scope.account.clone() }
}

pub(crate) fn elb(invoke: &Arc<dyn Invoke>, scope: &Scope) -> elbv2::Client {
    elbv2::Client::new(Arc::clone(invoke), caller(scope), &scope.region)
}

pub(crate) fn discovery(invoke: &Arc<dyn Invoke>, scope: &Scope) -> servicediscovery::Client {
    servicediscovery::Client::new(Arc::clone(invoke), caller(scope), &scope.region)
}

/// Of `arn:aws:servicediscovery:<region>:<account>:service/<id>`.
pub(crate) fn registry_id(arn: &str) -> Option<&str> {
    let resource = arn.splitn(6, ':').nth(5)?;
    arn.contains(":servicediscovery:").then_some(())?;
    resource.strip_prefix("service/")
}

/// `…:listener-rule/app/…`; the other thing that traffic is shifted with is a listener.
pub(crate) fn is_rule(arn: &str) -> bool {
    arn.splitn(6, ':').nth(5).is_some_and(|resource| resource.starts_with("listener-rule/"))
}

/// `…:listener/app/<name>/<id>/<id>` of `…:listener-rule/app/<name>/<id>/<id>/<id>`.
pub(crate) fn listener_of_rule(arn: &str) -> Option<String> {
    let (listener, _) = arn.rsplit_once('/')?;
    is_rule(arn).then(|| listener.replacen(":listener-rule/", ":listener/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_of_a_rule() {
        let of = |resource: &str| format!("arn:aws:elasticloadbalancing:us-east-1:123456789012:{resource}");
        let listener = of("listener/app/house/0123456789abcdef/1123456789abcdef");
        let rule = of("listener-rule/app/house/0123456789abcdef/1123456789abcdef/2123456789abcdef");
        assert_eq!(listener_of_rule(&rule), Some(listener.clone()));
        assert_eq!(listener_of_rule(&listener), None);
        assert_eq!(listener_of_rule("listener-rule"), None);
    }
}
