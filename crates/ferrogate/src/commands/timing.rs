//! `ferrogate ps --timing`: what the starts of tasks spent their time on, a bar for every step.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use ferrogate_node::{STARTED, Step, TaskSummary};
use ferrogate_nodeapi::ObservedStatus;
use ferrogate_sandbox::microvm::{MACHINE_STEP, RESTORED};
use ferrogate_sandbox::{LogRecord, read_logs};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::Ps;
use crate::client::{Ask, ask};
use crate::data::DataDir;

const BAR_WIDTH: usize = 40;
/// From the container's start to its first line; only where that line is still on the node.
const FIRST_OUTPUT: &str = "first output";

/// Of the task whose id starts with `wanted`; of all on the node where that is empty, ended ones with `--all`.
pub(super) fn run(options: &Ps, wanted: &str) -> Result<()> {
    let data = DataDir::new(&options.place.data_dir)?;
    let status = ask(&data, &Ask::Status)?;
    let tasks: Vec<TaskSummary> = serde_json::from_value(status["tasks_on_node"].clone())?;
    let id = |task: &TaskSummary| task.task_arn.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = wanted.rsplit('/').next().unwrap_or_default();
    let mut found: Vec<TaskSummary> = tasks
        .into_iter()
        .filter(|task| {
            let of_cluster = options.cluster.as_deref().is_none_or(|name| cluster(&task.task_arn) == name);
            let alive = options.all || !wanted.is_empty() || task.status != ObservedStatus::Stopped;
            id(task).starts_with(wanted) && of_cluster && alive
        })
        .collect();
    if found.is_empty() && !wanted.is_empty() {
        bail!("no task on this node starts with '{wanted}': `ferrogate ps --all` lists them");
    }
    found.sort_by_key(|task| task.timing.first().map(|step| step.began));
    for task in &mut found {
        let kept = ask(&data, &Ask::Task { id: id(task) })?;
        let dirs: HashMap<String, Vec<PathBuf>> =
            serde_json::from_value(kept["output"].clone()).unwrap_or_default();
        task.timing.extend(first_outputs(&task.timing, &dirs));
    }
    if options.output == "json" {
        println!("{:#}", Value::Array(found.iter().map(in_json).collect()));
        return Ok(());
    }
    for task in &found {
        let machine = match restored(&task.timing) {
            None => "",
            Some(true) => "  machine restored from a snapshot",
            Some(false) => "  machine booted",
        };
        println!("task {}  {:?}{machine}", id(task), task.status);
        println!("{}\n", table(&task.timing));
    }
    Ok(())
}

/// `arn:aws:ecs:<region>:<account>:task/<cluster>/<id>`
fn cluster(task_arn: &str) -> &str {
    task_arn.split('/').nth(1).unwrap_or_default()
}

fn first_outputs(steps: &[Step], dirs: &HashMap<String, Vec<PathBuf>>) -> Vec<Step> {
    let started = steps.iter().filter(|step| step.step == STARTED);
    let of = |step: &Step| {
        let name = step.container.as_ref()?;
        let dir = dirs.get(name)?.iter().find(|dir| dir.exists())?;
        // Where output is gone already, the first record says so.
        let Some(LogRecord::Line { timestamp_ns, .. }) = read_logs(dir, 0).ok()?.into_iter().next() else {
            return None;
        };
        let ended = Timestamp::from_nanosecond(i128::from(timestamp_ns)).ok()?.max(step.ended);
        Some(Step { step: FIRST_OUTPUT.into(), container: step.container.clone(), began: step.ended, ended })
    };
    started.filter_map(of).collect()
}

fn ms(duration: SignedDuration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Begin of the whole, and how long it took.
fn span(steps: &[Step]) -> Option<(Timestamp, SignedDuration)> {
    let began = steps.iter().map(|step| step.began).min()?;
    let ended = steps.iter().map(|step| step.ended).max()?;
    Some((began, ended.duration_since(began)))
}

/// Whether the task's machine began from a snapshot; `None`: it has none, or that is not known.
fn restored(steps: &[Step]) -> Option<bool> {
    let of_machine = |step: &&Step| step.step.starts_with(MACHINE_STEP);
    steps.iter().find(of_machine).map(|_| steps.iter().any(|step| step.step == RESTORED))
}

fn in_json(task: &TaskSummary) -> Value {
    let zero = span(&task.timing).map(|(began, _)| began);
    let step = |step: &Step| {
        let from = zero.map_or(SignedDuration::ZERO, |zero| step.began.duration_since(zero));
        json!({
            "step": step.step, "container": step.container, "began": step.began.to_string(),
            "beganMs": ms(from), "tookMs": ms(step.ended.duration_since(step.began)),
        })
    };
    json!({
        "taskArn": task.task_arn, "status": task.status,
        "totalMs": span(&task.timing).map(|(_, took)| ms(took)),
        "restored": restored(&task.timing),
        "steps": task.timing.iter().map(step).collect::<Vec<_>>(),
    })
}

fn table(steps: &[Step]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["STEP", "CONTAINER", "AT MS", "TOOK MS", ""]);
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let Some((zero, whole)) = span(steps) else { return table };
    let mut steps: Vec<&Step> = steps.iter().collect();
    steps.sort_by_key(|step| (step.began, step.ended));
    for step in steps {
        let (from, took) = (step.began.duration_since(zero), step.ended.duration_since(step.began));
        table.add_row([
            step.step.clone(),
            step.container.clone().unwrap_or_default(),
            format!("{:.1}", ms(from)),
            format!("{:.1}", ms(took)),
            bar(from, took, whole),
        ]);
    }
    table.add_row([
        "all".to_owned(),
        String::new(),
        "0.0".to_owned(),
        format!("{:.1}", ms(whole)),
        bar(SignedDuration::ZERO, whole, whole),
    ]);
    table
}

/// Where in the whole it lies; at least one mark.
fn bar(from: SignedDuration, took: SignedDuration, whole: SignedDuration) -> String {
    let scale = BAR_WIDTH as f64 / ms(whole).max(f64::MIN_POSITIVE);
    let column = |duration: SignedDuration| ((ms(duration) * scale) as usize).min(BAR_WIDTH);
    let begin = column(from).min(BAR_WIDTH - 1);
    let width = column(from + took).saturating_sub(begin).max(1);
    format!("{}{}", " ".repeat(begin), "█".repeat(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_machine_began() {
        let step = |step: &str| Step {
            step: step.into(),
            container: None,
            began: Timestamp::UNIX_EPOCH,
            ended: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(restored(&[step("sandbox created")]), None);
        assert_eq!(restored(&[step("sandbox created"), step("machine: kernel started")]), Some(false));
        assert_eq!(restored(&[step("machine: VMM started"), step(RESTORED)]), Some(true));
    }

    #[test]
    fn bars() {
        let ms = SignedDuration::from_millis;
        assert_eq!(bar(ms(0), ms(100), ms(100)), "█".repeat(40));
        assert_eq!(bar(ms(50), ms(25), ms(100)), format!("{}{}", " ".repeat(20), "█".repeat(10)));
        assert_eq!(bar(ms(100), ms(0), ms(100)), format!("{}█", " ".repeat(39)));
        assert_eq!(bar(ms(0), ms(0), ms(0)), "█");
    }
}
