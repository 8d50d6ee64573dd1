//! Rules of listeners.

use std::collections::{BTreeMap, BTreeSet};

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_store::Txn;

use super::{check_groups, new_id, page, tags};
use crate::call::{AnyRule, Call, given};
use crate::errors::{among_listeners, configuration, invalid, no_rule, not_permitted, refuse};
use crate::plan::{actions, conditions};
use crate::state::*;

/// ELB user guides, "Quotas": rules per balancer, the default ones not counted.
pub(crate) const RULES_MAX: usize = 100;
const PRIORITY_MAX: u32 = 50_000;

pub(crate) fn shape(record: &RuleRecord) -> Rule {
    Rule {
        rule_arn: Some(record.arn()),
        priority: Some(record.priority.to_string()),
        conditions: Some(record.conditions.clone()),
        actions: Some(record.actions.clone()),
        is_default: Some(false),
        transforms: Some(record.transforms.clone()),
    }
}

fn default_shape(listener: &ListenerRecord) -> Rule {
    Rule {
        rule_arn: Some(listener.rule_arn(&listener.default_rule_id)),
        priority: Some("default".into()),
        conditions: Some(Vec::new()),
        actions: Some(listener.actions.clone()),
        is_default: Some(true),
        transforms: Some(Vec::new()),
    }
}

fn check_priority(given: Option<i32>) -> Result<u32, ApiError> {
    let priority = given.and_then(|given| u32::try_from(given).ok()).unwrap_or(0);
    if !(1..=PRIORITY_MAX).contains(&priority) {
        return Err(invalid(format!(
            "Priority '{priority}' must be between '1' and '{PRIORITY_MAX}' inclusive"
        )));
    }
    Ok(priority)
}

fn in_use(priority: u32) -> ApiError {
    ApiError::new("PriorityInUse", format!("Priority '{priority}' is currently in use"))
}

pub(crate) async fn create(call: &Call<'_>, input: CreateRuleInput) -> Result<CreateRuleOutput, ApiError> {
    let arn = given(input.listener_arn);
    let priority = check_priority(input.priority)?;
    let conditions = conditions::check(input.conditions.unwrap_or_default())?;
    let transforms = conditions::check_transforms(input.transforms.unwrap_or_default())?;
    let tags = tags::new(input.tags)?;
    let wanted = input.actions.unwrap_or_default();
    let id = new_id();
    let made = call.decide(|| {
        let listener = call.listener(&arn).map_err(among_listeners)?;
        let balancer = call.balancer(&listener.balancer_arn())?;
        if balancer.kind == BalancerType::Network {
            return Err(configuration(
                "Rules are not supported for the listeners of a network load balancer",
            ));
        }
        let place =
            actions::Place { kind: balancer.kind, protocol: &listener.protocol, vpc_id: &balancer.vpc_id };
        let record = RuleRecord {
            id: id.clone(),
            listener_id: listener.id.clone(),
            balancer_id: balancer.id.clone(),
            balancer_path: balancer.path(),
            scope: call.scope.clone(),
            priority,
            conditions: conditions.clone(),
            actions: actions::check(wanted.clone(), &place, |arn| call.group(arn))?,
            transforms: transforms.clone(),
            tags: tags.clone(),
        };
        let rules = call.rules(&listener.id);
        if let Some(found) = rules.iter().find(|rule| rule.priority == priority) {
            let same = RuleRecord { id: found.id.clone(), ..record };
            return if same == *found { Ok((Txn::new(), same)) } else { Err(in_use(priority)) };
        }
        let count: usize = call.listeners(&balancer.id).iter().map(|one| call.rules(&one.id).len()).sum();
        if count >= RULES_MAX {
            let message =
                format!("The maximum number of rules per load balancer has been reached: '{RULES_MAX}'");
            return Err(ApiError::new("TooManyRules", message));
        }
        check_groups(call, &balancer.id, "", &record.actions)?;
        Ok((Txn::new().put_json(record.key(), &record), record))
    });
    Ok(CreateRuleOutput { rules: Some(vec![shape(&made.await?)]) })
}

pub(crate) async fn describe(
    call: &Call<'_>,
    input: DescribeRulesInput,
) -> Result<DescribeRulesOutput, ApiError> {
    let arns = input.rule_arns.unwrap_or_default();
    let mut found: Vec<Rule> = match (input.listener_arn, arns.is_empty()) {
        (Some(arn), true) => {
            let listener = call.listener(&arn).map_err(among_listeners)?;
            let rules = call.rules(&listener.id);
            rules.iter().map(shape).chain([default_shape(&listener)]).collect()
        }
        (None, false) => {
            let rule = |arn: &String| match call.rule(arn) {
                Ok(AnyRule::Own(record)) => Ok(shape(&record)),
                Ok(AnyRule::Default(listener)) => Ok(default_shape(&listener)),
                Err(error) if error.code == "RuleNotFound" => {
                    Err(ApiError::new("RuleNotFound", "One or more rules not found"))
                }
                Err(error) => Err(error),
            };
            arns.iter().map(rule).collect::<Result<_, _>>()?
        }
        _ => return Err(invalid("You must specify either listener rule ARNs or a listener ARN")),
    };
    // Pages are by a key that sorts as rules do: by priority, the default one last.
    let key = |rule: &Rule| {
        let priority = rule.priority.as_deref().and_then(|text| text.parse::<u32>().ok()).unwrap_or(u32::MAX);
        format!("{priority:010}/{}", rule.rule_arn.as_deref().unwrap_or_default())
    };
    found.sort_by_key(key);
    found.dedup();
    let keyed: Vec<(String, Rule)> = found.into_iter().map(|rule| (key(&rule), rule)).collect();
    let (found, next_marker) = page(keyed, |(key, _)| key, input.marker.as_deref(), input.page_size)?;
    Ok(DescribeRulesOutput { rules: Some(found.into_iter().map(|(_, rule)| rule).collect()), next_marker })
}

fn own(call: &Call<'_>, arn: &str, verb: &str) -> Result<RuleRecord, ApiError> {
    match call.rule(arn)? {
        AnyRule::Own(record) => Ok(*record),
        AnyRule::Default(_) => Err(not_permitted(format!("Default rule '{arn}' cannot be {verb}"))),
    }
}

pub(crate) async fn modify(call: &Call<'_>, input: ModifyRuleInput) -> Result<ModifyRuleOutput, ApiError> {
    let arn = given(input.rule_arn);
    let conditions = input.conditions.map(conditions::check).transpose()?;
    if input.reset_transforms == Some(true) && input.transforms.is_some() {
        return Err(invalid("You cannot specify both ResetTransforms and Transforms"));
    }
    let transforms = match input.reset_transforms {
        Some(true) => Some(Vec::new()),
        _ => input.transforms.map(conditions::check_transforms).transpose()?,
    };
    let made = call.decide(|| {
        let mut record = own(call, &arn, "modified; modify its listener")?;
        let id = format!("{}/{}", record.balancer_id, record.listener_id);
        let listener = call.get::<ListenerRecord>(Kind::Listener, &id).ok_or_else(|| no_rule(&arn))?.record;
        let balancer = call.balancer(&listener.balancer_arn())?;
        if let Some(wanted) = &input.actions {
            let place = actions::Place {
                kind: balancer.kind,
                protocol: &listener.protocol,
                vpc_id: &balancer.vpc_id,
            };
            record.actions = actions::check(wanted.clone(), &place, |arn| call.group(arn))?;
            check_groups(call, &balancer.id, &record.id, &record.actions)?;
        }
        if let Some(conditions) = &conditions {
            record.conditions.clone_from(conditions);
        }
        if let Some(transforms) = &transforms {
            record.transforms.clone_from(transforms);
        }
        Ok((Txn::new().put_json(record.key(), &record), record))
    });
    Ok(ModifyRuleOutput { rules: Some(vec![shape(&made.await?)]) })
}

pub(crate) async fn delete(call: &Call<'_>, input: DeleteRuleInput) -> Result<DeleteRuleOutput, ApiError> {
    let arn = given(input.rule_arn);
    call.decide(|| Ok((Txn::new().delete(own(call, &arn, "deleted")?.key()), ()))).await?;
    Ok(DeleteRuleOutput {})
}

/// All at once: two rules may change places.
pub(crate) async fn set_priorities(
    call: &Call<'_>,
    input: SetRulePrioritiesInput,
) -> Result<SetRulePrioritiesOutput, ApiError> {
    let mut wanted = BTreeMap::new();
    for pair in input.rule_priorities.unwrap_or_default() {
        let priority = check_priority(pair.priority)?;
        let arn = given(pair.rule_arn);
        if wanted.insert(arn.clone(), priority).is_some() {
            return Err(invalid(format!("Rule '{arn}' is specified more than once")));
        }
    }
    refuse(&[("an empty list of RulePriorities", wanted.is_empty())])?;
    let made = call.decide(|| {
        let mut changed = Vec::new();
        for (arn, priority) in &wanted {
            let record = own(call, arn, "given a priority")?;
            changed.push(RuleRecord { priority: *priority, ..record });
        }
        let listeners: BTreeSet<&str> = changed.iter().map(|rule| rule.listener_id.as_str()).collect();
        if listeners.len() > 1 {
            return Err(configuration("All rules must belong to the same listener"));
        }
        let mut taken = BTreeSet::new();
        for rule in listeners.iter().flat_map(|listener| call.rules(listener)) {
            if !changed.iter().any(|one| one.id == rule.id) {
                taken.insert(rule.priority);
            }
        }
        let mut txn = Txn::new();
        for rule in &changed {
            if !taken.insert(rule.priority) {
                return Err(in_use(rule.priority));
            }
            txn = txn.put_json(rule.key(), rule);
        }
        Ok((txn, changed))
    });
    Ok(SetRulePrioritiesOutput { rules: Some(made.await?.iter().map(shape).collect()) })
}
