//! From text to [`Policy`], refusing with IAM's messages.

use std::{collections::HashSet, sync::Arc};

use crate::{
    condition::Condition,
    document::{DocumentKind, Effect, MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_STATEMENTS, Policy, Set, Statement},
    error::MalformedPolicy,
    json::Json,
    pattern::{ActionPattern, Pattern, Syntax},
    principal::{AwsEntry, PrincipalSpec},
};

type Result<T> = std::result::Result<T, MalformedPolicy>;

/// The elements of one JSON object, each handed out once; what is left over is not of the language.
struct Elements(Vec<(String, Json)>);

impl Elements {
    fn of(json: Json) -> Result<Self> {
        match json {
            Json::Object(members) => Ok(Self(members)),
            _ => Err(MalformedPolicy::syntax()),
        }
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(index).1)
    }

    fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(MalformedPolicy::syntax()) }
    }
}

pub(crate) fn policy(text: &str, kind: DocumentKind) -> Result<Policy> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(MalformedPolicy::new(format!(
            "Policy document must not be longer than {MAX_DOCUMENT_BYTES} bytes, got {}",
            text.len()
        )));
    }
    let json: Json = serde_json::from_str(text).map_err(|_| match kind {
        DocumentKind::Trust => MalformedPolicy::new("This policy contains invalid Json"),
        _ => MalformedPolicy::syntax(),
    })?;
    if json.depth() > MAX_DEPTH {
        return Err(MalformedPolicy::syntax());
    }
    let mut elements = Elements::of(json)?;
    let variables = match elements.take("Version") {
        None => false,
        Some(Json::String(version)) if version == "2008-10-17" => false,
        Some(Json::String(version)) if version == "2012-10-17" => true,
        Some(Json::String(_)) => {
            return Err(MalformedPolicy::new("Policy document must be version 2012-10-17 or greater."));
        }
        Some(_) => return Err(MalformedPolicy::syntax()),
    };
    if let Some(id) = elements.take("Id") {
        string(id)?;
    }
    let list = match elements.take("Statement") {
        Some(Json::Array(list)) => list,
        Some(single @ Json::Object(_)) => vec![single],
        _ => return Err(MalformedPolicy::syntax()),
    };
    elements.end()?;
    if list.is_empty() {
        return Err(MalformedPolicy::syntax());
    }
    if list.len() > MAX_STATEMENTS {
        return Err(MalformedPolicy::new(format!(
            "Policy document must not have more than {MAX_STATEMENTS} statements, got {}",
            list.len()
        )));
    }
    let statements =
        list.into_iter().map(|json| statement(json, kind, variables)).collect::<Result<Vec<_>>>()?;
    let mut sids = HashSet::new();
    for sid in statements.iter().filter_map(|statement| statement.sid.as_ref()) {
        if !sids.insert(sid) {
            return Err(MalformedPolicy::new("Statement IDs (SID) in a single policy must be unique."));
        }
    }
    Ok(Policy { kind, statements })
}

fn statement(json: Json, kind: DocumentKind, variables: bool) -> Result<Statement> {
    let mut elements = Elements::of(json)?;
    let sid = sid(elements.take("Sid"), kind)?;
    let effect = match elements.take("Effect") {
        Some(Json::String(effect)) if effect == "Allow" => Effect::Allow,
        Some(Json::String(effect)) if effect == "Deny" => Effect::Deny,
        _ => return Err(MalformedPolicy::syntax()),
    };
    let principal = principal(elements.take("Principal"), elements.take("NotPrincipal"), kind)?;
    let actions = actions(elements.take("Action"), elements.take("NotAction"), kind)?;
    let resources = resources(elements.take("Resource"), elements.take("NotResource"), kind, variables)?;
    let conditions = match elements.take("Condition") {
        None => Vec::new(),
        Some(json) => conditions(json, variables)?,
    };
    elements.end()?;
    Ok(Statement { sid, effect, principal, actions, resources, conditions })
}

fn sid(json: Option<Json>, kind: DocumentKind) -> Result<Option<Arc<str>>> {
    let Some(json) = json else { return Ok(None) };
    let sid = string(json)?;
    if kind == DocumentKind::Identity && !sid.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(MalformedPolicy::new(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular expression [0-9A-Za-z]*",
        ));
    }
    Ok((!sid.is_empty()).then(|| sid.into()))
}

fn actions(yes: Option<Json>, no: Option<Json>, kind: DocumentKind) -> Result<Set<ActionPattern>> {
    let missing = || {
        MalformedPolicy::new(match kind {
            DocumentKind::Trust => "Missing required field Action",
            _ => "Policy statement must contain actions.",
        })
    };
    let (negated, texts) = either(yes, no)?.ok_or_else(missing)?;
    if texts.is_empty() {
        return Err(missing());
    }
    let mut items = Vec::with_capacity(texts.len());
    for text in texts {
        check_action(&text, kind)?;
        items.push(ActionPattern::parse(&text)?);
    }
    Ok(Set { negated, items })
}

fn check_action(text: &str, kind: DocumentKind) -> Result<()> {
    if kind == DocumentKind::Trust {
        let (service, name) = text.split_once(':').unwrap_or((text, ""));
        let name = name.to_ascii_lowercase();
        let known = ["assumerole", "tagsession", "setsourceidentity", "setcontext", "*"];
        if !service.eq_ignore_ascii_case("sts") || !known.iter().any(|known| name.starts_with(known)) {
            return Err(MalformedPolicy::new("AssumeRole policy may only specify STS AssumeRole actions."));
        }
    }
    if text == "*" {
        return Ok(());
    }
    let Some((vendor, name)) = text.split_once(':') else {
        return Err(MalformedPolicy::new(
            "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
        ));
    };
    if name.contains(':') {
        return Err(MalformedPolicy::new("Actions/Condition can contain only one colon."));
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*' | b'?');
    if vendor.is_empty() || !vendor.bytes().all(good) {
        return Err(MalformedPolicy::new(format!("Vendor {vendor} is not valid")));
    }
    if name.is_empty() || !name.bytes().all(good) {
        return Err(MalformedPolicy::legacy());
    }
    Ok(())
}

fn resources(
    yes: Option<Json>,
    no: Option<Json>,
    kind: DocumentKind,
    variables: bool,
) -> Result<Option<Set<Pattern>>> {
    if kind == DocumentKind::Trust {
        return match (yes, no) {
            (None, None) => Ok(None),
            (Some(_), _) => Err(MalformedPolicy::new("Has prohibited field Resource")),
            (None, Some(_)) => Err(MalformedPolicy::new("Has prohibited field NotResource")),
        };
    }
    let missing = || MalformedPolicy::new("Policy statement must contain resources.");
    let Some((negated, texts)) = either(yes, no)? else {
        return if kind == DocumentKind::Resource { Ok(None) } else { Err(missing()) };
    };
    if texts.is_empty() {
        return Err(missing());
    }
    let mut items = Vec::with_capacity(texts.len());
    for text in texts {
        check_resource(&text)?;
        items.push(Pattern::parse(&text, Syntax::Wildcards, variables)?);
    }
    Ok(Some(Set { negated, items }))
}

fn check_resource(text: &str) -> Result<()> {
    if text == "*" {
        return Ok(());
    }
    let Some(rest) = text.strip_prefix("arn:") else {
        return Err(MalformedPolicy::new(format!("Resource {text} must be in ARN format or \"*\".")));
    };
    let partition = rest.split(':').next().unwrap_or_default();
    if !partition.contains(['*', '?', '$']) && partition != "aws" && !partition.starts_with("aws-") {
        return Err(MalformedPolicy::new(format!(
            "Partition \"{partition}\" is not valid for resource \"{text}\"."
        )));
    }
    // Fewer than six fields can be an ARN only where a wildcard stands for the rest.
    if rest.split(':').count() < 5 && !rest.contains(['*', '?', '$']) {
        return Err(MalformedPolicy::legacy());
    }
    Ok(())
}

fn principal(yes: Option<Json>, no: Option<Json>, kind: DocumentKind) -> Result<Option<PrincipalSpec>> {
    let (json, negated) = match (kind, yes, no) {
        (DocumentKind::Identity, None, None) => return Ok(None),
        (DocumentKind::Identity, ..) => {
            return Err(MalformedPolicy::new("Policy document should not specify a principal."));
        }
        (DocumentKind::Trust, _, Some(_)) => {
            return Err(MalformedPolicy::new("Has prohibited field NotPrincipal"));
        }
        (_, Some(_), Some(_)) => return Err(MalformedPolicy::syntax()),
        (_, None, None) => return Err(MalformedPolicy::new("Missing required field Principal")),
        (_, Some(json), None) => (json, false),
        (_, None, Some(json)) => (json, true),
    };
    let members = match json {
        Json::String(everybody) if everybody == "*" => {
            return Ok(Some(PrincipalSpec { everybody: true, negated, ..PrincipalSpec::default() }));
        }
        Json::Object(members) if !members.is_empty() => members,
        Json::String(text) => {
            return Err(MalformedPolicy::new(format!("Invalid principal in policy: \"STAR\":\"{text}\"")));
        }
        _ => return Err(MalformedPolicy::syntax()),
    };
    let mut spec = PrincipalSpec { negated, ..PrincipalSpec::default() };
    for (name, json) in members {
        let texts = strings(json)?;
        let invalid =
            |text: &str| MalformedPolicy::new(format!("Invalid principal in policy: \"{name}\":\"{text}\""));
        match name.as_str() {
            "AWS" => {
                spec.everybody |= texts.iter().any(|text| text == "*");
                for text in texts.iter().filter(|text| *text != "*") {
                    spec.aws.push(AwsEntry::parse(text).ok_or_else(|| invalid(text))?);
                }
            }
            "Service" | "Federated" => {
                if let Some(bad) = texts.iter().find(|text| text.is_empty() || text.contains(['*', '?'])) {
                    return Err(invalid(bad));
                }
                let list = if name == "Service" { &mut spec.services } else { &mut spec.federated };
                list.extend(texts);
            }
            // S3's canonical user ids: nothing here could ever match one, so it is refused and not ignored.
            "CanonicalUser" => return Err(invalid(texts.first().map_or("", String::as_str))),
            _ => return Err(MalformedPolicy::syntax()),
        }
    }
    Ok(Some(spec))
}

fn conditions(json: Json, variables: bool) -> Result<Vec<Condition>> {
    let mut conditions = Vec::new();
    for (operator, keys) in Elements::of(json)?.0 {
        for (key, values) in Elements::of(keys)?.0 {
            if !key.contains(':') {
                return Err(MalformedPolicy::new(
                    "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.",
                ));
            }
            let values = match values {
                Json::Array(items) => items.into_iter().map(scalar).collect::<Result<Vec<_>>>()?,
                single => vec![scalar(single)?],
            };
            conditions.push(Condition::parse(&operator, &key, &values, variables)?);
        }
    }
    Ok(conditions)
}

/// The element or its `Not…` twin, but not both.
fn either(yes: Option<Json>, no: Option<Json>) -> Result<Option<(bool, Vec<String>)>> {
    match (yes, no) {
        (Some(_), Some(_)) => Err(MalformedPolicy::syntax()),
        (Some(json), None) => Ok(Some((false, strings(json)?))),
        (None, Some(json)) => Ok(Some((true, strings(json)?))),
        (None, None) => Ok(None),
    }
}

fn string(json: Json) -> Result<String> {
    match json {
        Json::String(text) => Ok(text),
        _ => Err(MalformedPolicy::syntax()),
    }
}

fn strings(json: Json) -> Result<Vec<String>> {
    match json {
        Json::Array(items) => items.into_iter().map(string).collect(),
        single => Ok(vec![string(single)?]),
    }
}

fn scalar(json: Json) -> Result<String> {
    match json {
        Json::String(text) | Json::Number(text) => Ok(text),
        Json::Bool(value) => Ok(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => Err(MalformedPolicy::syntax()),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
