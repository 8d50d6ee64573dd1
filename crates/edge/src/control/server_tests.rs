use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Says what it is told to say.
struct Said {
    generation: AtomicU64,
    changes: watch::Sender<u64>,
    /// One metric of 1.0 in every report.
    reports: AtomicU64,
    lines: Mutex<Vec<String>>,
}

impl Said {
    fn new() -> Arc<Self> {
        let changes = watch::Sender::new(0);
        Arc::new(Self {
            generation: AtomicU64::new(3),
            changes,
            reports: AtomicU64::new(0),
            lines: Mutex::default(),
        })
    }
}

#[async_trait]
impl Governed for Said {
    async fn configure(&self, configuration: Configuration) {
        self.generation.store(configuration.assignment.generation, Ordering::Relaxed);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn report(&self) -> Option<BalancerReport> {
        self.reports.fetch_add(1, Ordering::Relaxed);
        Some(BalancerReport {
            load_balancer_arn: "arn".into(),
            availability_zone: "zone".into(),
            generation: self.generation(),
            active: true,
            problem: None,
            targets: Vec::new(),
            metrics: vec![BalancerMetric {
                name: "RequestCount".into(),
                target_group_arn: None,
                sum: 1.0,
                minimum: 1.0,
                maximum: 1.0,
                samples: 1,
            }],
        })
    }

    fn lines(&self, connection: bool, max: usize) -> (Vec<String>, u64) {
        let mut lines = self.lines.lock().unwrap();
        let count = if connection { 0 } else { lines.len().min(max) };
        (lines.drain(..count).collect(), 0)
    }
}

struct Agent {
    link: Link<ToEdge, FromEdge>,
}

struct World {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    server: tokio::task::JoinHandle<()>,
}

impl World {
    fn new(subject: &Arc<Said>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(serve(listener, Arc::<Said>::clone(subject)));
        Self { _dir: dir, path, server }
    }

    async fn agent(&self) -> Agent {
        let mut link = Link::new(UnixStream::connect(&self.path).await.unwrap());
        link.send(&ToEdge::Hello { version: VERSION }).await.unwrap();
        let hello = link.receive().await.unwrap();
        assert!(matches!(hello, FromEdge::Hello { version: VERSION, .. }), "{hello:?}");
        Agent { link }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Agent {
    async fn report(&mut self) -> (u64, BalancerReport) {
        loop {
            if let FromEdge::Report { sequence, report } = self.link.receive().await.unwrap() {
                return (sequence, *report);
            }
        }
    }

    async fn answer(&mut self, sequence: u64, taken: bool) {
        self.link.send(&ToEdge::Answer { sequence, taken }).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_counted_and_not_taken_is_said_again() {
    let subject = Said::new();
    let world = World::new(&subject);
    let mut agent = world.agent().await;
    let (sequence, report) = agent.report().await;
    assert_eq!(report.metrics[0].sum, 1.0);
    agent.answer(sequence, false).await;
    subject.changes.send_modify(|count| *count += 1);
    let (_, report) = agent.report().await;
    assert_eq!((report.metrics[0].sum, report.metrics[0].samples), (2.0, 2));
    // Not answered: the next agent hears of it.
    drop(agent);
    let mut agent = world.agent().await;
    let (sequence, report) = agent.report().await;
    assert_eq!(report.metrics[0].sum, 3.0);
    agent.answer(sequence, true).await;
    subject.changes.send_modify(|count| *count += 1);
    let (_, report) = agent.report().await;
    assert_eq!(report.metrics[0].sum, 1.0);
}

#[tokio::test]
async fn a_report_waits_for_the_answer_to_the_one_before() {
    let subject = Said::new();
    let world = World::new(&subject);
    let mut agent = world.agent().await;
    let (sequence, _) = agent.report().await;
    subject.changes.send_modify(|count| *count += 1);
    // An access log line is said meanwhile, and nothing before it.
    subject.lines.lock().unwrap().push("line".into());
    let next = agent.link.receive().await.unwrap();
    let FromEdge::Lines { sequence: lines, .. } = next else { panic!("{next:?}") };
    assert_eq!(subject.reports.load(Ordering::Relaxed), 1);
    agent.answer(sequence, true).await;
    agent.report().await;
    // Not taken: the same line again, with those that came meanwhile.
    subject.lines.lock().unwrap().push("another".into());
    agent.answer(lines, false).await;
    let next = loop {
        match agent.link.receive().await.unwrap() {
            FromEdge::Lines { lines, .. } => break lines,
            _ => continue,
        }
    };
    assert_eq!(next, ["line", "another"]);
}

#[tokio::test]
async fn the_newest_agent_is_the_agent() {
    let subject = Said::new();
    let world = World::new(&subject);
    let mut first = world.agent().await;
    let mut second = world.agent().await;
    second.report().await;
    loop {
        match first.link.receive().await {
            Ok(_) => continue,
            Err(error) => break assert!(matches!(error, LinkError::Closed | LinkError::Io(_)), "{error}"),
        }
    }
}

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let subject = Said::new();
    let world = World::new(&subject);
    let mut stranger = UnixStream::connect(&world.path).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Closed by the other side, with or without what it had not read.
    let _ = stranger.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    world.agent().await.report().await;
}

#[tokio::test]
async fn another_version_is_told_ours() {
    let subject = Said::new();
    let world = World::new(&subject);
    let mut link = Link::<ToEdge, FromEdge>::new(UnixStream::connect(&world.path).await.unwrap());
    link.send(&ToEdge::Hello { version: VERSION + 1 }).await.unwrap();
    let hello = link.receive().await.unwrap();
    assert!(matches!(hello, FromEdge::Hello { version: VERSION, generation: 3, .. }), "{hello:?}");
    assert!(link.receive().await.is_err());
}
