//! `ferrogate ps`

use anyhow::Result;
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::Ps;
use crate::client::{Ask, Client, ask};
use crate::data::DataDir;

const DESCRIBED_MAX: usize = 100;

pub(crate) fn run(options: &Ps) -> Result<()> {
    if let Some(task) = &options.timing {
        return super::timing::run(options, task);
    }
    let data = DataDir::new(&options.place.data_dir)?;
    let tasks = super::block_on(tasks(&data, options.cluster.as_deref(), options.all))?;
    // What only the node knows; tasks are listed without it as well.
    let node = ask(&data, &Ask::Status).unwrap_or_default();
    if options.output == "json" {
        println!("{:#}", Value::Array(tasks));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "TASK",
        "CLUSTER",
        "DEFINITION",
        "STATUS",
        "HEALTH",
        "ISOLATION",
        "ADDRESS",
        "STARTED",
        "REASON",
    ]);
    for task in &tasks {
        let last = |name: &str| {
            task[name].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned()
        };
        table.add_row([
            last("taskArn").chars().take(12).collect::<String>(),
            last("clusterArn"),
            last("taskDefinitionArn"),
            status(task, &node),
            last("healthStatus"),
            isolation(task),
            address(task),
            started(task),
            task["stoppedReason"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Described tasks of one cluster, or of all.
pub(crate) async fn tasks(data: &DataDir, cluster: Option<&str>, stopped: bool) -> Result<Vec<Value>> {
    let client = Client::of(data)?;
    let clusters: Vec<String> = match cluster {
        Some(cluster) => vec![cluster.to_owned()],
        None => pages(&client, "ListClusters", json!({}), "clusterArns").await?,
    };
    let mut all = Vec::new();
    for cluster in clusters {
        let mut arns = Vec::new();
        for desired in if stopped { &["RUNNING", "STOPPED"][..] } else { &["RUNNING"] } {
            let input = json!({ "cluster": cluster, "desiredStatus": desired });
            arns.extend(pages(&client, "ListTasks", input, "taskArns").await?);
        }
        for chunk in arns.chunks(DESCRIBED_MAX) {
            let answer = client.ecs("DescribeTasks", json!({ "cluster": cluster, "tasks": chunk })).await?;
            all.extend(answer["tasks"].as_array().cloned().unwrap_or_default());
        }
    }
    Ok(all)
}

async fn pages(client: &Client, operation: &str, mut input: Value, member: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    loop {
        let answer = client.ecs(operation, input.clone()).await?;
        all.extend(
            answer[member].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
        );
        match answer["nextToken"].as_str() {
            Some(token) => input["nextToken"] = token.into(),
            None => return Ok(all),
        }
    }
}

/// `RUNNING`, or `ACTIVATING, pulling nginx:latest: 2 of 4 layers, 3.1 of 6.5 MB`.
fn status(task: &Value, node: &Value) -> String {
    let status = task["lastStatus"].as_str().unwrap_or_default();
    let of_node = node["tasks_on_node"].as_array().into_iter().flatten();
    let progress =
        of_node.filter(|of| of["task_arn"] == task["taskArn"]).find_map(|of| of["progress"].as_str());
    progress.map_or_else(|| status.to_owned(), |progress| format!("{status}, {progress}"))
}

/// `microvm` or `container`, once its node has told.
fn isolation(task: &Value) -> String {
    let mut attributes = task["attributes"].as_array().into_iter().flatten();
    let told = attributes.find(|attribute| attribute["name"] == "ferrogate.isolation");
    told.and_then(|attribute| attribute["value"].as_str()).unwrap_or_default().to_owned()
}

fn address(task: &Value) -> String {
    let details = task["attachments"][0]["details"].as_array();
    let found = details.into_iter().flatten().find(|detail| detail["name"] == "privateIPv4Address");
    found.and_then(|detail| detail["value"].as_str()).unwrap_or_default().to_owned()
}

fn started(task: &Value) -> String {
    let Some(seconds) = task["startedAt"].as_f64() else { return String::new() };
    let Ok(at) = jiff::Timestamp::from_second(seconds as i64) else { return String::new() };
    at.to_string()
}
