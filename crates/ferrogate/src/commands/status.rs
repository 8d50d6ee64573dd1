//! `ferrogate status`

use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use serde_json::Value;

use crate::Status;
use crate::client::{Ask, ask};
use crate::data::{DataDir, Lock};

pub(crate) fn run(options: &Status) -> Result<()> {
    let data = DataDir::new(&options.place.data_dir)?;
    if Lock::holder(&data).is_none() {
        if options.output == "json" {
            println!("{}", serde_json::json!({ "running": false }));
        }
        bail!("no Ferrogate runs with the data folder {}: `ferrogate up` starts one", data.path().display());
    }
    let status = ask(&data, &Ask::Status)?;
    if options.output == "json" {
        println!("{status:#}");
        return Ok(());
    }
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let tasks = status["tasks_on_node"]
        .as_array()
        .map_or(0, |tasks| tasks.iter().filter(|task| task["status"] != "STOPPED").count());
    println!("Ferrogate {} runs (process {})", text("version"), status["pid"]);
    println!("  API          {}   account {}, region {}", text("api"), text("account"), text("region"));
    println!("  isolation    {}", text("isolation"));
    if text("isolation").starts_with("micro-VMs") {
        println!("  snapshots    {}", snapshots(&status["snapshots"]));
    }
    println!("  tasks        {tasks} on this node");
    println!("  store        revision {}", status["store_revision"]);
    let controllers = status["controllers"].as_object().cloned().unwrap_or_default();
    let failing: Vec<_> = controllers.iter().filter(|(_, of)| of["outcome"]["why"].is_string()).collect();
    if failing.is_empty() {
        println!("  controllers  {} and all well", controllers.len());
    }
    for (name, of) in &failing {
        println!("  controllers  {name} fails: {}", of["outcome"]["why"].as_str().unwrap_or_default());
    }
    if options.controllers {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header([
            "CONTROLLER",
            "ACTIVATIONS",
            "ERRORS",
            "LAST MS",
            "DETAIL",
        ]);
        for (name, of) in &controllers {
            let ms = of["duration_ms"].as_f64().map_or_else(String::new, |ms| format!("{ms:.1}"));
            table.add_row([
                name.clone(),
                of["activations"].to_string(),
                of["errors"].to_string(),
                ms,
                of["detail"].to_string(),
            ]);
        }
        println!("\n{table}");
    }
    Ok(())
}

/// `of 1 vCPU, 576 MiB; making 2 vCPU, 1088 MiB`
fn snapshots(status: &Value) -> String {
    if status.is_null() {
        return "none: every machine is booted".into();
    }
    let mut words = Vec::new();
    let ready: Vec<&str> =
        status["ready"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    words.push(if ready.is_empty() { "none yet".into() } else { format!("of {}", ready.join(" and ")) });
    words.extend(status["making"].as_str().map(|size| format!("making {size}")));
    let failed = status["failed"].as_object().into_iter().flatten();
    words.extend(failed.map(|(size, why)| format!("{size} failed: {}", why.as_str().unwrap_or_default())));
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_of_snapshots() {
        assert_eq!(snapshots(&Value::Null), "none: every machine is booted");
        let mut status = json!({ "ready": [], "making": "1 vCPU, 576 MiB", "wanted": [], "failed": {} });
        assert_eq!(snapshots(&status), "none yet; making 1 vCPU, 576 MiB");
        status["ready"] = json!(["1 vCPU, 576 MiB", "2 vCPU, 1088 MiB"]);
        status["making"] = Value::Null;
        status["failed"] = json!({ "4-2112-net": "no room" });
        assert_eq!(snapshots(&status), "of 1 vCPU, 576 MiB and 2 vCPU, 1088 MiB; 4-2112-net failed: no room");
    }
}
