//! SIGKILL while putting: what was acknowledged is there, in order, once.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use common::*;
use ferrogate_api::logs::*;
use ferrogate_logs::LogsService;
use ferrogate_store::RedbStore;
use jiff::Timestamp;

const ROUNDS: u64 = 12;
const WRITERS: u64 = 6;
/// A round's numbers begin at the round times this.
const ROUND_STEP: u64 = 1_000_000;
const DIR: &str = "FERROGATE_LOGS_CRASH_DIR";
const ROUND: &str = "FERROGATE_LOGS_CRASH_ROUND";

fn open(dir: &Path) -> LogsService {
    let store = Arc::new(RedbStore::open(&dir.join("store")).unwrap());
    LogsService::open(ACCOUNT, store, dir.join("logs")).unwrap()
}

/// Not a test by itself: the process that is killed. Each acknowledged put is a line of its output.
#[test]
fn child() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let service = open(Path::new(&dir));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let service = service.clone();
            writers.spawn(async move {
                // Two writers on each of three streams.
                let stream = (writer % 3).to_string();
                // Long lines, so that segments fill and kills meet footers and new files.
                let filler = "x".repeat(100_000);
                for n in round * ROUND_STEP.. {
                    let mut cx = context();
                    cx.now = Timestamp::now();
                    let now = cx.now.as_millisecond();
                    let lines = [format!("{writer} {n} a"), format!("{writer} {n} b {filler}")];
                    let events: Vec<(i64, &str)> = lines.iter().map(|line| (now, line.as_str())).collect();
                    service.put_log_events(&cx, put("g", &stream, &events)).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "\nack {writer} {n}").and_then(|()| out.flush()).unwrap();
                }
            });
        }
        writers.join_next().await;
    });
}

/// Ends the child whatever becomes of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // SIGKILL; it may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the child until it has acknowledged `acks` puts; gives those it did, by writer.
fn run_and_kill(dir: &Path, round: u64, acks: u64, acknowledged: &mut BTreeMap<u64, Vec<u64>>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).env(ROUND, round.to_string()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut seen = 0;
    while let Some(Ok(line)) = lines.next() {
        let Some(ack) = line.strip_prefix("ack ") else { continue };
        let Some((writer, n)) = ack.split_once(' ') else { continue };
        acknowledged.entry(writer.parse().unwrap()).or_default().push(n.parse().unwrap());
        seen += 1;
        if seen == acks {
            // What it wrote before it died is read to the end.
            child.0.kill().unwrap();
        }
    }
    assert!(seen >= acks, "the child ended by itself in round {round}");
}

#[test]
fn acknowledged_events_survive_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (service, cx) = (open(dir.path()), context());
        let group = CreateLogGroupRequest { log_group_name: Some("g".into()), ..Default::default() };
        service.create_log_group(&cx, group).await.unwrap();
        for stream in ["0", "1", "2"] {
            service.create_log_stream(&cx, create_stream("g", stream)).await.unwrap();
        }
    });
    let mut acknowledged: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        run_and_kill(dir.path(), round, 7 + round * 37 % 150, &mut acknowledged);
        let found = runtime.block_on(read(&open(dir.path())));
        for (writer, acks) in &acknowledged {
            let found = found.get(writer).map(Vec::as_slice).unwrap_or_default();
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "writer {writer}: twice or out of order");
            let missing: Vec<_> = acks.iter().filter(|n| found.binary_search(n).is_err()).collect();
            assert!(missing.is_empty(), "round {round}, writer {writer}: acknowledged and gone: {missing:?}");
            // Beyond the acknowledged ones there is at most the put that was under way, per round.
            assert!(found.len() as u64 <= acks.len() as u64 + round + 1);
        }
    }
    assert!(segments_below(&dir.path().join("logs")) > 3, "no segment was filled");
}

fn segments_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.extension() {
        Some(suffix) => usize::from(suffix == "seg"),
        None if path.is_dir() => segments_below(&path),
        None => 0,
    };
    entries.map(count).sum()
}

/// Each writer's puts in the order they are read; both events of each.
async fn read(service: &LogsService) -> BTreeMap<u64, Vec<u64>> {
    let cx = context();
    let mut puts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for stream in ["0", "1", "2"] {
        let mut input = get("g", stream);
        let mut lines = Vec::new();
        loop {
            let page = service.get_log_events(&cx, input.clone()).await.unwrap();
            lines.extend(messages(&page));
            if page.next_forward_token == input.next_token {
                break;
            }
            input.next_token = page.next_forward_token;
        }
        for pair in lines.chunks(2) {
            let words: Vec<&str> = pair[0].split(' ').collect();
            assert!(pair.len() == 2 && pair[1].starts_with(&format!("{} {} b", words[0], words[1])));
            puts.entry(words[0].parse().unwrap()).or_default().push(words[1].parse().unwrap());
        }
    }
    puts
}
