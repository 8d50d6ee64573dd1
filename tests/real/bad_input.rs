//! Bad input: nothing that comes over the wire ends the server, makes it fail, or is taken for what it is not.

use std::fs;

use ferrogate_tests::Cluster;

/// While the largest bodies that are allowed come in, and gzip of twice that: a leak or a bomb would be more.
const MEMORY_KIB_MAX: u64 = 512 << 10;

/// Peak of its resident memory, as the kernel counts.
fn memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The server is the one that was started, and none of its threads has panicked.
#[track_caller]
fn nothing_broke(cluster: &Cluster, pid: u32) {
    assert_eq!(cluster.pid(), pid);
    let memory = memory_kib(pid);
    assert!(memory < MEMORY_KIB_MAX, "the server took {memory} KiB");
    let log = fs::read_to_string(cluster.log()).expect("its log");
    let panics: Vec<&str> = log.lines().filter(|line| line.contains("panic")).collect();
    assert_eq!(panics, Vec::<&str>::new());
}

/// Truncated, oversized, deep, misencoded and smuggled requests, in every protocol there is.
#[test]
fn malformed_requests() {
    let cluster = Cluster::start();
    let pid = cluster.pid();
    let said = cluster.python("bad_input.py", &[]);
    print!("{}", said.stdout);
    said.ok();
    nothing_broke(&cluster, pid);
}

/// Every case of `tests/corpus`: the code and the words of AWS.
#[test]
fn wrong_calls() {
    let cluster = Cluster::start();
    let pid = cluster.pid();
    let said = cluster.python("corpus.py", &[]);
    print!("{}", said.stdout);
    said.ok();
    nothing_broke(&cluster, pid);
}
