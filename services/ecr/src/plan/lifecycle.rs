//! Lifecycle policies: read, and held against images ("Lifecycle policy properties in Amazon ECR").
//!
//! Rules are evaluated all at once and applied by priority: an image that a rule of a higher priority (a smaller
//! number) speaks about is never touched by a lower one, and counts for nobody else's number of images.

use std::collections::BTreeSet;

use ferrogate_model::wildcard_match;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

const RULES_MAX: usize = 50;
const LIST_MAX: usize = 200;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Lifecycle policy validation failure: {0}")]
pub(crate) struct LifecycleError(String);

fn refuse<T>(why: impl Into<String>) -> Result<T, LifecycleError> {
    Err(LifecycleError(why.into()))
}

#[derive(Debug, PartialEq)]
pub(crate) struct Policy {
    /// By priority.
    rules: Vec<Rule>,
}

#[derive(Debug, PartialEq)]
struct Rule {
    priority: i32,
    selects: Selects,
    count: Count,
}

#[derive(Debug, PartialEq)]
enum Selects {
    Any,
    Untagged,
    Prefixes(Vec<String>),
    Patterns(Vec<String>),
}

#[derive(Debug, PartialEq)]
enum Count {
    MoreThan(usize),
    OlderThan(SignedDuration),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    rules: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleText {
    rule_priority: i32,
    #[serde(default, rename = "description")]
    _description: Option<String>,
    selection: SelectionText,
    action: ActionText,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SelectionText {
    tag_status: String,
    tag_prefix_list: Option<Vec<String>>,
    tag_pattern_list: Option<Vec<String>>,
    count_type: String,
    count_unit: Option<String>,
    count_number: i64,
    storage_class: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ActionText {
    r#type: String,
    target_storage_class: Option<String>,
}

impl Policy {
    pub(crate) fn parse(text: &str) -> Result<Self, LifecycleError> {
        let parsed: PolicyText =
            serde_json::from_str(text).map_err(|error| LifecycleError(error.to_string()))?;
        if parsed.rules.is_empty() || parsed.rules.len() > RULES_MAX {
            return refuse(format!("a policy has 1 to {RULES_MAX} rules, not {}", parsed.rules.len()));
        }
        let mut rules = parsed.rules.into_iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        rules.sort_by_key(|rule| rule.priority);
        if let Some(pair) = rules.windows(2).find(|pair| pair[0].priority == pair[1].priority) {
            return refuse(format!("rulePriority {} is there twice; it must be unique", pair[0].priority));
        }
        if rules.iter().filter(|rule| rule.selects == Selects::Untagged && rule.count_kind() == 0).count() > 1
            || rules.iter().filter(|rule| rule.selects == Selects::Untagged && rule.count_kind() == 1).count()
                > 1
        {
            return refuse("only one rule of each countType may have tagStatus 'untagged'");
        }
        if let Some(any) = rules.iter().position(|rule| rule.selects == Selects::Any)
            && any + 1 != rules.len()
        {
            return refuse(
                "a rule with tagStatus 'any' must be the only one and have the highest rulePriority",
            );
        }
        Ok(Self { rules })
    }
}

impl Rule {
    fn count_kind(&self) -> u8 {
        u8::from(matches!(self.count, Count::OlderThan(_)))
    }
}

fn rule(text: RuleText) -> Result<Rule, LifecycleError> {
    let priority = text.rule_priority;
    let at = |why: String| LifecycleError(format!("rule with rulePriority {priority}: {why}"));
    if priority < 1 {
        return Err(at("rulePriority must be 1 or more".into()));
    }
    if text.action.r#type != "expire" || text.action.target_storage_class.is_some() {
        return Err(at(format!(
            "action type '{}': Ferrogate supports 'expire', without a targetStorageClass",
            text.action.r#type
        )));
    }
    let selection = text.selection;
    if selection.storage_class.as_deref().is_some_and(|class| class != "standard") {
        return Err(at("storageClass: Ferrogate has 'standard' and no archive".into()));
    }
    let prefixes = selection.tag_prefix_list.filter(|list| !list.is_empty());
    let patterns = selection.tag_pattern_list.filter(|list| !list.is_empty());
    for list in [&prefixes, &patterns].into_iter().flatten() {
        if list.len() > LIST_MAX {
            return Err(at(format!("a list of tags has up to {LIST_MAX} entries")));
        }
        if let Some(bad) = list.iter().find(|entry| entry.is_empty() || entry.len() > 128) {
            return Err(at(format!("'{bad}' in a list of tags is not of 1 to 128 characters")));
        }
    }
    if let Some(bad) = patterns.iter().flatten().find(|pattern| pattern.matches('*').count() > 4) {
        return Err(at(format!("'{bad}' has more than 4 wildcards")));
    }
    let selects = match (selection.tag_status.as_str(), prefixes, patterns) {
        ("any", None, None) => Selects::Any,
        ("untagged", None, None) => Selects::Untagged,
        ("tagged", Some(prefixes), None) => Selects::Prefixes(prefixes),
        ("tagged", None, Some(patterns)) => Selects::Patterns(patterns),
        ("tagged", None, None) => {
            return Err(at("tagStatus 'tagged' needs a tagPatternList or a tagPrefixList".into()));
        }
        ("tagged", ..) => {
            return Err(at("tagPatternList and tagPrefixList cannot be used together".into()));
        }
        ("any" | "untagged", ..) => {
            return Err(at("a tagPatternList or tagPrefixList needs tagStatus 'tagged'".into()));
        }
        (other, ..) => {
            return Err(at(format!("tagStatus '{other}' is not one of 'tagged', 'untagged', 'any'")));
        }
    };
    let number = selection.count_number;
    if !(1..=100_000).contains(&number) {
        return Err(at(format!("countNumber {number} is not between 1 and 100000")));
    }
    let count = match (selection.count_type.as_str(), selection.count_unit.as_deref()) {
        ("imageCountMoreThan", None) => Count::MoreThan(number as usize),
        ("imageCountMoreThan", Some(_)) => {
            return Err(at("countUnit is for countType 'sinceImagePushed' only".into()));
        }
        ("sinceImagePushed", Some("days")) => Count::OlderThan(SignedDuration::from_hours(24 * number)),
        ("sinceImagePushed", _) => {
            return Err(at("countType 'sinceImagePushed' needs countUnit 'days'".into()));
        }
        (other, _) => {
            return Err(at(format!(
                "countType '{other}': Ferrogate supports 'imageCountMoreThan' and 'sinceImagePushed'"
            )));
        }
    };
    Ok(Rule { priority, selects, count })
}

/// An image as a policy sees it.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) tags: Vec<String>,
    pub(crate) pushed_at: Timestamp,
    /// Of an index: it keeps them.
    pub(crate) children: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expiry {
    pub(crate) digest: String,
    pub(crate) priority: i32,
}

/// Which images a policy would have go, by digest. Images that an index names stay as long as it does.
pub(crate) fn expiries(policy: &Policy, images: &[Image], now: Timestamp) -> Vec<Expiry> {
    let named: BTreeSet<&str> = images.iter().flat_map(|image| &image.children).map(String::as_str).collect();
    let mut left: Vec<&Image> =
        images.iter().filter(|image| !named.contains(image.digest.as_str())).collect();
    // Newest first; the digest decides between equals, so that every run decides alike.
    left.sort_by(|a, b| b.pushed_at.cmp(&a.pushed_at).then_with(|| a.digest.cmp(&b.digest)));
    let mut found = Vec::new();
    for rule in &policy.rules {
        let (selected, rest): (Vec<&Image>, Vec<&Image>) =
            left.into_iter().partition(|image| selects(&rule.selects, &image.tags));
        left = rest;
        let expired: Vec<&Image> = match &rule.count {
            Count::MoreThan(count) => selected.into_iter().skip(*count).collect(),
            Count::OlderThan(age) => {
                let (old, young) =
                    selected.into_iter().partition(|image| now.duration_since(image.pushed_at) > *age);
                let _: Vec<&Image> = young;
                old
            }
        };
        found.extend(
            expired.into_iter().map(|image| Expiry { digest: image.digest.clone(), priority: rule.priority }),
        );
    }
    found.sort_by(|a, b| a.digest.cmp(&b.digest));
    found
}

fn selects(selects: &Selects, tags: &[String]) -> bool {
    match selects {
        Selects::Any => true,
        Selects::Untagged => tags.is_empty(),
        // "Images must match all of the patterns or prefixes": each by one of its tags.
        Selects::Prefixes(prefixes) => {
            prefixes.iter().all(|prefix| tags.iter().any(|tag| tag.starts_with(prefix)))
        }
        Selects::Patterns(patterns) => {
            patterns.iter().all(|pattern| tags.iter().any(|tag| wildcard_match(pattern, tag)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn policy(rules: Value) -> Policy {
        Policy::parse(&json!({ "rules": rules }).to_string()).unwrap()
    }

    fn rule_of(priority: i32, selection: Value) -> Value {
        json!({ "rulePriority": priority, "selection": selection, "action": { "type": "expire" } })
    }

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + day * 86_400).unwrap()
    }

    fn image(name: &str, pushed: i64, tags: &[&str]) -> Image {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Image { digest: name.into(), tags, pushed_at: day(pushed), children: Vec::new() }
    }

    fn gone(policy: &Policy, images: &[Image], now: i64) -> Vec<(String, i32)> {
        expiries(policy, images, day(now)).into_iter().map(|e| (e.digest, e.priority)).collect()
    }

    #[test]
    fn by_number_the_oldest_go() {
        let policy = policy(json!([rule_of(
            1,
            json!({ "tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 2 })
        )]));
        let images = [image("a", 1, &[]), image("b", 2, &["x"]), image("c", 3, &[]), image("d", 4, &[])];
        assert_eq!(gone(&policy, &images, 9), [("a".into(), 1), ("b".into(), 1)]);
    }

    #[test]
    fn by_age_and_only_what_is_selected() {
        let policy = policy(json!([rule_of(
            5,
            json!({
                "tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 3
            })
        )]));
        let images = [image("a", 1, &[]), image("b", 1, &["x"]), image("c", 7, &[]), image("d", 6, &[])];
        assert_eq!(gone(&policy, &images, 9), [("a".into(), 5)]);
    }

    #[test]
    fn a_higher_priority_keeps_its_images_from_lower_ones() {
        let policy = policy(json!([
            rule_of(2, json!({ "tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1 })),
            rule_of(
                1,
                json!({ "tagStatus": "tagged", "tagPrefixList": ["prod"], "countType": "imageCountMoreThan", "countNumber": 5 })
            ),
        ]));
        let images = [image("p", 1, &["prod-1"]), image("a", 2, &["dev"]), image("b", 3, &["dev2"])];
        assert_eq!(gone(&policy, &images, 9), [("a".into(), 2)]);
    }

    #[test]
    fn every_pattern_has_to_be_met() {
        let policy = policy(json!([rule_of(
            1,
            json!({
                "tagStatus": "tagged", "tagPatternList": ["*alpha*", "v1*"], "countType": "sinceImagePushed",
                "countUnit": "days", "countNumber": 1
            })
        )]));
        let images =
            [image("a", 1, &["xalphay"]), image("b", 1, &["alpha", "v1.2"]), image("c", 1, &["v1-alpha"])];
        assert_eq!(gone(&policy, &images, 9), [("b".into(), 1), ("c".into(), 1)]);
    }

    #[test]
    fn what_an_index_names_stays_with_it() {
        let policy = policy(json!([rule_of(
            1,
            json!({ "tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 1 })
        )]));
        let mut index = image("i", 1, &["latest"]);
        index.children = vec!["child".into()];
        assert_eq!(gone(&policy, &[index, image("child", 1, &[]), image("x", 1, &[])], 9), [("x".into(), 1)]);
    }

    #[test]
    fn what_is_refused() {
        let any = json!({ "tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1 });
        let with = |name: &str, value: Value| {
            let mut selection = any.clone();
            selection[name] = value;
            json!([rule_of(1, selection)])
        };
        for (rules, part) in [
            (json!([]), "1 to 50 rules"),
            (json!([rule_of(0, any.clone())]), "1 or more"),
            (json!([rule_of(1, any.clone()), rule_of(1, any.clone())]), "unique"),
            (json!([rule_of(1, any.clone()), rule_of(2, any.clone())]), "highest rulePriority"),
            (with("tagStatus", json!("tagged")), "needs a tagPatternList"),
            (with("tagStatus", json!("some")), "'some'"),
            (with("tagPrefixList", json!(["a"])), "needs tagStatus 'tagged'"),
            (with("countUnit", json!("days")), "countUnit"),
            (with("countType", json!("sinceImagePulled")), "supports"),
            (with("countNumber", json!(0)), "countNumber 0"),
            (with("surprise", json!(0)), "surprise"),
        ] {
            let error = Policy::parse(&json!({ "rules": rules }).to_string()).unwrap_err().to_string();
            assert!(error.contains(part), "{error} has no {part}");
        }
    }

    proptest! {
        /// However many there are: a rule of a number keeps that many, and keeps the newest.
        #[test]
        fn the_newest_stay(pushed in proptest::collection::vec(0i64..50, 0..40), keep in 1usize..10) {
            let policy = policy(json!([rule_of(1, json!({ "tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": keep }))]));
            let images: Vec<_> = pushed.iter().enumerate().map(|(n, at)| image(&format!("{n:03}"), *at, &[])).collect();
            let gone = gone(&policy, &images, 99);
            prop_assert_eq!(gone.len(), images.len().saturating_sub(keep));
            let is_gone = |image: &&Image| gone.iter().any(|(digest, _)| *digest == image.digest);
            let oldest_kept = images.iter().filter(|image| !is_gone(image)).map(|image| image.pushed_at).min();
            let newest_gone = images.iter().filter(is_gone).map(|image| image.pushed_at).max();
            prop_assert!(newest_gone <= oldest_kept || newest_gone.is_none());
        }
    }
}
