//! QEMU's control protocol, as much of it as adding a disk takes. Whoever breaks out of a guest speaks from the other end:
//! answers are short, come in time, and are believed in nothing but whether it worked.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

use super::vmm::VmmError;

/// Longest wait for an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Longest line, and most that may come before an answer.
const LINE_BYTES_MAX: usize = 64 << 10;
const LINES_MAX: usize = 256;

pub(super) struct Qmp {
    stream: UnixStream,
    input: Vec<u8>,
    greeted: bool,
}

impl Qmp {
    pub(super) fn new(stream: UnixStream) -> Self {
        Qmp { stream, input: Vec::new(), greeted: false }
    }

    pub(super) fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, VmmError> {
        if !self.greeted {
            self.greeted = true;
            self.line("the greeting")?;
            self.ask("qmp_capabilities", &json!({}), None)?;
        }
        self.ask(command, &arguments, descriptor)
    }

    fn ask(
        &mut self,
        command: &'static str,
        arguments: &Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, VmmError> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.send(text.as_bytes(), descriptor).map_err(VmmError::io("speak to the machine's program"))?;
        for _ in 0..LINES_MAX {
            let mut line = self.line(command)?;
            if let Some(error) = line.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
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

    fn line(&mut self, command: &'static str) -> Result<Value, VmmError> {
        let broken = |why: String| VmmError::Broken { command, why };
        let deadline = Instant::now() + ANSWER_DEADLINE;
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
                return Err(broken(format!("none within {} s", ANSWER_DEADLINE.as_secs())));
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
        theirs.write_all(b"{\"QMP\": {}}\n{\"return\": {}}\n").unwrap();
        theirs.write_all(lines.as_bytes()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        Qmp::new(ours).execute("query-status", json!({}), None)
    }

    #[test]
    fn events_in_between_are_passed_over() {
        let answer = answered("{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"running\"}}\n").unwrap();
        assert_eq!(answer, json!({ "status": "running" }));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let refused = answered("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such bus\"}}\n");
        assert!(matches!(refused, Err(VmmError::Refused { why, .. }) if why == "no such bus"));
        for broken in ["", "not json\n", "{\"return\"", &"x".repeat(LINE_BYTES_MAX + 1)] {
            assert!(matches!(answered(broken), Err(VmmError::Broken { .. })), "{broken:.20}");
        }
        let flood = "{\"event\": \"A\"}\n".repeat(LINES_MAX);
        assert!(matches!(answered(&flood), Err(VmmError::Broken { .. })));
    }
}
