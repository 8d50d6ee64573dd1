//! Conditions and transforms of rules (ELB API reference, `RuleCondition`, `RuleTransform`).

use ferrogate_api::ApiError;
use ferrogate_api::elbv2::*;
use ferrogate_nodeapi as node;
use ipnet::IpNet;
use regex::Regex;

use crate::errors::{configuration, invalid};

/// ELB user guide, "Quotas": condition values and wildcards per rule.
const VALUES_PER_RULE_MAX: usize = 5;
const WILDCARDS_PER_RULE_MAX: usize = 6;
const VALUE_CHARACTERS_MAX: usize = 128;
const NAME_CHARACTERS_MAX: usize = 40;
const REWRITE_CHARACTERS_MAX: usize = 1024;

/// The conditions of one rule in the form in which ELB gives them back.
pub(crate) fn check(conditions: Vec<RuleCondition>) -> Result<Vec<RuleCondition>, ApiError> {
    if conditions.is_empty() {
        return Err(invalid("A condition must be specified"));
    }
    let checked: Vec<RuleCondition> = conditions.into_iter().map(check_one).collect::<Result<_, _>>()?;
    for once in ["host-header", "path-pattern", "http-request-method", "source-ip"] {
        if checked.iter().filter(|condition| condition.field.as_deref() == Some(once)).count() > 1 {
            return Err(invalid(format!("A rule can only have one '{once}' condition")));
        }
    }
    let (mut values, mut wildcards) = (0, 0);
    for condition in &checked {
        for text in texts(condition) {
            values += 1;
            wildcards += unescaped_wildcards(text);
        }
    }
    if values > VALUES_PER_RULE_MAX {
        return Err(invalid(format!("A rule can only have '{VALUES_PER_RULE_MAX}' condition values")));
    }
    if wildcards > WILDCARDS_PER_RULE_MAX {
        return Err(invalid(format!("A rule can only have '{WILDCARDS_PER_RULE_MAX}' condition wildcards")));
    }
    Ok(checked)
}

/// Everything that is matched with, once each.
fn texts(condition: &RuleCondition) -> Vec<&str> {
    let host = condition.host_header_config.as_ref().map(|config| [&config.values, &config.regex_values]);
    let path = condition.path_pattern_config.as_ref().map(|config| [&config.values, &config.regex_values]);
    let header = condition.http_header_config.as_ref().map(|config| [&config.values, &config.regex_values]);
    let method = condition.http_request_method_config.as_ref().map(|config| &config.values);
    let source = condition.source_ip_config.as_ref().map(|config| &config.values);
    let pairs_of = [host, path, header].into_iter().flatten().flatten();
    let lists = pairs_of.chain(method).chain(source);
    let mut texts: Vec<&str> = lists.flatten().flatten().map(String::as_str).collect();
    let pairs = condition.query_string_config.iter().flat_map(|config| config.values.iter().flatten());
    texts.extend(pairs.map(|pair| pair.value.as_deref().unwrap_or_default()));
    texts
}

fn unescaped_wildcards(text: &str) -> usize {
    let mut escaped = false;
    let mut count = 0;
    for character in text.chars() {
        count += usize::from(!escaped && matches!(character, '*' | '?'));
        escaped = !escaped && character == '\\';
    }
    count
}

fn check_one(condition: RuleCondition) -> Result<RuleCondition, ApiError> {
    let field = condition.field.clone().ok_or_else(|| invalid("A condition field must be specified"))?;
    let configs = [
        ("host-header", condition.host_header_config.is_some()),
        ("path-pattern", condition.path_pattern_config.is_some()),
        ("http-header", condition.http_header_config.is_some()),
        ("http-request-method", condition.http_request_method_config.is_some()),
        ("query-string", condition.query_string_config.is_some()),
        ("source-ip", condition.source_ip_config.is_some()),
    ];
    if !configs.iter().any(|(known, _)| *known == field) {
        return Err(invalid(format!(
            "Condition field '{field}' must be one of '[path-pattern, host-header, http-header, http-request-method, query-string, source-ip]'"
        )));
    }
    if let Some((other, _)) = configs.iter().find(|(of, given)| *given && *of != field) {
        return Err(invalid(format!(
            "The configuration of a '{other}' condition cannot be used with the field '{field}'"
        )));
    }
    let has_config = configs.iter().any(|(_, given)| *given);
    // ELB gives both forms back, and takes back what it gave.
    let simple = matches!(field.as_str(), "host-header" | "path-pattern");
    let values = condition.values.filter(|values| !values.is_empty());
    let regexes = condition.regex_values.filter(|values| !values.is_empty());
    if !simple && values.is_some() {
        return Err(invalid(format!(
            "Values cannot be specified directly for the condition field '{field}'"
        )));
    }
    if !simple && field != "http-header" && regexes.is_some() {
        return Err(invalid(format!("Regex values are not supported for the condition field '{field}'")));
    }
    let merged = |of: Option<Vec<String>>, direct: Option<Vec<String>>| match (of, direct) {
        (Some(of), Some(direct)) if of != direct => Err(invalid(format!(
            "You cannot specify different values twice for the condition field '{field}'"
        ))),
        (of, direct) => Ok(of.or(direct).filter(|values| !values.is_empty())),
    };
    let empty = || invalid("A condition value must be specified");
    let mut made = RuleCondition { field: Some(field.clone()), ..RuleCondition::default() };
    match field.as_str() {
        "host-header" => {
            let given = condition.host_header_config.unwrap_or_default();
            let (values, regexes) = (merged(given.values, values)?, merged(given.regex_values, regexes)?);
            matching(&field, values.as_deref(), regexes.as_deref(), host)?;
            made.values = values.clone();
            made.regex_values = regexes.clone();
            made.host_header_config = Some(HostHeaderConditionConfig { values, regex_values: regexes });
        }
        "path-pattern" => {
            let given = condition.path_pattern_config.unwrap_or_default();
            let (values, regexes) = (merged(given.values, values)?, merged(given.regex_values, regexes)?);
            matching(&field, values.as_deref(), regexes.as_deref(), path)?;
            made.values = values.clone();
            made.regex_values = regexes.clone();
            made.path_pattern_config = Some(PathPatternConditionConfig { values, regex_values: regexes });
        }
        _ if !has_config => return Err(empty()),
        "http-header" => {
            let given = condition.http_header_config.unwrap_or_default();
            let name = given.http_header_name.unwrap_or_default();
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || name.len() > NAME_CHARACTERS_MAX || !name.bytes().all(fine) {
                return Err(invalid(format!("The HTTP header name '{name}' is not valid")));
            }
            if name.eq_ignore_ascii_case("host") {
                return Err(invalid(
                    "You cannot use an HTTP header condition for the host header; use 'host-header'",
                ));
            }
            let regexes = merged(given.regex_values, regexes)?;
            let values = given.values.filter(|values| !values.is_empty());
            matching(&field, values.as_deref(), regexes.as_deref(), |_| true)?;
            made.http_header_config = Some(HttpHeaderConditionConfig {
                http_header_name: Some(name),
                values,
                regex_values: regexes,
            });
        }
        "http-request-method" => {
            let given =
                condition.http_request_method_config.and_then(|config| config.values).unwrap_or_default();
            let fine = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_');
            for method in &given {
                if method.is_empty() || method.len() > NAME_CHARACTERS_MAX || !method.bytes().all(fine) {
                    return Err(invalid(format!("The HTTP request method '{method}' is not valid")));
                }
            }
            let values = Some(given).filter(|values| !values.is_empty()).ok_or_else(empty)?;
            made.http_request_method_config = Some(HttpRequestMethodConditionConfig { values: Some(values) });
        }
        "query-string" => {
            let given = condition.query_string_config.and_then(|config| config.values).unwrap_or_default();
            for pair in &given {
                let value =
                    pair.value.as_deref().ok_or_else(|| invalid("A query string value must be specified"))?;
                for text in [pair.key.as_deref().unwrap_or("-"), value] {
                    if text.is_empty() || text.chars().count() > VALUE_CHARACTERS_MAX {
                        return Err(too_long(&field, text));
                    }
                }
            }
            let values = Some(given).filter(|values| !values.is_empty()).ok_or_else(empty)?;
            made.query_string_config = Some(QueryStringConditionConfig { values: Some(values) });
        }
        _ => {
            let given = condition.source_ip_config.unwrap_or_default();
            if given.ip_address_type.is_some() {
                return Err(configuration(
                    "The IP address type of a source IP condition is for network load balancers",
                ));
            }
            let given = given.values.unwrap_or_default();
            for cidr in &given {
                if cidr.parse::<IpNet>().is_err() {
                    return Err(invalid(format!("The source IP '{cidr}' must be in CIDR format")));
                }
            }
            let values = Some(given).filter(|values| !values.is_empty()).ok_or_else(empty)?;
            made.source_ip_config =
                Some(SourceIpConditionConfig { values: Some(values), ip_address_type: None });
        }
    }
    Ok(made)
}

fn too_long(field: &str, value: &str) -> ApiError {
    invalid(format!(
        "The condition value '{value}' of '{field}' must have between '1' and '{VALUE_CHARACTERS_MAX}' characters"
    ))
}

fn matching(
    field: &str,
    values: Option<&[String]>,
    regexes: Option<&[String]>,
    fine: impl Fn(&str) -> bool,
) -> Result<(), ApiError> {
    if values.is_none() && regexes.is_none() {
        return Err(invalid("A condition value must be specified"));
    }
    if values.is_some() && regexes.is_some() {
        return Err(invalid(format!("You cannot specify both values and regex values for '{field}'")));
    }
    for value in values.into_iter().flatten() {
        if value.is_empty() || value.chars().count() > VALUE_CHARACTERS_MAX {
            return Err(too_long(field, value));
        }
        if !fine(value) {
            return Err(invalid(format!("Condition value '{value}' contains a character that is not valid")));
        }
    }
    for value in regexes.into_iter().flatten() {
        if value.is_empty() || value.chars().count() > VALUE_CHARACTERS_MAX {
            return Err(too_long(field, value));
        }
        if let Err(error) = Regex::new(value) {
            return Err(invalid(format!("The regular expression '{value}' is not valid: {error}")));
        }
    }
    Ok(())
}

fn host(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.*?_:".contains(&byte))
}

fn path(value: &str) -> bool {
    value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-.$/~\"'@:+&*?()!,;=%[]{}|^<>\\".contains(&byte))
}

/// Transforms in ELB's form.
pub(crate) fn check_transforms(transforms: Vec<RuleTransform>) -> Result<Vec<RuleTransform>, ApiError> {
    let mut kinds: Vec<&str> = transforms.iter().filter_map(|one| one.r#type.as_deref()).collect();
    let count = kinds.len();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() != count {
        return Err(invalid("A rule can have one transform of each type"));
    }
    for transform in &transforms {
        let kind = transform.r#type.as_deref().unwrap_or_default();
        let rewrites = match (kind, &transform.url_rewrite_config, &transform.host_header_rewrite_config) {
            ("url-rewrite", Some(config), None) => config.rewrites.as_deref(),
            ("host-header-rewrite", None, Some(config)) => config.rewrites.as_deref(),
            ("url-rewrite" | "host-header-rewrite", ..) => None,
            (other, ..) => {
                return Err(invalid(format!(
                    "Transform type '{other}' must be one of 'host-header-rewrite, url-rewrite'"
                )));
            }
        };
        let Some([rewrite]) = rewrites else {
            return Err(invalid(format!(
                "A '{kind}' transform must have exactly one rewrite in its configuration"
            )));
        };
        let regex = rewrite.regex.as_deref().unwrap_or_default();
        let replace = rewrite.replace.as_deref().unwrap_or_default();
        if regex.is_empty() || regex.len() > REWRITE_CHARACTERS_MAX || replace.len() > REWRITE_CHARACTERS_MAX
        {
            return Err(invalid(format!(
                "A rewrite needs a regex; regex and replace have at most '{REWRITE_CHARACTERS_MAX}' characters"
            )));
        }
        if let Err(error) = Regex::new(regex) {
            return Err(invalid(format!("The regular expression '{regex}' is not valid: {error}")));
        }
    }
    Ok(transforms)
}

/// As a node takes it; `None`: none of those that [`check`] lets in (damage).
pub(crate) fn assign(condition: &RuleCondition) -> Option<node::Condition> {
    let list = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
    Some(match condition.field.as_deref()? {
        "host-header" => {
            let config = condition.host_header_config.as_ref()?;
            node::Condition::HostHeader {
                patterns: list(&config.values),
                regexes: list(&config.regex_values),
            }
        }
        "path-pattern" => {
            let config = condition.path_pattern_config.as_ref()?;
            node::Condition::PathPattern {
                patterns: list(&config.values),
                regexes: list(&config.regex_values),
            }
        }
        "http-header" => {
            let config = condition.http_header_config.as_ref()?;
            node::Condition::HttpHeader {
                name: config.http_header_name.clone()?,
                patterns: list(&config.values),
                regexes: list(&config.regex_values),
            }
        }
        "http-request-method" => node::Condition::HttpRequestMethod {
            methods: list(&condition.http_request_method_config.as_ref()?.values),
        },
        "query-string" => {
            let pairs = condition.query_string_config.as_ref()?.values.iter().flatten();
            let pair =
                |pair: &QueryStringKeyValuePair| (pair.key.clone(), pair.value.clone().unwrap_or_default());
            node::Condition::QueryString { pairs: pairs.map(pair).collect() }
        }
        "source-ip" => {
            let cidrs = condition.source_ip_config.as_ref()?.values.iter().flatten();
            node::Condition::SourceIp { cidrs: cidrs.filter_map(|cidr| cidr.parse().ok()).collect() }
        }
        _ => return None,
    })
}

pub(crate) fn assign_transform(transform: &RuleTransform) -> Option<node::Transform> {
    let url = transform.url_rewrite_config.as_ref().and_then(|config| config.rewrites.as_ref());
    let host = transform.host_header_rewrite_config.as_ref().and_then(|config| config.rewrites.as_ref());
    let rewrite = url.or(host)?.first()?;
    let (regex, replace) = (rewrite.regex.clone()?, rewrite.replace.clone().unwrap_or_default());
    Some(match url {
        Some(_) => node::Transform::UrlRewrite { regex, replace },
        None => node::Transform::HostHeaderRewrite { regex, replace },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(field: &str, values: &[&str]) -> RuleCondition {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        RuleCondition { field: Some(field.into()), values: Some(values), ..RuleCondition::default() }
    }

    #[test]
    fn both_forms_come_back_and_are_taken_back() {
        let made = check(vec![simple("path-pattern", &["/img/*"])]).unwrap();
        assert_eq!(made[0].path_pattern_config.as_ref().unwrap().values, made[0].values);
        assert_eq!(check(made.clone()).unwrap(), made);
        assert!(
            matches!(assign(&made[0]), Some(node::Condition::PathPattern { patterns, .. }) if patterns == ["/img/*"])
        );
    }

    #[test]
    fn limits() {
        for (conditions, says) in [
            (vec![], "A condition must be specified"),
            (vec![simple("host-header", &["a b"])], "a character that is not valid"),
            (vec![simple("path-pattern", &["/1", "/2", "/3", "/4", "/5", "/6"])], "'5' condition values"),
            (vec![simple("path-pattern", &["/*?*?", "/***"])], "'6' condition wildcards"),
            (
                vec![simple("host-header", &["a.b"]), simple("host-header", &["c.d"])],
                "only have one 'host-header'",
            ),
            (vec![simple("color", &["red"])], "must be one of"),
            (vec![simple("source-ip", &["10.0.0.0/8"])], "cannot be specified directly"),
            (vec![simple("path-pattern", &[&"x".repeat(129)])], "between '1' and '128'"),
        ] {
            let error = check(conditions).unwrap_err();
            assert!(error.message.contains(says), "{}", error.message);
        }
    }

    #[test]
    fn escaped_wildcards_do_not_count() {
        assert_eq!(unescaped_wildcards(r"a\*b*c\\?"), 2);
    }
}
