//! `ferrogate logs TASK`: from CloudWatch Logs where the task has awslogs, else from what the node keeps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ferrogate_sandbox::{LogRecord, read_logs};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Logs;
use crate::client::{Ask, Client, ask};
use crate::commands::ps;
use crate::data::DataDir;

const FOLLOW_PERIOD: Duration = Duration::from_millis(500);

pub(crate) fn run(options: &Logs) -> Result<()> {
    let data = DataDir::new(&options.place.data_dir)?;
    super::block_on(print(&data, options))
}

async fn print(data: &DataDir, options: &Logs) -> Result<()> {
    let task = find(data, &options.task).await?;
    let client = Client::of(data)?;
    let definition =
        client.ecs("DescribeTaskDefinition", json!({ "taskDefinition": task["taskDefinitionArn"] })).await?;
    let id = task["taskArn"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned();
    let containers: Vec<Value> = definition["taskDefinition"]["containerDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|container| options.container.as_deref().is_none_or(|name| container["name"] == name))
        .cloned()
        .collect();
    let proxy = proxy(&client, &task, &id).await?;
    let proxy = proxy.filter(|(name, _)| options.container.as_ref().is_none_or(|wanted| wanted == name));
    if containers.is_empty() && proxy.is_none() {
        bail!("task {id} has no container '{}'", options.container.as_deref().unwrap_or_default());
    }
    let kept = ask(data, &Ask::Task { id: id.clone() })?;
    let mut sources: Vec<(String, Source)> = Vec::new();
    for container in &containers {
        let name = container["name"].as_str().unwrap_or_default().to_owned();
        let source = match &container["logConfiguration"]["options"] {
            Value::Object(logs) => Source::CloudWatch {
                group: logs["awslogs-group"].clone(),
                stream: format!("{}/{name}/{id}", logs["awslogs-stream-prefix"].as_str().unwrap_or_default()),
                token: None,
            },
            _ => Source::Kept {
                dirs: serde_json::from_value(kept["output"][&name].clone()).unwrap_or_default(),
                offset: 0,
            },
        };
        sources.push((name, source));
    }
    let of_proxy = proxy.as_ref().map(|(name, _)| name.clone());
    sources.extend(proxy);
    let prefixed = sources.len() > 1;
    loop {
        for (name, source) in &mut sources {
            let lines = match source.next(&client).await {
                // Who calls nobody has no proxy, and one that has said nothing so far has no stream.
                Err(error) if Some(&*name) == of_proxy.as_ref() && is_missing(&error) => Vec::new(),
                lines => lines?,
            };
            for Line { at, text } in lines {
                let container = if prefixed { format!("{name} | ") } else { String::new() };
                match at.filter(|_| options.timestamps) {
                    Some(at) => println!("{container}{at:.6} {text}"),
                    None => println!("{container}{text}"),
                }
            }
        }
        if !options.follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_PERIOD).await;
    }
}

/// The task's Service Connect proxy, where its service says where it is heard: it is no container, and named as one all the same.
async fn proxy(client: &Client, task: &Value, id: &str) -> Result<Option<(String, Source)>> {
    let attachments = task["attachments"].as_array().into_iter().flatten();
    let mut details = attachments
        .filter(|attachment| attachment["type"] == "ServiceConnect")
        .flat_map(|attachment| attachment["details"].as_array().into_iter().flatten());
    let name =
        details.find(|detail| detail["name"] == "ContainerName").and_then(|detail| detail["value"].as_str());
    let service = task["group"].as_str().and_then(|group| group.strip_prefix("service:"));
    let (Some(name), Some(service)) = (name, service) else { return Ok(None) };
    let input = json!({ "cluster": task["clusterArn"], "services": [service] });
    let answer = client.ecs("DescribeServices", input).await?;
    // A task of a deployment that is forgotten has a configuration that is as well.
    let deployments = answer["services"][0]["deployments"].as_array().into_iter().flatten();
    let mut own = deployments.filter(|deployment| deployment["id"] == task["startedBy"]);
    let logs = own
        .next()
        .map(|deployment| &deployment["serviceConnectConfiguration"]["logConfiguration"]["options"]);
    let Some(Value::Object(logs)) = logs else { return Ok(None) };
    let prefix = logs["awslogs-stream-prefix"].as_str().unwrap_or_default();
    let source = Source::CloudWatch {
        group: logs["awslogs-group"].clone(),
        stream: format!("{prefix}/{name}/{id}"),
        token: None,
    };
    Ok(Some((name.to_owned(), source)))
}

/// The task whose id starts so.
pub(crate) async fn find(data: &DataDir, given: &str) -> Result<Value> {
    let id = given.rsplit('/').next().unwrap_or(given);
    let all = ps::tasks(data, None, true).await?;
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    for task in all {
        let arn = task["taskArn"].as_str().unwrap_or_default().to_owned();
        if arn.rsplit('/').next().is_some_and(|of| of.starts_with(id)) {
            found.insert(arn, task);
        }
    }
    match found.len() {
        1 => found.into_values().next().context("one task"),
        0 => bail!("no task starts with '{given}': `ferrogate ps --all` lists them"),
        many => bail!("{many} tasks start with '{given}': give more of the id"),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.to_string().starts_with("ResourceNotFoundException")
}

struct Line {
    at: Option<Timestamp>,
    text: String,
}

enum Source {
    CloudWatch { group: Value, stream: String, token: Option<String> },
    Kept { dirs: Vec<PathBuf>, offset: u64 },
}

impl Source {
    /// What has come since the last time.
    async fn next(&mut self, client: &Client) -> Result<Vec<Line>> {
        match self {
            Self::CloudWatch { group, stream, token } => {
                let mut lines = Vec::new();
                loop {
                    let mut input =
                        json!({ "logGroupName": group, "logStreamName": stream, "startFromHead": true });
                    if let Some(token) = token {
                        input["nextToken"] = token.clone().into();
                    }
                    let answer = client.logs("GetLogEvents", input).await?;
                    let events = answer["events"].as_array().cloned().unwrap_or_default();
                    lines.extend(events.iter().map(|event| Line {
                        at: event["timestamp"].as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok()),
                        text: event["message"].as_str().unwrap_or_default().to_owned(),
                    }));
                    let next = answer["nextForwardToken"].as_str().map(str::to_owned);
                    if next == *token || next.is_none() {
                        return Ok(lines);
                    }
                    *token = next;
                }
            }
            Self::Kept { dirs, offset } => {
                let mut lines = Vec::new();
                // While it runs in one place, afterwards in the other.
                let Some(dir) = dirs.iter().find(|dir| dir.exists()) else { return Ok(lines) };
                let records = read_logs(dir, *offset).with_context(|| format!("{}", dir.display()))?;
                for record in records {
                    *offset = record.next_offset();
                    let (at_ns, text) = match record {
                        LogRecord::Line { timestamp_ns, bytes, .. } => {
                            (timestamp_ns, String::from_utf8_lossy(&bytes).into_owned())
                        }
                        LogRecord::Dropped { timestamp_ns, bytes, .. } => {
                            (timestamp_ns, format!("[{bytes} bytes were dropped]"))
                        }
                    };
                    lines.push(Line { at: Timestamp::from_nanosecond(i128::from(at_ns)).ok(), text });
                }
                Ok(lines)
            }
        }
    }
}
