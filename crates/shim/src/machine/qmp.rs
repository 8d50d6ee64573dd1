//! QEMU's control protocol, as much of it as disks and snapshots take. Whoever breaks out of a guest speaks from the other end:
//! answers are short, come in time, and are believed in nothing but whether it worked.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

use super::guest::words;
use super::vmm::VmmError;

/// Longest wait for an answer, whatever comes before it, where nothing else is said.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Longest line, and most that may come before an answer.
const LINE_BYTES_MAX: usize = 64 << 10;
const LINES_MAX: usize = 256;
const FIRST: &str = "qmp_capabilities";

pub(super) struct Qmp {
    stream: UnixStream,
    input: Vec<u8>,
    greeted: bool,
    /// Why it does not begin: every command would be refused, and none is asked.
    refused: Option<String>,
    next_id: u64,
    /// Until when all answers are waited for.
    until: Option<Instant>,
}

impl Qmp {
    pub(super) fn new(stream: UnixStream) -> Self {
        Qmp { stream, input: Vec::new(), greeted: false, refused: None, next_id: 1, until: None }
    }

    /// All that is asked from now on has to be answered by then.
    pub(super) fn set_until(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    fn deadline(&self) -> Instant {
        self.until.unwrap_or_else(|| Instant::now() + ANSWER_DEADLINE)
    }

    pub(super) fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, VmmError> {
        self.greet()?;
        self.ask(command, &arguments, descriptor)
    }

    /// Until [`Qmp::greet`], readable once the program is there.
    pub(super) fn ungreeted(&self) -> Option<BorrowedFd<'_>> {
        (!self.greeted).then(|| self.stream.as_fd())
    }

    pub(super) fn greet(&mut self) -> Result<(), VmmError> {
        if !self.greeted {
            self.greeted = true;
            let greeted = self.line("the greeting", self.deadline());
            let began = greeted.and_then(|_| self.ask(FIRST, &json!({}), None));
            self.refused = began.err().map(|error| match error {
                VmmError::Refused { why, .. } | VmmError::Broken { why, .. } => why,
                other => other.to_string(),
            });
        }
        match &self.refused {
            Some(why) => Err(VmmError::Broken { command: FIRST, why: why.clone() }),
            None => Ok(()),
        }
    }

    fn ask(
        &mut self,
        command: &'static str,
        arguments: &Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, VmmError> {
        let (id, deadline) = (self.next_id, self.deadline());
        self.next_id += 1;
        let text = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        self.send(text.as_bytes(), descriptor).map_err(VmmError::io("speak to the machine's program"))?;
        for _ in 0..LINES_MAX {
            let mut line = self.line(command, deadline)?;
            // An event, or the late answer to what nobody waits for any more.
            if line.get("id").and_then(Value::as_u64) != Some(id) {
                continue;
            }
            if let Some(error) = line.get("error") {
                let why = words(error.get("desc").and_then(Value::as_str).unwrap_or("no reason given"));
                return Err(VmmError::Refused { command, why });
            }
            if let Some(answer) = line.get_mut("return") {
                return Ok(answer.take());
            }
        }
        Err(VmmError::Broken { command, why: format!("{LINES_MAX} lines before it") })
    }

    fn send(&mut self, mut text: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        let mut descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        while !text.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            }
            let parts = [IoSlice::new(text)];
            let sent =
                rustix::net::sendmsg(self.stream.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
            text = &text[sent..];
            descriptors.clear();
        }
        Ok(())
    }

    fn line(&mut self, command: &'static str, deadline: Instant) -> Result<Value, VmmError> {
        let broken = |why: String| VmmError::Broken { command, why };
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| broken(error.to_string()));
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Err(broken(format!("a line of more than {LINE_BYTES_MAX} bytes")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(broken("none in time".into()));
            }
            let mut buffer = [0; 4096];
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => return Err(broken("it closed the connection".into())),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(broken(error.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn answered(lines: &str) -> Result<Value, VmmError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n").unwrap();
        theirs.write_all(lines.as_bytes()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        Qmp::new(ours).execute("query-status", json!({}), None)
    }

    #[test]
    fn events_in_between_are_passed_over() {
        let lines = "{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"running\"}, \"id\": 2}\n";
        assert_eq!(answered(lines).unwrap(), json!({ "status": "running" }));
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let late = "{\"return\": {\"status\": \"paused\"}, \"id\": 1}\n{\"error\": {\"desc\": \"no\"}}\n";
        assert!(matches!(answered(late), Err(VmmError::Broken { .. })));
        let right = format!("{late}{{\"return\": {{\"status\": \"running\"}}, \"id\": 2}}\n");
        assert_eq!(answered(&right).unwrap(), json!({ "status": "running" }));
    }

    /// Line after line, each of them in time.
    #[test]
    fn a_program_that_goes_on_talking_is_not_heard_for_ever() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n").unwrap();
        let mut qmp = Qmp::new(ours);
        qmp.greet().unwrap();
        theirs.write_all(b"{\"event\": \"A\"}\n").unwrap();
        qmp.set_until(Some(Instant::now()));
        let asked = qmp.execute("query-status", json!({}), None);
        assert!(matches!(asked, Err(VmmError::Broken { why, .. }) if why == "none in time"));
    }

    #[test]
    fn what_has_to_be_answered_by_a_time_has_all_of_it() {
        let mut qmp = Qmp::new(UnixStream::pair().unwrap().0);
        for until in [Instant::now(), Instant::now() + 2 * ANSWER_DEADLINE] {
            qmp.set_until(Some(until));
            assert_eq!(qmp.deadline(), until);
        }
        qmp.set_until(None);
        assert!(qmp.deadline() <= Instant::now() + ANSWER_DEADLINE);
    }

    #[test]
    fn a_program_that_begins_with_no_is_asked_nothing_more() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"QMP\": {}}\n{\"error\": {\"desc\": \"no\"}, \"id\": 1}\n").unwrap();
        let mut qmp = Qmp::new(ours);
        assert!(qmp.greet().unwrap_err().is_fatal());
        let error = qmp.execute("query-status", json!({}), None).unwrap_err();
        assert!(error.is_fatal() && error.to_string().ends_with(": no"), "{error}");
        assert_eq!(qmp.next_id, 2, "one command was asked");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let refused =
            answered("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such bus\"}, \"id\": 2}\n");
        assert!(matches!(refused, Err(VmmError::Refused { why, .. }) if why == "no such bus"));
        for broken in ["", "not json\n", "{\"return\"", &"x".repeat(LINE_BYTES_MAX + 1)] {
            assert!(matches!(answered(broken), Err(VmmError::Broken { .. })), "{broken:.20}");
        }
        let flood = "{\"event\": \"A\"}\n".repeat(LINES_MAX);
        assert!(matches!(answered(&flood), Err(VmmError::Broken { .. })));
    }
}
