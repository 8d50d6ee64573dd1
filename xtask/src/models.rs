//! `api/models/*.json`: botocore's service models without prose, cut to the operations we serve; `api/names.json`: the
//! names of all their operations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// The botocore the models come from. Raising it is a commit of its own, with the models it changes.
const BOTOCORE: &str = "1.44.5";

const SHAPE_KEYS: &[&str] = &[
    "type",
    "required",
    "member",
    "key",
    "value",
    "flattened",
    "enum",
    "min",
    "max",
    "pattern",
    "timestampFormat",
    "streaming",
    "sensitive",
    "document",
    "union",
    "eventstream",
    "exception",
    "error",
    "payload",
    "locationName",
];
const REF_KEYS: &[&str] = &[
    "shape",
    "location",
    "locationName",
    "queryName",
    "flattened",
    "xmlAttribute",
    "xmlNamespace",
    "timestampFormat",
    "streaming",
    "jsonvalue",
    "idempotencyToken",
    "resultWrapper",
];
const METADATA_KEYS: &[&str] = &[
    "apiVersion",
    "endpointPrefix",
    "signingName",
    "protocol",
    "protocols",
    "jsonVersion",
    "targetPrefix",
    "xmlNamespace",
    "awsQueryCompatible",
    "serviceId",
];
const OPERATION_KEYS: &[&str] = &["http", "authtype", "endpoint"];

pub(crate) fn run() -> Result<()> {
    let root = crate::root();
    let data = botocore(&root)?;
    let table: BTreeMap<String, Vec<String>> =
        serde_json::from_slice(&fs::read(root.join("api/operations.json"))?)?;
    let mut names = BTreeMap::new();
    for (service, operations) in &table {
        let whole = load(&data, service)?;
        names.insert(service, named(&whole).with_context(|| format!("names of {service}"))?);
        let model = strip(&whole, operations).with_context(|| format!("model of {service}"))?;
        let file = root.join(format!("api/models/{service}.json"));
        fs::write(&file, format!("{:#}\n", model))?;
        println!("{service}: {} operations", operations.len());
    }
    fs::write(root.join("api/names.json"), format!("{:#}\n", json!(names)))?;
    Ok(())
}

/// All operations there are; where their path says which is meant, with `METHOD /path` behind.
fn named(model: &Value) -> Result<Vec<String>> {
    let is_rest = text(&model["metadata"], "protocol")?.starts_with("rest-");
    let line = |(name, operation): (&String, &Value)| {
        let http = &operation["http"];
        match is_rest {
            true => Ok(format!("{name} {} {}", text(http, "method")?, text(http, "requestUri")?)),
            false => Ok(name.clone()),
        }
    };
    model["operations"].as_object().context("operations")?.iter().map(line).collect()
}

/// A folder with botocore's data, installed into a virtual environment of our own.
fn botocore(root: &Path) -> Result<PathBuf> {
    let venv = root.join(".cache/botocore");
    if !venv.join("bin/python").exists() {
        sh(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    sh(Command::new(venv.join("bin/python")).args([
        "-m",
        "pip",
        "install",
        "-q",
        &format!("botocore=={BOTOCORE}"),
    ]))?;
    let out = Command::new(venv.join("bin/python"))
        .args(["-c", "import botocore,os;print(os.path.join(os.path.dirname(botocore.__file__),'data'))"])
        .output()?;
    Ok(PathBuf::from(String::from_utf8(out.stdout)?.trim()))
}

fn sh(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn load(data: &Path, service: &str) -> Result<Value> {
    let versions: BTreeSet<PathBuf> = fs::read_dir(data.join(service))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    let newest = versions.last().context("botocore has no version of it")?;
    let mut json = Vec::new();
    match fs::File::open(newest.join("service-2.json.gz")) {
        Ok(file) => drop(flate2::read::GzDecoder::new(file).read_to_end(&mut json)?),
        Err(_) => json = fs::read(newest.join("service-2.json"))?,
    }
    Ok(serde_json::from_slice(&json)?)
}

/// The operations named, what they reach, and of that only what codecs, validator and codegen read.
pub(crate) fn strip(model: &Value, operations: &[String]) -> Result<Value> {
    let mut kept_operations = Map::new();
    let mut wanted: Vec<String> = Vec::new();
    for name in operations {
        let operation = model["operations"].get(name).with_context(|| format!("no operation {name}"))?;
        let mut kept = pick(operation, OPERATION_KEYS);
        for side in ["input", "output"] {
            if let Some(of) = operation.get(side) {
                kept.insert(side.into(), Value::Object(pick(of, REF_KEYS)));
                wanted.push(text(of, "shape")?);
            }
        }
        let errors = operation.get("errors").and_then(Value::as_array).cloned().unwrap_or_default();
        for error in &errors {
            wanted.push(text(error, "shape")?);
        }
        let errors: Vec<Value> = errors.iter().map(|error| Value::Object(pick(error, &["shape"]))).collect();
        if !errors.is_empty() {
            kept.insert("errors".into(), errors.into());
        }
        kept_operations.insert(name.clone(), Value::Object(kept));
    }
    let mut shapes: BTreeMap<String, Value> = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        if shapes.contains_key(&name) {
            continue;
        }
        let shape = &model["shapes"][&name];
        let mut kept = pick(shape, SHAPE_KEYS);
        for side in ["member", "key", "value"] {
            if let Some(of) = shape.get(side) {
                wanted.push(text(of, "shape")?);
                kept.insert(side.into(), Value::Object(pick(of, REF_KEYS)));
            }
        }
        if let Some(members) = shape.get("members").and_then(Value::as_object) {
            let mut list = Vec::new();
            for (member, of) in members {
                wanted.push(text(of, "shape")?);
                list.push(json!([member, pick(of, REF_KEYS)]));
            }
            kept.insert("members".into(), list.into());
        }
        shapes.insert(name, Value::Object(kept));
    }
    Ok(
        json!({ "metadata": pick(&model["metadata"], METADATA_KEYS), "operations": kept_operations, "shapes": shapes }),
    )
}

fn text(of: &Value, key: &str) -> Result<String> {
    Ok(of[key].as_str().with_context(|| format!("no {key}"))?.to_owned())
}

fn pick(of: &Value, keys: &[&str]) -> Map<String, Value> {
    keys.iter().filter_map(|key| Some(((*key).to_owned(), of.get(*key)?.clone()))).collect()
}
