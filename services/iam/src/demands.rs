//! What a call to IAM needs: `iam:<Operation>` on the user, group, role or policy it is about ("Actions, resources, and
//! condition keys for AWS Identity and Access Management", Service Authorization Reference).

use std::collections::BTreeMap;

use ferrogate_api::{Context, Demand, PrincipalKind, Value};
use ferrogate_store::get_json;

use crate::IamService;
use crate::state::{
    GroupRecord, Holder, PolicyRecord, RoleRecord, SERVICE_ROLE_PATH, ServerCertificateRecord, UserRecord,
    key,
};

/// What a call is about.
#[derive(Default)]
struct Subject {
    arn: String,
    tags: BTreeMap<String, String>,
    boundary: Option<String>,
}

impl Subject {
    fn named(arn: impl Into<String>) -> Self {
        Self { arn: arn.into(), ..Self::default() }
    }
}

pub(crate) fn of(service: &IamService, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
    let subject = subject(service, cx, operation, input);
    let mut demand = Demand::new(format!("iam:{operation}"), &subject.arn);
    let about_attachment =
        ["RolePolicy", "UserPolicy", "GroupPolicy"].iter().any(|what| operation.ends_with(what));
    if let Some(arn) = input.get_str("PolicyArn").filter(|_| about_attachment) {
        demand = demand.with("iam:PolicyARN", [arn]);
    }
    // The boundary asked for, else the one that is set: who may only touch bounded roles is held to that.
    if let Some(arn) = input.get_str("PermissionsBoundary").or(subject.boundary.as_deref()) {
        demand = demand.with("iam:PermissionsBoundary", [arn]);
    }
    if let Some(name) = input.get_str("AWSServiceName") {
        demand = demand.with("iam:AWSServiceName", [name]);
    }
    for (key, value) in &subject.tags {
        demand = demand.with(format!("aws:ResourceTag/{key}"), [value]);
        demand = demand.with(format!("iam:ResourceTag/{key}"), [value]);
    }
    if let Some(tags) = input.get("Tags").and_then(Value::as_list) {
        let keys: Vec<&str> = tags.iter().filter_map(|tag| tag.get_str("Key")).collect();
        for tag in tags {
            if let (Some(key), Some(value)) = (tag.get_str("Key"), tag.get_str("Value")) {
                demand = demand.with(format!("aws:RequestTag/{key}"), [value]);
            }
        }
        demand = demand.with("aws:TagKeys", keys);
    } else if input.get("TagKeys").is_some() {
        demand = demand.with("aws:TagKeys", input.get_strs("TagKeys"));
    }
    // A new name is a new resource, and it has to be allowed as well.
    match renamed(&subject.arn, input) {
        Some(arn) => vec![Demand { resource: arn, ..demand.clone() }, demand],
        None => vec![demand],
    }
}

/// The ARN that UpdateUser or UpdateGroup makes of this one.
fn renamed(arn: &str, input: &Value) -> Option<String> {
    let (name, path) = (
        ["NewUserName", "NewGroupName", "NewServerCertificateName"]
            .into_iter()
            .find_map(|name| input.get_str(name)),
        input.get_str("NewPath"),
    );
    if name.is_none() && path.is_none() {
        return None;
    }
    let (prefix, resource) = arn.split_once('/')?;
    let (old_path, old_name) = resource.rsplit_once('/').unwrap_or(("", resource));
    let old_path = if old_path.is_empty() { "/".to_owned() } else { format!("/{old_path}/") };
    Some(format!("{prefix}{}{}", path.unwrap_or(&old_path), name.unwrap_or(old_name)))
}

fn subject(service: &IamService, cx: &Context, operation: &str, input: &Value) -> Subject {
    let account = &cx.account;
    let path = || input.get_str("Path").unwrap_or("/");
    if let Some(name) = input.get_str("GroupName") {
        return holder::<GroupRecord>(service, account, name, path());
    }
    if let Some(name) = input.get_str("RoleName") {
        return holder::<RoleRecord>(service, account, name, path());
    }
    if let Some(name) = input.get_str("UserName") {
        return holder::<UserRecord>(service, account, name, path());
    }
    if let Some(name) = input.get_str("ServerCertificateName") {
        let at = key(&service.account, "server-certificate", name);
        let record = get_json::<ServerCertificateRecord>(&*service.store, &at).map(|found| found.record);
        return match record {
            Some(record) => Subject { tags: record.tags.clone(), ..Subject::named(record.arn(account)) },
            None => Subject::named(format!("arn:aws:iam::{account}:server-certificate{}{name}", path())),
        };
    }
    if let Some(arn) = input.get_str("PolicySourceArn") {
        return Subject::named(arn);
    }
    if let Some(arn) = input.get_str("PolicyArn") {
        let name = arn.rsplit('/').next().unwrap_or_default();
        let record = get_json::<PolicyRecord>(&*service.store, &key(&service.account, "policy", name));
        let record = record.map(|found| found.record).filter(|record| record.arn(&service.account) == arn);
        let tags = record.map(|record| record.tags).unwrap_or_default();
        return Subject { tags, ..Subject::named(arn) };
    }
    if let Some(name) = input.get_str("PolicyName") {
        return Subject::named(format!("arn:aws:iam::{account}:policy{}{name}", path()));
    }
    if let Some(name) = input.get_str("AWSServiceName") {
        return Subject::named(format!("arn:aws:iam::{account}:role{SERVICE_ROLE_PATH}{name}/*"));
    }
    // task/aws-service-role/<service>/<role>/<proof>
    if let Some(id) = input.get_str("DeletionTaskId") {
        let role: Vec<&str> = id.splitn(5, '/').skip(1).take(3).collect();
        return Subject::named(format!("arn:aws:iam::{account}:role/{}", role.join("/")));
    }
    let below = |kind: &str| {
        let path = input.get_str("PathPrefix").unwrap_or("/");
        Subject::named(format!("arn:aws:iam::{account}:{kind}{path}"))
    };
    match operation {
        "ListUsers" => return below("user"),
        "ListRoles" => return below("role"),
        "ListGroups" => return below("group"),
        "ListServerCertificates" => return below("server-certificate"),
        _ => {}
    }
    // Operations about the caller when they name nobody.
    let about_caller = operation.contains("AccessKey") || operation == "GetUser";
    match &cx.principal.kind {
        PrincipalKind::User { name } if about_caller => holder::<UserRecord>(service, account, name, "/"),
        _ => Subject::named("*"),
    }
}

/// One that is there, with its tags and boundary; else the one that would be made.
fn holder<T: Holder>(service: &IamService, account: &str, name: &str, path: &str) -> Subject {
    match service.holder::<T>(name) {
        Some(found) => Subject {
            arn: found.arn(&service.account),
            tags: found.held().tags.clone(),
            boundary: found.held().boundary.clone(),
        },
        None => Subject::named(format!("arn:aws:iam::{account}:{}{path}{name}", T::KIND)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_name_is_a_new_arn() {
        let input =
            |name: &'static str, value: &str| Value::Struct(vec![(name, Value::String(value.into()))]);
        let at = |resource: &str| format!("arn:aws:iam::123456789012:user/{resource}");
        for (old, member, value, new) in [
            ("a/b/old", "NewUserName", "new", Some("a/b/new")),
            ("old", "NewUserName", "new", Some("new")),
            ("a/old", "NewPath", "/", Some("old")),
            ("old", "NewPath", "/a/", Some("a/old")),
            ("old", "UserName", "old", None),
        ] {
            assert_eq!(renamed(&at(old), &input(member, value)), new.map(at), "{old} {member} {value}");
        }
    }
}
