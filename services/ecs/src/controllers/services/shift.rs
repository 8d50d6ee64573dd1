//! Shifts traffic between the deployments of a service: the rules and listeners it names, changed under the role it names
//! for that, and its endpoints of Service Connect.

use std::sync::Arc;

use ferrogate_api::{ApiError, Caller, ecs, elbv2};

use super::Worker;
use super::observe::Observed;
use super::writes::{ActError, Writes};
use crate::controllers::clients;
use crate::plan::service::Listener;

/// ELB API reference, TargetGroupTuple.
const WEIGHT_MAX: u32 = 999;
const FORWARD: &str = "forward";
/// Some rules have been changed and another one was not: until all are, nobody can say who has the traffic.
const UNKNOWN: &[(String, u32)] = &[];

impl Worker {
    pub(super) async fn shift(
        &self,
        writes: &mut Writes,
        observed: &Observed,
        listener: Listener,
        permille: &[(String, u32)],
    ) -> Result<(), ActError> {
        let newest = permille.iter().find_map(|(id, _)| observed.specs.get(id));
        let balancers = newest.map(|spec| spec.load_balancers.clone()).unwrap_or_default();
        let mut changed = false;
        for balancer in &balancers {
            let weights = weights(writes, balancer, permille);
            let Some(advanced) = &balancer.advanced_configuration else { continue };
            let arn = match listener {
                Listener::Production => &advanced.production_listener_rule,
                Listener::Test => &advanced.test_listener_rule,
            };
            let Some(arn) = arn.as_deref().filter(|arn| !arn.is_empty()) else { continue };
            let client = self.elb_as(writes, advanced);
            if let Err(error) = shift_one(&client, arn, &weights).await {
                if changed {
                    set_shares(writes, listener, UNKNOWN);
                }
                return self.refused(writes, &format!("failed to shift traffic of {arn}"), &error).await;
            }
            changed = true;
        }
        let shifted = Box::pin(self.shift_endpoints(writes, observed, listener, permille)).await;
        if shifted.is_ok() || changed {
            set_shares(writes, listener, if shifted.is_ok() { permille } else { UNKNOWN });
            self.flush(writes).await?;
        }
        shifted
    }

    fn elb_as(&self, writes: &Writes, advanced: &ecs::AdvancedConfiguration) -> elbv2::Client {
        let caller = Caller::Role {
            role_arn: advanced.role_arn.clone().unwrap_or_default(),
            service: clients::SERVICE_PRINCIPAL,
            session_name: "ecs-service".into(),
        };
        elbv2::Client::new(Arc::clone(&self.invoke), caller, &writes.key().scope.region)
    }
}

/// Of those that are not named nothing is known.
fn set_shares(writes: &mut Writes, listener: Listener, permille: &[(String, u32)]) {
    for one in &mut writes.service.deployments {
        let share = permille.iter().find(|(id, _)| *id == one.id).map(|(_, share)| *share);
        match listener {
            Listener::Production => one.production_permille = share,
            Listener::Test => one.test_permille = share,
        }
    }
}

/// Of this load balancer's groups.
fn weights(
    writes: &Writes,
    balancer: &ecs::LoadBalancer,
    permille: &[(String, u32)],
) -> Vec<elbv2::TargetGroupTuple> {
    let advanced = balancer.advanced_configuration.as_ref();
    let own = [
        balancer.target_group_arn.as_deref(),
        advanced.and_then(|advanced| advanced.alternate_target_group_arn.as_deref()),
    ];
    let of = |(id, share): &(String, u32)| {
        let deployment = writes.service.deployments.iter().find(|one| one.id == *id)?;
        let group = deployment.target_groups.iter().find(|group| own.contains(&Some(group.as_str())))?;
        let weight = i32::try_from((*share).min(WEIGHT_MAX)).ok();
        Some(elbv2::TargetGroupTuple { target_group_arn: Some(group.clone()), weight })
    };
    permille.iter().filter_map(of).collect()
}

async fn shift_one(
    client: &elbv2::Client,
    arn: &str,
    weights: &[elbv2::TargetGroupTuple],
) -> Result<(), ApiError> {
    if clients::is_rule(arn) {
        let request =
            elbv2::DescribeRulesInput { rule_arns: Some(vec![arn.to_owned()]), ..Default::default() };
        let rule = client.describe_rules(request).await?.rules.into_iter().flatten().next();
        let rule = rule.unwrap_or_default();
        let is_default = rule.is_default == Some(true);
        let actions = forwarding(rule.actions.unwrap_or_default(), weights);
        if let Some(listener) = clients::listener_of_rule(arn).filter(|_| is_default) {
            return modify_listener(client, listener, actions).await;
        }
        let request = elbv2::ModifyRuleInput {
            rule_arn: Some(arn.to_owned()),
            actions: Some(actions),
            ..Default::default()
        };
        return client.modify_rule(request).await.map(drop);
    }
    let request =
        elbv2::DescribeListenersInput { listener_arns: Some(vec![arn.to_owned()]), ..Default::default() };
    let listener = client.describe_listeners(request).await?.listeners.into_iter().flatten().next();
    let actions = listener.and_then(|listener| listener.default_actions).unwrap_or_default();
    modify_listener(client, arn.to_owned(), forwarding(actions, weights)).await
}

/// Its default rule is changed by nothing else (ELB API reference, ModifyRule).
async fn modify_listener(
    client: &elbv2::Client,
    arn: String,
    actions: Vec<elbv2::Action>,
) -> Result<(), ApiError> {
    let request = elbv2::ModifyListenerInput {
        listener_arn: Some(arn),
        default_actions: Some(actions),
        ..Default::default()
    };
    client.modify_listener(request).await.map(drop)
}

/// What came before forwarding (an authentication) stays, and so does its stickiness.
fn forwarding(mut actions: Vec<elbv2::Action>, weights: &[elbv2::TargetGroupTuple]) -> Vec<elbv2::Action> {
    let is_forward = |action: &elbv2::Action| action.r#type.as_deref() == Some(FORWARD);
    let before = actions.iter().find(|action| is_forward(action)).cloned().unwrap_or_default();
    actions.retain(|action| !is_forward(action));
    let sticky = before.forward_config.and_then(|config| config.target_group_stickiness_config);
    actions.push(elbv2::Action {
        r#type: Some(FORWARD.into()),
        order: before.order,
        forward_config: Some(elbv2::ForwardActionConfig {
            target_groups: Some(weights.to_vec()),
            target_group_stickiness_config: sticky,
        }),
        ..Default::default()
    });
    actions
}
