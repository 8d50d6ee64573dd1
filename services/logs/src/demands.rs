//! What a call to CloudWatch Logs needs: `logs:<Operation>` on the log group or stream it is about ("Actions,
//! resources, and condition keys for Amazon CloudWatch Logs", Service Authorization Reference).

use ferrogate_api::{Context, Demand, Value};

use crate::LogsService;
use crate::state::{self, group_arn, group_name_of};

pub(crate) fn of(service: &LogsService, cx: &Context, operation: &'static str, input: &Value) -> Vec<Demand> {
    let action = format!("logs:{operation}");
    let name = group_of(cx, input);
    let mut demands = match (operation, name) {
        // Over any number of groups: AWS evaluates this ARN, which log-group:* and log-group:*:* match.
        ("DescribeLogGroups" | "ListLogGroups", _) => {
            vec![Demand::new(action, group_arn(cx, ":log-stream:"))]
        }
        ("TestMetricFilter", _) => vec![Demand::new(action, "*")],
        // The tagging calls' ARN is the one without `:*` (Overview of managing access permissions, CloudWatch Logs).
        ("TagResource" | "UntagResource" | "ListTagsForResource", Some(name)) => {
            vec![Demand::new(action, group_arn(cx, name))]
        }
        // An ARN that is not of a log group: named as it is.
        ("TagResource" | "UntagResource" | "ListTagsForResource", None) => {
            vec![Demand::new(action, input.get_str("resourceArn").unwrap_or("*"))]
        }
        ("PutLogEvents" | "GetLogEvents" | "DeleteLogStream", Some(name)) => {
            let stream = input.get_str("logStreamName").unwrap_or("*");
            vec![Demand::new(action, format!("{}:log-stream:{stream}", group_arn(cx, name)))]
        }
        // What AWS names in its refusals; `log-group:NAME:*` matches it.
        (_, Some(name)) => vec![Demand::new(action, format!("{}:log-stream:", group_arn(cx, name)))],
        (_, None) => vec![Demand::new(action, "*")],
    };
    if operation == "CreateLogGroup" && input.get("tags").is_some() {
        // "If you specify tags, you must have both logs:CreateLogGroup and logs:TagResource."
        demands.push(Demand::new("logs:TagResource", group_arn(cx, name.unwrap_or("*"))));
    }
    if input.get("unmask").and_then(Value::as_bool) == Some(true) {
        demands.push(Demand::new("logs:Unmask", demands[0].resource.clone()));
    }
    demands.into_iter().map(|demand| with_tags(service, cx, demand, name, input)).collect()
}

fn group_of<'a>(cx: &Context, input: &'a Value) -> Option<&'a str> {
    let identifier =
        ["logGroupIdentifier", "resourceArn"].into_iter().find_map(|member| input.get_str(member));
    input.get_str("logGroupName").or_else(|| identifier.and_then(|identifier| group_name_of(cx, identifier)))
}

fn with_tags(
    service: &LogsService,
    cx: &Context,
    mut demand: Demand,
    name: Option<&str>,
    input: &Value,
) -> Demand {
    if let Some(group) = name.and_then(|name| state::group(service, cx, name).ok()) {
        for (key, value) in group.tags {
            demand = demand.with(format!("aws:ResourceTag/{key}"), [value]);
        }
    }
    match input.get("tags") {
        Some(Value::Map(tags)) => {
            for (key, value) in tags {
                demand = demand.with(format!("aws:RequestTag/{key}"), value.as_str());
            }
            demand.with("aws:TagKeys", tags.iter().map(|(key, _)| key.as_str()))
        }
        // UntagLogGroup's tags are keys.
        Some(Value::List(_)) => demand.with("aws:TagKeys", input.get_strs("tags")),
        _ if input.get("tagKeys").is_some() => demand.with("aws:TagKeys", input.get_strs("tagKeys")),
        _ => demand,
    }
}
