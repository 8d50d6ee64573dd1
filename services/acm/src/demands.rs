//! The rights each call needs (Service Authorization Reference, "AWS Certificate Manager").

use ferrogate_api::{Context, Demand, Value};
use ferrogate_store::get_json;

use crate::AcmService;
use crate::state::{self, CertificateRecord};

pub(crate) fn of(service: &AcmService, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
    let resource = match (operation, input.get_str("CertificateArn")) {
        (_, Some(arn)) => arn.to_owned(),
        ("ImportCertificate", None) => format!("arn:aws:acm:{}:{}:certificate/*", cx.region, cx.account),
        _ => "*".to_owned(),
    };
    let mut demand = Demand::new(format!("acm:{operation}"), &resource);
    let record =
        state::key_of(&resource).and_then(|key| get_json::<CertificateRecord>(&*service.store, &key));
    for (key, value) in record.map(|found| found.record.tags).unwrap_or_default() {
        demand = demand.with(format!("aws:ResourceTag/{key}"), [value]);
    }
    let tags = input.get("Tags").and_then(Value::as_list);
    let mut all = Vec::new();
    if let Some(tags) = tags {
        for tag in tags {
            if let Some(key) = tag.get_str("Key") {
                demand =
                    demand.with(format!("aws:RequestTag/{key}"), [tag.get_str("Value").unwrap_or_default()]);
            }
        }
        demand = demand.with("aws:TagKeys", tags.iter().filter_map(|tag| tag.get_str("Key")));
        if operation == "ImportCertificate" {
            all.push(Demand { action: "acm:AddTagsToCertificate".into(), ..demand.clone() });
        }
    }
    all.push(demand);
    all
}
