//! One connection to a shim: calls and their answers, events as they come.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ferrogate_shim::protocol::{
    self, Answer, Call, Event, FRAME_BYTES_MAX, Failure, FailureKind, PROTOCOL_VERSION, Reply, Request,
    Status, TaskState,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::events::{TaskEvent, public};
use crate::Error;

/// Calls on their way to the shim; more wait.
const CALLS_QUEUED_MAX: usize = 64;
/// Events a slow reader may be behind before it is told that it missed some.
const EVENTS_QUEUED_MAX: usize = 1024;
const READ_BYTES: usize = 16 << 10;
/// Longest a shim that took the connection may say nothing on it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// stdin, stdout, stderr.
const DESCRIPTORS_MAX: usize = 3;

/// How far a container's output goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) log_end: u64,
    /// It has exited: `log_end` is final (until it is started again).
    pub(crate) ended: bool,
}

struct Outgoing {
    frame: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

type Waiting = oneshot::Sender<Result<Answer, Failure>>;

#[derive(Default)]
struct Tables {
    /// Why the connection is no more.
    lost: Option<String>,
    calls: HashMap<u64, Waiting>,
    execs: HashMap<String, oneshot::Sender<i32>>,
    progress: HashMap<String, watch::Sender<Progress>>,
    events: Option<broadcast::Sender<TaskEvent>>,
}

pub(crate) struct Client {
    directory: PathBuf,
    next_id: AtomicU64,
    outgoing: mpsc::Sender<Outgoing>,
    tables: Mutex<Tables>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Client {
    /// Connects, agrees on the version and subscribes.
    pub(crate) async fn connect(directory: &Path) -> Result<Arc<Client>, Error> {
        let lost = |why: String| Error::ShimLost { dir: directory.to_owned(), why };
        let stream = open(directory).await.map_err(|error| lost(error.to_string()))?;
        let stream = Arc::new(stream);
        let (outgoing, queue) = mpsc::channel(CALLS_QUEUED_MAX);
        let client = Arc::new(Client {
            directory: directory.to_owned(),
            next_id: AtomicU64::new(1),
            outgoing,
            tables: Mutex::new(Tables {
                events: Some(broadcast::channel(EVENTS_QUEUED_MAX).0),
                ..Tables::default()
            }),
            tasks: Mutex::new(Vec::new()),
        });
        let reader = tokio::spawn(read(Arc::clone(&stream), Arc::downgrade(&client)));
        let writer = tokio::spawn(write(stream, queue, Arc::downgrade(&client)));
        client.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend([reader, writer]);

        let agreed = async {
            match client.call(Call::Hello { version: PROTOCOL_VERSION }, Vec::new()).await? {
                Answer::Hello { version: PROTOCOL_VERSION, .. } => {}
                other => return Err(lost(format!("it speaks another protocol: {other:?}"))),
            }
            match client.call(Call::Subscribe, Vec::new()).await? {
                Answer::State(state) => client.learn(&state),
                other => return Err(unexpected(&other)),
            }
            Ok(())
        };
        let late = |_| Err(lost(format!("it did not answer within {} s", CONNECT_DEADLINE.as_secs())));
        tokio::time::timeout(CONNECT_DEADLINE, agreed).await.unwrap_or_else(late)?;
        Ok(client)
    }

    pub(crate) async fn call(&self, call: Call, descriptors: Vec<OwnedFd>) -> Result<Answer, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut frame = Vec::new();
        protocol::encode(&Request { id, call }, &mut frame)
            .map_err(|error| Error::Invalid { what: "the request".into(), why: error.to_string() })?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut tables = self.tables();
            if tables.lost.is_some() {
                drop(tables);
                return Err(self.lost());
            }
            tables.calls.insert(id, sender);
        }
        if self.outgoing.send(Outgoing { frame, descriptors }).await.is_err() {
            return Err(self.lost());
        }
        match receiver.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => Err(from_failure(failure)),
            Err(_) => Err(self.lost()),
        }
    }

    pub(crate) async fn done(&self, call: Call) -> Result<(), Error> {
        match self.call(call, Vec::new()).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn started(&self, call: Call, descriptors: Vec<OwnedFd>) -> Result<i32, Error> {
        match self.call(call, descriptors).await? {
            Answer::Started { pid } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<TaskEvent> {
        match &self.tables().events {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).0.subscribe(),
        }
    }

    pub(crate) fn progress(&self, container: &str) -> watch::Receiver<Progress> {
        let mut tables = self.tables();
        tables
            .progress
            .entry(container.to_owned())
            .or_insert_with(|| watch::channel(Progress::default()).0)
            .subscribe()
    }

    pub(crate) fn forget(&self, container: &str) {
        self.tables().progress.remove(container);
    }

    pub(crate) fn watch_exec(&self, id: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.tables().execs.insert(id.to_owned(), sender);
        receiver
    }

    pub(crate) fn unwatch_exec(&self, id: &str) {
        self.tables().execs.remove(id);
    }

    pub(crate) fn lost(&self) -> Error {
        let why = self.tables().lost.clone().unwrap_or_else(|| "the connection was closed".into());
        Error::ShimLost { dir: self.directory.clone(), why }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.tables().lost.is_some()
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, state: &TaskState) {
        for container in &state.containers {
            let ended = container.status == Status::Exited;
            self.set_progress(&container.id, container.log_end, Some(ended));
        }
    }

    fn set_progress(&self, container: &str, log_end: u64, ended: Option<bool>) {
        let mut tables = self.tables();
        let sender = tables
            .progress
            .entry(container.to_owned())
            .or_insert_with(|| watch::channel(Progress::default()).0);
        sender.send_modify(|progress| {
            progress.log_end = progress.log_end.max(log_end);
            progress.ended = ended.unwrap_or(progress.ended);
        });
    }

    fn take(&self, reply: Reply) {
        let event = match reply {
            Reply::Response { id, result } => {
                if let Some(waiting) = self.tables().calls.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = waiting.send(result);
                }
                return;
            }
            Reply::Event(event) => event,
        };
        match &event {
            Event::Started { container, .. } => self.set_progress(container, 0, Some(false)),
            Event::Output { container, end } => self.set_progress(container, *end, None),
            Event::Exited(exited) => self.set_progress(&exited.container, exited.log_end, Some(true)),
            Event::ExecExited { exec, exit_code, .. } => {
                if let Some(waiting) = self.tables().execs.remove(exec) {
                    let _ = waiting.send(*exit_code);
                }
            }
        }
        if let Some(event) = public(&event)
            && let Some(events) = &self.tables().events
        {
            // No reader is no error.
            let _ = events.send(event);
        }
    }

    /// The connection is over: everybody who waits learns it.
    fn close(&self, why: &str) {
        let mut tables = self.tables();
        tables.lost.get_or_insert_with(|| why.to_owned());
        tables.calls.clear();
        tables.execs.clear();
        tables.events = None;
        tables.progress.clear();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// The path may be longer than a socket address holds, so it is taken through the directory's descriptor.
async fn open(directory: &Path) -> io::Result<UnixStream> {
    let handle = std::fs::File::open(directory)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", handle.as_raw_fd(), protocol::SOCKET_FILE)).await
}

async fn read(stream: Arc<UnixStream>, client: Weak<Client>) {
    let why = match read_frames(&stream, &client).await {
        Ok(()) => "it closed the connection".to_owned(),
        Err(error) => error.to_string(),
    };
    if let Some(client) = client.upgrade() {
        client.close(&why);
    }
}

async fn read_frames(stream: &UnixStream, client: &Weak<Client>) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        stream.readable().await?;
        buffer.reserve(READ_BYTES);
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut used = 0;
        while let Some((reply, length)) =
            protocol::decode::<Reply>(&buffer[used..]).map_err(io::Error::other)?
        {
            used += length;
            let Some(client) = client.upgrade() else { return Ok(()) };
            client.take(reply);
        }
        buffer.drain(..used);
        debug_assert!(buffer.len() <= FRAME_BYTES_MAX + 4);
    }
}

async fn write(stream: Arc<UnixStream>, mut queue: mpsc::Receiver<Outgoing>, client: Weak<Client>) {
    while let Some(outgoing) = queue.recv().await {
        if let Err(error) = send(&stream, &outgoing).await {
            if let Some(client) = client.upgrade() {
                client.close(&error.to_string());
            }
            return;
        }
    }
}

/// A whole frame; the descriptors go with its first byte.
async fn send(stream: &UnixStream, outgoing: &Outgoing) -> io::Result<()> {
    let mut sent = 0;
    while sent < outgoing.frame.len() {
        let rest = &outgoing.frame[sent..];
        let descriptors: Vec<BorrowedFd<'_>> =
            if sent == 0 { outgoing.descriptors.iter().map(AsFd::as_fd).collect() } else { Vec::new() };
        sent += stream.async_io(Interest::WRITABLE, || send_some(stream, rest, &descriptors)).await?;
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one request"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(stream, &[io::IoSlice::new(bytes)], &mut ancillary, flags)?)
}

pub(crate) fn unexpected(answer: &Answer) -> Error {
    Error::Refused(format!("the shim answered something else: {answer:?}"))
}

fn from_failure(failure: Failure) -> Error {
    let message = failure.message;
    match failure.kind {
        FailureKind::NotFound => Error::NotFound(message),
        FailureKind::WrongState | FailureKind::AlreadyExists => Error::WrongState(message),
        FailureKind::NoSpace => Error::NoSpace(message),
        FailureKind::CannotExecute { exit_code } => Error::CannotExecute { message, exit_code },
        FailureKind::Invalid | FailureKind::Unsupported | FailureKind::Limit | FailureKind::System => {
            Error::Refused(message)
        }
    }
}
