//! One file per resource: validate → transaction.

pub(crate) mod account;
pub(crate) mod attributes;
pub(crate) mod balancer_targets;
pub(crate) mod balancers;
pub(crate) mod certificates;
pub(crate) mod listeners;
pub(crate) mod places;
pub(crate) mod rules;
pub(crate) mod tags;
pub(crate) mod target_groups;
pub(crate) mod targets;

use std::collections::BTreeSet;

use ferrogate_api::ApiError;
use ferrogate_model::paginate;

use crate::call::Call;
use crate::errors::{configuration, invalid};
use crate::plan::actions;

/// ELB API reference: `PageSize`.
const PAGE_MAX: usize = 400;
/// ELB user guides, "Quotas".
const GROUPS_PER_BALANCER_MAX: usize = 100;

/// A page of sorted items, with ELB's marker.
pub(crate) fn page<T>(
    items: Vec<T>,
    key: impl Fn(&T) -> &str,
    marker: Option<&str>,
    size: Option<i32>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let limit = usize::try_from(size.unwrap_or(PAGE_MAX as i32)).unwrap_or(1).clamp(1, PAGE_MAX);
    let page = paginate(items, key, marker, limit).map_err(|_| invalid("The marker is not valid"))?;
    Ok((page.items, page.next_token))
}

/// Names of balancers and target groups; `called` as ELB's messages begin.
pub(crate) fn check_name(name: &str, called: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(invalid(format!("{called} cannot be empty")));
    }
    if name.len() > 32 {
        return Err(invalid(format!("{called} '{name}' cannot be longer than '32' characters")));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(invalid(format!(
            "{called} '{name}' can only contain characters that are alphanumeric characters or hyphens(-)"
        )));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(invalid(format!("{called} '{name}' cannot begin or end with a hyphen(-)")));
    }
    Ok(())
}

/// Sixteen hexadecimal digits.
pub(crate) fn new_id() -> String {
    ferrogate_model::hex_id()[..16].to_owned()
}

/// All target groups that a balancer forwards to, with one listener's (or rule's) actions as they shall be.
fn groups_of(call: &Call<'_>, balancer_id: &str, leave_out: &str) -> BTreeSet<String> {
    let mut groups = BTreeSet::new();
    for listener in call.listeners(balancer_id) {
        if listener.id != leave_out {
            groups.extend(actions::groups(&listener.actions).map(str::to_owned));
        }
        for rule in call.rules(&listener.id) {
            if rule.id != leave_out {
                groups.extend(actions::groups(&rule.actions).map(str::to_owned));
            }
        }
    }
    groups
}

/// What new actions may not do: share a group with another balancer, or have too many. `replaced`: the id of the
/// listener or rule whose actions these become.
pub(crate) fn check_groups(
    call: &Call<'_>,
    balancer_id: &str,
    replaced: &str,
    wanted: &[ferrogate_api::elbv2::Action],
) -> Result<(), ApiError> {
    let wanted: BTreeSet<String> = actions::groups(wanted).map(str::to_owned).collect();
    for other in call.balancers().iter().filter(|other| other.id != balancer_id) {
        let theirs = groups_of(call, &other.id, "");
        if let Some(arn) = wanted.intersection(&theirs).next() {
            return Err(ApiError::new(
                "TargetGroupAssociationLimit",
                format!(
                    "The following target groups cannot be associated with more than one load balancer: {arn}"
                ),
            ));
        }
    }
    balancer_targets::check_associations(call, balancer_id, &wanted)?;
    let mut all = groups_of(call, balancer_id, replaced);
    all.extend(wanted);
    if all.len() > GROUPS_PER_BALANCER_MAX {
        return Err(ApiError::new(
            "TooManyUniqueTargetGroupsPerLoadBalancer",
            format!("A load balancer can forward to at most '{GROUPS_PER_BALANCER_MAX}' target groups"),
        ));
    }
    Ok(())
}

/// Which balancers forward to each group, by group ARN.
pub(crate) fn balancers_by_group(call: &Call<'_>) -> std::collections::BTreeMap<String, Vec<String>> {
    let mut by: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    for balancer in call.balancers() {
        for arn in groups_of(call, &balancer.id, "") {
            by.entry(arn).or_default().push(balancer.arn());
        }
    }
    by
}

/// `(key, value)` of attributes given; both are needed.
pub(crate) fn pairs(
    given: impl IntoIterator<Item = (Option<String>, Option<String>)>,
) -> Result<Vec<(String, String)>, ApiError> {
    let pair = |(key, value): (Option<String>, Option<String>)| match key {
        Some(key) => Ok((key, value.unwrap_or_default())),
        None => Err(configuration("An attribute key must be specified")),
    };
    given.into_iter().map(pair).collect()
}
