//! A guest, and a machine's program, that say whatever they like, as `fuzz/` reaches their shim.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::PollFlags;
use serde_json::json;

use super::qmp::Qmp;
use super::wire::{Kind, encode};
use super::world::{World, control_hello, control_ready, exec, exited, output, reply, started};
use crate::protocol::{Answer, Call, Event, Reply, Status, WindowSize, decode};

/// More lines make nothing that fewer do not.
const LINES_MAX: usize = 500;
/// Of what the guest says at once.
const PIECE_BYTES: usize = 7;
const AGE_SECONDS_MAX: u64 = 100;

/// A script, a line each: what the agent asks and what the guest says. However that is cut, the outcome is the same; each
/// call has one answer, and nothing in it that a terminal would take for more than text.
///
/// ```text
/// hello | ready | done CALL | pid CALL PID | started NAME | exited NAME END       the guest, as it should
/// . JSON | ! JSON | > NAME END TEXT | = BYTES                                     a message, a reply, output, anything
/// data CHANNEL TEXT | credit CHANNEL COUNT | end CHANNEL | closed CHANNEL         its streams
/// create NAME | start NAME | exec NAME CONTAINER | terminal NAME CONTAINER | …    the agent
/// turn | age SECONDS | type TEXT | read | drop | takes                            the shim, the far ends
/// ```
pub fn link(script: &[u8]) {
    // As in every Rust program; the fuzzer's is none. A reader that went away is an error.
    // SAFETY: ignoring has no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    assert_eq!(Session::run(script, usize::MAX), Session::run(script, PIECE_BYTES), "cut in pieces");
}

/// What a machine's program answers to one command after the other, until it ends.
pub fn qmp(said: &[u8]) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.write_all(said).expect("a socket takes more than an input has");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let mut qmp = Qmp::new(ours);
    let lines = said.iter().filter(|byte| **byte == b'\n').count();
    let mut answered = 0;
    loop {
        match qmp.execute("query-status", json!({}), None) {
            Ok(_) => {}
            Err(error) => {
                is_text(&error.to_string());
                if error.is_fatal() {
                    break;
                }
            }
        }
        answered += 1;
        // The greeting and the first answer are lines of their own.
        assert!(answered + 2 <= lines, "{answered} answers in {lines} lines");
    }
}

/// Of one container: what its task's state says, but for times.
type Outcome = (String, Status, Option<i32>, u32, u64, Option<String>);

struct Session {
    world: World,
    piece: usize,
    /// Calls, and how often each was answered.
    asked: BTreeMap<u64, usize>,
    /// Of the agent's next frame.
    heard: Vec<u8>,
}

impl Session {
    fn run(script: &[u8], piece: usize) -> (bool, Vec<Outcome>) {
        let mut session = Session { world: World::new(), piece, asked: BTreeMap::new(), heard: Vec::new() };
        for line in script.split(|byte| *byte == b'\n').take(LINES_MAX) {
            session.line(line);
            session.world.is_sound();
            session.hear();
        }
        let outcome = session.outcome();
        session.world.machine.lose("the script is over");
        session.world.is_sound();
        while session.hear() {}
        for (call, answers) in &session.asked {
            assert_eq!(*answers, 1, "answers to call {call}");
        }
        outcome
    }

    fn outcome(&self) -> (bool, Vec<Outcome>) {
        let state = self.world.machine.state();
        let of = state.containers.into_iter().map(|container| {
            let ended = (container.exit_code, container.starts);
            (container.id, container.status, ended.0, ended.1, container.log_end, container.error)
        });
        (self.world.is_lost(), of.collect())
    }

    fn line(&mut self, line: &[u8]) {
        let (verb, rest) = word(line);
        let (name, after) = word(rest);
        let text = String::from_utf8_lossy(name).into_owned();
        let number = text.parse().unwrap_or_default();
        let channel = number as u32;
        match verb {
            b"hello" => self.say(&control_hello()),
            b"ready" => self.say(&control_ready()),
            b"done" => self.say(&reply(&Reply::Response { id: number, result: Ok(Answer::Done) })),
            b"pid" => {
                let pid = parsed(after);
                self.say(&reply(&Reply::Response { id: number, result: Ok(Answer::Started { pid }) }));
            }
            b"started" => self.say(&started(&text)),
            b"exited" => self.say(&exited(&text, parsed(after))),
            b"gone" => {
                let event = Event::ExecExited { exec: text, exit_code: parsed(after), at_ns: 0 };
                self.say(&reply(&Reply::Event(event)));
            }
            b"." => self.frame(Kind::Control, 0, rest),
            b"!" => self.frame(Kind::Call, 0, rest),
            b">" if text.len() <= usize::from(u8::MAX) => {
                let (end, bytes) = word(after);
                self.say(&output(&text, parsed(end), bytes));
            }
            b"=" => self.say(rest),
            b"data" => self.frame(Kind::Data, channel, after),
            b"credit" => self.frame(Kind::Credit, channel, &parsed::<u32>(after).to_be_bytes()),
            b"end" => self.frame(Kind::End, channel, after),
            b"closed" => self.frame(Kind::Closed, channel, after),

            b"create" => {
                let call = self.world.create_call(&text);
                self.ask(call);
            }
            b"start" => self.ask(Call::Start { container: text }),
            b"cancel" => self.ask(Call::CancelStart { container: text }),
            b"kill" => self.ask(Call::Kill { container: (!text.is_empty()).then_some(text) }),
            b"delete" => self.ask(Call::Delete { container: text }),
            b"ack" => self.ask(Call::AckLogs { container: text, offset: parsed(after) }),
            b"exec" | b"terminal" => {
                let mut call = exec(&text);
                if let Call::Exec(exec) = &mut call {
                    exec.container = String::from_utf8_lossy(after).into_owned();
                    exec.terminal = (verb == b"terminal").then_some(WindowSize { rows: 24, columns: 80 });
                }
                self.ask(call);
            }
            b"abandon" => self.ask(Call::AbandonExec { exec: text }),
            b"forget" => self.ask(Call::DeleteExec { exec: text }),
            b"stats" => self.ask(Call::Stats),
            b"listeners" => self.ask(Call::Listeners),
            b"state" => self.ask(Call::State),
            b"subscribe" => self.ask(Call::Subscribe),

            b"turn" => self.turn(),
            b"age" => self.world.ages(Duration::from_secs(number.min(AGE_SECONDS_MAX))),
            b"type" => self.type_into(rest),
            b"read" => self.world.pipes.iter().for_each(empty),
            b"drop" => self.world.pipes.clear(),
            b"takes" => empty(&self.world.ends.1),
            _ => {}
        }
    }

    fn ask(&mut self, call: Call) {
        let id = self.asked.len() as u64;
        self.asked.insert(id, 0);
        self.world.asks_as(id, call);
    }

    fn frame(&mut self, kind: Kind, channel: u32, payload: &[u8]) {
        let mut frame = Vec::new();
        encode(kind, channel, payload, &mut frame);
        self.say(&frame);
    }

    fn say(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.piece) {
            self.world.takes(piece);
        }
        // What comes after a read, whatever it brought.
        self.world.hears(&[]);
    }

    /// As the shim's loop does, with every descriptor ready.
    fn turn(&mut self) {
        let machine = &mut self.world.machine;
        let ready: Vec<(u32, PollFlags)> =
            machine.streams.sources().map(|(channel, _, wanted)| (channel, wanted)).collect();
        for (channel, seen) in ready {
            machine.streams.ready(channel, seen, &mut machine.output);
        }
        machine.hint();
        self.world.turns();
    }

    fn type_into(&self, text: &[u8]) {
        for stdin in self.world.pipes.iter().step_by(3) {
            let _ = rustix::io::write(stdin, text);
        }
    }

    /// What the agent is told; whether that was anything.
    fn hear(&mut self) -> bool {
        // A socket takes less than all calls' answers at once.
        let _ = self.world.machine.connections.serve(0, PollFlags::OUT);
        let agent = &mut self.world.ends.0;
        agent.set_nonblocking(true).expect("it is open");
        let before = self.heard.len();
        let _ = agent.read_to_end(&mut self.heard);
        let more = self.heard.len() > before;
        let mut used = 0;
        while let Some((said, length)) = decode::<Reply>(&self.heard[used..]).expect("the shim's own frames")
        {
            used += length;
            match said {
                Reply::Response { id, result } => {
                    *self.asked.get_mut(&id).expect("it was asked") += 1;
                    match result {
                        Err(failure) => is_text(&failure.message),
                        Ok(Answer::State(state)) => {
                            state.containers.iter().filter_map(|c| c.error.as_deref()).for_each(is_text);
                        }
                        Ok(_) => {}
                    }
                }
                Reply::Event(Event::Started { container, .. } | Event::Output { container, .. }) => {
                    is_text(&container);
                }
                Reply::Event(_) => {}
            }
        }
        self.heard.drain(..used);
        more
    }
}

fn is_text(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() < 16 << 10, "{} bytes of words", text.len());
}

fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

fn parsed<T: std::str::FromStr + Default>(text: &[u8]) -> T {
    std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn empty(far: &impl std::os::fd::AsFd) {
    let flags = rustix::fs::fcntl_getfl(far).expect("it is open");
    rustix::fs::fcntl_setfl(far, flags | rustix::fs::OFlags::NONBLOCK).expect("it is open");
    while rustix::io::read(far, &mut [0; 4096]).is_ok_and(|count| count > 0) {}
}
