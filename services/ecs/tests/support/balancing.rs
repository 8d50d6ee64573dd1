//! ELB and Cloud Map as far as ECS calls them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use ferrogate_api::{ApiError, Caller, Shape, Value, elbv2, servicediscovery as discovery};

pub(crate) const BLUE: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/blue/0123456789abcdef";
pub(crate) const GREEN: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/green/0123456789abcdef";
/// In use by nobody.
pub(crate) const LONELY: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/lonely/0123456789abcdef";
/// Of instances.
pub(crate) const INSTANCES: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/instances/0123456789abcdef";
pub(crate) const RULE: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:listener-rule/app/lb/1/2/3";
/// A second door of the same service.
pub(crate) const SIDE_RULE: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:listener-rule/app/lb/1/4/5";
pub(crate) const SIDE_BLUE: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/side-blue/0123456789abcdef";
pub(crate) const SIDE_GREEN: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/side-green/0123456789abcdef";
/// What a listener does with the rest.
pub(crate) const DEFAULT_RULE: &str =
    "arn:aws:elasticloadbalancing:us-east-1:123456789012:listener-rule/app/lb/1/2/0";
const ITS_LISTENER: &str = "arn:aws:elasticloadbalancing:us-east-1:123456789012:listener/app/lb/1/2";
pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/shift";
pub(crate) const REGISTRY: &str = "arn:aws:servicediscovery:us-east-1:123456789012:service/srv-a";

#[derive(Default)]
pub(crate) struct Balancing {
    /// (group, address:port) → state
    pub(crate) targets: Mutex<BTreeMap<(String, String), String>>,
    /// New targets begin with it instead of `healthy`.
    pub(crate) begins: Mutex<Option<&'static str>>,
    /// Deregistered targets stay, as `draining`.
    pub(crate) drains: Mutex<bool>,
    /// RegisterTargets and RegisterInstance fail so; taken from the front.
    pub(crate) errors: Mutex<Vec<ApiError>>,
    /// Operations, and rules that ModifyRule is asked to change, which fail as long as they are in here.
    pub(crate) refused: Mutex<BTreeSet<String>>,
    /// The rules' weights, newest last.
    pub(crate) weights: Mutex<Vec<Vec<(String, i32)>>>,
    /// Instance id → attributes.
    pub(crate) instances: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
}

/// A call on the one service registry there is.
pub(crate) fn is_of_registry(input: &Value) -> bool {
    ["ServiceId", "Id"].iter().any(|member| input.get_str(member) == Some("srv-a"))
}

fn parse<T: Shape>(value: Value) -> T {
    T::from_value(value).expect("an input of the API")
}

impl Balancing {
    pub(crate) fn answer(&self, caller: &Caller, operation: &str, input: Value) -> Result<Value, ApiError> {
        match (operation, caller) {
            ("DescribeRules" | "ModifyRule" | "ModifyListener", Caller::Role { role_arn, service, .. }) => {
                assert_eq!((role_arn.as_str(), *service), (ROLE, "ecs.amazonaws.com"));
            }
            (_, Caller::Service { name, .. }) => assert_eq!(*name, "ecs.amazonaws.com"),
            (operation, caller) => panic!("{operation} by {caller:?}"),
        }
        let rule = input.get_str("RuleArn").filter(|_| operation == "ModifyRule").unwrap_or(operation);
        if [operation, rule].into_iter().any(|name| self.refused.lock().unwrap().contains(name)) {
            return Err(ApiError::new("AccessDenied", format!("{operation} is refused")));
        }
        match operation {
            "DescribeTargetGroups" => Self::groups(parse(input)).map(|answer| answer.to_value()),
            "DescribeTargetHealth" => Ok(self.health(parse(input)).to_value()),
            "RegisterTargets" => {
                self.fail()?;
                self.register(parse(input));
                Ok(elbv2::RegisterTargetsOutput {}.to_value())
            }
            "DeregisterTargets" => {
                self.deregister(parse(input));
                Ok(elbv2::DeregisterTargetsOutput {}.to_value())
            }
            "DescribeRules" => Ok(Self::rules(parse(input)).to_value()),
            "ModifyRule" => {
                let input: elbv2::ModifyRuleInput = parse(input);
                if input.rule_arn.as_deref() == Some(DEFAULT_RULE) {
                    return Err(ApiError::new("OperationNotPermitted", "Default rule cannot be modified"));
                }
                self.modify(input.actions.unwrap());
                Ok(elbv2::ModifyRuleOutput { rules: None }.to_value())
            }
            "ModifyListener" => {
                let input: elbv2::ModifyListenerInput = parse(input);
                assert_eq!(input.listener_arn.as_deref(), Some(ITS_LISTENER));
                self.modify(input.default_actions.unwrap());
                Ok(elbv2::ModifyListenerOutput { listeners: None }.to_value())
            }
            "GetService" => Ok(Self::registry().to_value()),
            "RegisterInstance" => {
                self.fail()?;
                let input: discovery::RegisterInstanceRequest = parse(input);
                let mut instances = self.instances.lock().unwrap();
                instances.insert(input.instance_id.unwrap(), input.attributes.unwrap());
                Ok(discovery::RegisterInstanceResponse { operation_id: Some("op".into()) }.to_value())
            }
            "DeregisterInstance" => {
                let input: discovery::DeregisterInstanceRequest = parse(input);
                self.instances.lock().unwrap().remove(&input.instance_id.unwrap());
                Ok(discovery::DeregisterInstanceResponse { operation_id: Some("op".into()) }.to_value())
            }
            "UpdateInstanceCustomHealthStatus" => {
                let input: discovery::UpdateInstanceCustomHealthStatusRequest = parse(input);
                let mut instances = self.instances.lock().unwrap();
                let instance = instances.get_mut(&input.instance_id.unwrap()).expect("it is registered");
                instance.insert("AWS_INIT_HEALTH_STATUS".into(), input.status.unwrap());
                Ok(discovery::UpdateInstanceCustomHealthStatusNoOutput {}.to_value())
            }
            other => panic!("ECS does not call {other}"),
        }
    }

    fn fail(&self) -> Result<(), ApiError> {
        let mut errors = self.errors.lock().unwrap();
        if errors.is_empty() { Ok(()) } else { Err(errors.remove(0)) }
    }

    fn groups(
        input: elbv2::DescribeTargetGroupsInput,
    ) -> Result<elbv2::DescribeTargetGroupsOutput, ApiError> {
        let arn = input.target_group_arns.unwrap().remove(0);
        if ![BLUE, GREEN, SIDE_BLUE, SIDE_GREEN, LONELY, INSTANCES].contains(&arn.as_str()) {
            return Err(ApiError::new("TargetGroupNotFound", "One or more target groups not found"));
        }
        let balancers = if arn == LONELY { Vec::new() } else { vec!["arn:lb".to_owned()] };
        let group = elbv2::TargetGroup {
            target_type: Some(if arn == INSTANCES { "instance" } else { "ip" }.into()),
            target_group_arn: Some(arn),
            load_balancer_arns: Some(balancers),
            ..Default::default()
        };
        Ok(elbv2::DescribeTargetGroupsOutput { target_groups: Some(vec![group]), next_marker: None })
    }

    fn health(&self, input: elbv2::DescribeTargetHealthInput) -> elbv2::DescribeTargetHealthOutput {
        let group = input.target_group_arn.unwrap();
        let targets = self.targets.lock().unwrap();
        let own = targets.iter().filter(|((of, _), _)| *of == group);
        let described = own.map(|((_, target), state)| {
            let (ip, port) = target.split_once(':').unwrap();
            elbv2::TargetHealthDescription {
                target: Some(elbv2::TargetDescription {
                    id: Some(ip.into()),
                    port: Some(port.parse().unwrap()),
                    ..Default::default()
                }),
                target_health: Some(elbv2::TargetHealth {
                    state: Some(state.clone()),
                    reason: None,
                    description: Some("Health checks failed with these codes: [502]".into()),
                }),
                ..Default::default()
            }
        });
        elbv2::DescribeTargetHealthOutput { target_health_descriptions: Some(described.collect()) }
    }

    fn register(&self, input: elbv2::RegisterTargetsInput) {
        let state = self.begins.lock().unwrap().unwrap_or("healthy");
        let group = input.target_group_arn.unwrap();
        for target in input.targets.unwrap() {
            let name = format!("{}:{}", target.id.unwrap(), target.port.unwrap());
            self.targets.lock().unwrap().insert((group.clone(), name), state.to_owned());
        }
    }

    fn deregister(&self, input: elbv2::DeregisterTargetsInput) {
        let group = input.target_group_arn.unwrap();
        let drains = *self.drains.lock().unwrap();
        for target in input.targets.unwrap() {
            let key = (group.clone(), format!("{}:{}", target.id.unwrap(), target.port.unwrap()));
            let mut targets = self.targets.lock().unwrap();
            if drains {
                targets.insert(key, "draining".into());
            } else {
                targets.remove(&key);
            }
        }
    }

    /// Those that are draining are drained.
    pub(crate) fn drained(&self) {
        *self.drains.lock().unwrap() = false;
        self.targets.lock().unwrap().retain(|_, state| state != "draining");
    }

    pub(crate) fn states(&self, group: &str) -> Vec<String> {
        let targets = self.targets.lock().unwrap();
        targets.iter().filter(|((of, _), _)| of == group).map(|(_, state)| state.clone()).collect()
    }

    fn rules(input: elbv2::DescribeRulesInput) -> elbv2::DescribeRulesOutput {
        let arn = input.rule_arns.unwrap().remove(0);
        let action = |kind: &str, order| elbv2::Action {
            r#type: Some(kind.into()),
            order: Some(order),
            ..Default::default()
        };
        let actions = vec![action("authenticate-oidc", 1), action("forward", 2)];
        let rule = elbv2::Rule {
            is_default: Some(arn == DEFAULT_RULE),
            rule_arn: Some(arn),
            actions: Some(actions),
            ..Default::default()
        };
        elbv2::DescribeRulesOutput { rules: Some(vec![rule]), next_marker: None }
    }

    fn modify(&self, actions: Vec<elbv2::Action>) {
        let kinds: Vec<&str> = actions.iter().map(|action| action.r#type.as_deref().unwrap()).collect();
        assert_eq!(kinds, ["authenticate-oidc", "forward"]);
        let groups = actions[1].forward_config.clone().unwrap().target_groups.unwrap();
        let pair = |group: elbv2::TargetGroupTuple| (group.target_group_arn.unwrap(), group.weight.unwrap());
        self.weights.lock().unwrap().push(groups.into_iter().map(pair).collect());
    }

    fn registry() -> discovery::GetServiceResponse {
        let record = discovery::DnsRecord { r#type: Some("A".into()), ttl: Some(10) };
        let dns = discovery::DnsConfig { dns_records: Some(vec![record]), ..Default::default() };
        let service =
            discovery::Service { id: Some("srv-a".into()), dns_config: Some(dns), ..Default::default() };
        discovery::GetServiceResponse { service: Some(service) }
    }
}
