//! What a call to IAM needs: `iam:<Operation>` on the user, role or policy it is about ("Actions, resources, and
//! condition keys for AWS Identity and Access Management", Service Authorization Reference).

use ferrogate_api::{Context, Demand, PrincipalKind, Value};
use ferrogate_store::get_json;

use crate::IamService;
use crate::state::{Holder, RoleRecord, UserRecord, key};

pub(crate) fn of(service: &IamService, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
    let mut demand = Demand::new(format!("iam:{operation}"), resource(service, cx, operation, input));
    if let Some(arn) = input.get_str("PolicyArn").filter(|_| operation.contains("RolePolicy") || operation.contains("UserPolicy")) {
        demand = demand.with("iam:PolicyARN", [arn]);
    }
    if let Some(arn) = input.get_str("PermissionsBoundary") {
        demand = demand.with("iam:PermissionsBoundary", [arn]);
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
    vec![demand]
}

fn resource(service: &IamService, cx: &Context, operation: &str, input: &Value) -> String {
    let account = &cx.account;
    let path = || input.get_str("Path").unwrap_or("/");
    if let Some(name) = input.get_str("RoleName") {
        return existing::<RoleRecord>(service, name)
            .unwrap_or_else(|| format!("arn:aws:iam::{account}:role{}{name}", path()));
    }
    if let Some(name) = input.get_str("UserName") {
        return existing::<UserRecord>(service, name)
            .unwrap_or_else(|| format!("arn:aws:iam::{account}:user{}{name}", path()));
    }
    if let Some(arn) = input.get_str("PolicyArn") {
        return arn.to_owned();
    }
    if let Some(name) = input.get_str("PolicyName") {
        return format!("arn:aws:iam::{account}:policy{}{name}", path());
    }
    // Operations about the caller when they name nobody.
    let about_caller = operation.contains("AccessKey") || operation == "GetUser";
    match &cx.principal.kind {
        PrincipalKind::User { .. } if about_caller => cx.principal.arn.clone(),
        _ => "*".into(),
    }
}

fn existing<T: Holder>(service: &IamService, name: &str) -> Option<String> {
    let found = get_json::<T>(&*service.store, &key(&service.account, T::KIND, name))?;
    Some(found.record.arn(&service.account))
}
