//! Constant load, and what became of it.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ferrogate_tests::until;
use serde_json::Value;

use super::parts::{House, text};

/// tests/python/load.py, while this is there.
pub(super) struct Load {
    child: Child,
    pipes: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Load {
    /// From the host.
    pub(super) fn start(house: &House, urls: &[String]) -> Self {
        Self::of(house.cluster.python_command("load.py", &[]), urls)
    }

    /// `command`: of the script, without its arguments.
    pub(super) fn of(mut command: Command, urls: &[String]) -> Self {
        let mut child = command
            .args(urls)
            // It keeps true time, whatever clock the cluster lives by: Python cannot sleep by another one.
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python of .cache/venv");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, pipes: RefCell::new((stdin, stdout)) }
    }

    pub(super) fn told(&self) -> Value {
        self.ask("")
    }

    fn ask(&self, line: &str) -> Value {
        let (stdin, stdout) = &mut *self.pipes.borrow_mut();
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("the load generator reads");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the load generator answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// No request has failed, and so many more are answered: what it tells then.
    #[track_caller]
    pub(super) fn goes_on(&self, more: u64) -> Value {
        let end = self.told()["requests"].as_u64().expect("a number") + more;
        let told = until(&format!("{more} more requests are answered"), || {
            let told = self.told();
            assert_eq!(told["failed"], 0, "{told:#}");
            (told["requests"].as_u64() >= Some(end)).then_some(told)
        });
        assert!(told["answers"].as_object().is_some_and(|answers| !answers.is_empty()), "{told:#}");
        told
    }

    /// Every request of all the time was answered, the last ones too.
    #[track_caller]
    pub(super) fn ends(self) {
        let told = self.ask("end");
        assert_eq!(told["failed"], 0, "{told:#}");
    }

    /// The part of the next `of` answers that `revision` gives.
    #[track_caller]
    pub(super) fn share(&self, revision: &str, of: u64) -> f64 {
        // What is under way is not of the next ones.
        self.goes_on(32);
        let (mut own, mut all) = (0, 0);
        until(&format!("{of} answers"), || {
            let told = self.told();
            assert_eq!(told["failed"], 0, "{told:#}");
            for (body, count) in told["answers"].as_object().expect("answers") {
                let who: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
                let count = count.as_u64().expect("a number");
                all += count;
                own += if who["revision"] == *revision { count } else { 0 };
            }
            (all >= of).then_some(())
        });
        own as f64 / all as f64
    }

    /// The revisions that answer now.
    #[track_caller]
    pub(super) fn revisions(&self) -> Vec<String> {
        self.goes_on(1);
        let told = self.goes_on(100);
        let mut revisions: Vec<String> = told["answers"]
            .as_object()
            .expect("answers")
            .keys()
            .map(|body| text(&serde_json::from_str::<Value>(body).expect("who it is")["revision"]))
            .collect();
        revisions.sort();
        revisions.dedup();
        revisions
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
