//! A further process in a running container.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use ferrogate_shim::descriptor;
use ferrogate_shim::protocol::{self, Call, WindowSize};
use rustix::fs::OFlags;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::client::Client;
use crate::Error;

/// To a process. Back-pressure is the kernel's: a write waits while the process does not read.
pub type ExecInput = Pin<Box<dyn AsyncWrite + Send + Sync>>;
/// From a process. It ends when the last writer has gone.
pub type ExecOutput = Pin<Box<dyn AsyncRead + Send + Sync>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    /// Over the container's own environment.
    pub environment: BTreeMap<String, String>,
    /// `None`: as the container's.
    pub user: Option<String>,
    /// `None`: as the container's.
    pub working_directory: Option<String>,
    /// Otherwise stdin is empty. With a terminal there always is one.
    pub stdin: bool,
    /// A controlling terminal of this size, made in the container. What it shows, stderr too, comes on [`Exec::stdout`].
    pub terminal: Option<WindowSize>,
}

/// A running exec. It lives as long as this value: dropped, and also when the agent dies, the process is killed and
/// forgotten.
pub struct Exec {
    pub id: String,
    /// As the host sees it.
    pub pid: i32,
    /// Drop it to end the process's input; a terminal has no end of input (send `0x04` for that).
    pub stdin: Option<ExecInput>,
    pub stdout: ExecOutput,
    /// Nothing, for a process with a terminal.
    pub stderr: ExecOutput,
    terminal: Option<Terminal>,
    exit: oneshot::Receiver<i32>,
    /// What `exit` answered: it answers once.
    ended: Option<Result<i32, oneshot::error::RecvError>>,
    client: Arc<Client>,
    /// The shim has forgotten it.
    collected: bool,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl Exec {
    pub(crate) async fn start(client: Arc<Client>, container: &str, exec: ExecSpec) -> Result<Exec, Error> {
        // Unique among the execs of agents before and after this one.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let id = format!("exec-{:x}-{}", now.as_nanos(), SEQUENCE.fetch_add(1, Ordering::Relaxed));
        let io = |source| Error::Io { action: "make pipes for", path: id.clone().into(), source };
        let (descriptors, ours) = match exec.terminal {
            Some(_) => terminal_stdio().map_err(io)?,
            None => piped_stdio(exec.stdin).map_err(io)?,
        };
        let exit = client.watch_exec(&id);
        let call = Call::Exec(Box::new(protocol::Exec {
            id: id.clone(),
            container: container.to_owned(),
            arguments: exec.argv,
            environment: exec.environment.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            directory: exec.working_directory,
            user: exec.user,
            terminal: exec.terminal,
        }));
        // From here on a future that is dropped leaves nothing running either.
        let mut unfinished = Unfinished { client: Some(Arc::clone(&client)), id: id.clone() };
        let pid = client.started(call, descriptors).await?;
        let (stdin, stdout, stderr, terminal) = match ours {
            Ours::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr, None),
            Ours::Console(socket) => {
                let terminal = descriptor::receive(&socket).and_then(Terminal::new).map_err(io)?;
                let input: ExecInput = Box::pin(terminal.clone());
                let output: ExecOutput = Box::pin(terminal.clone());
                let nothing: ExecOutput = Box::pin(tokio::io::empty());
                (Some(input), output, nothing, Some(terminal))
            }
        };
        unfinished.client = None;
        Ok(Exec { id, pid, stdin, stdout, stderr, terminal, exit, ended: None, client, collected: false })
    }

    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        self.client.done(Call::SignalExec { exec: self.id.clone(), signal }).await
    }

    /// Tells the terminal its new size; the kernel sends SIGWINCH to who uses it.
    pub fn resize(&self, size: WindowSize) -> Result<(), Error> {
        let Some(terminal) = &self.terminal else {
            return Err(Error::Invalid {
                what: format!("a window size for {}", self.id),
                why: "it was started without a terminal".into(),
            });
        };
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(terminal.0.get_ref(), size).map_err(|error| Error::Io {
            action: "resize the terminal of",
            path: self.id.clone().into(),
            source: error.into(),
        })
    }

    /// As [`Exec::wait`], with the first `bytes_max` of what it writes; the rest is read and thrown away, as a process
    /// whose output nobody takes would wait for ever once a pipe is full. Cancel-safe.
    pub async fn wait_output(&mut self, output: &mut Vec<u8>, bytes_max: usize) -> Result<i32, Error> {
        let Exec { stdout, stderr, exit, ended, .. } = &mut *self;
        let (mut out, mut err) = ([0; OUTPUT_READ_BYTES], [0; OUTPUT_READ_BYTES]);
        let (mut out_open, mut err_open) = (true, true);
        let mut keep = |bytes: &[u8]| {
            let room = bytes_max.saturating_sub(output.len()).min(bytes.len());
            output.extend_from_slice(&bytes[..room]);
            !bytes.is_empty()
        };
        // Who asks again after a cancellation may have the answer already.
        while ended.is_none() {
            tokio::select! {
                read = stdout.read(&mut out), if out_open => out_open = keep(&out[..read.unwrap_or(0)]),
                read = stderr.read(&mut err), if err_open => err_open = keep(&err[..read.unwrap_or(0)]),
                answer = &mut *exit => *ended = Some(answer),
            }
        }
        // What it wrote before its end is there already; who still writes now is somebody else.
        for _ in 0..LAST_READS_MAX {
            tokio::select! {
                biased;
                read = stdout.read(&mut out), if out_open => out_open = keep(&out[..read.unwrap_or(0)]),
                read = stderr.read(&mut err), if err_open => err_open = keep(&err[..read.unwrap_or(0)]),
                () = std::future::ready(()) => break,
            }
        }
        self.collect().await
    }

    /// Its exit code, 128 + signal when one ended it. Collects it: the shim forgets the exec. Cancel-safe.
    pub async fn wait(&mut self) -> Result<i32, Error> {
        if self.ended.is_none() {
            self.ended = Some((&mut self.exit).await);
        }
        self.collect().await
    }

    async fn collect(&mut self) -> Result<i32, Error> {
        let Some(Ok(code)) = self.ended else { return Err(self.client.lost()) };
        if !self.collected {
            match self.client.done(Call::DeleteExec { exec: self.id.clone() }).await {
                // The first of two that ask, where the first was cancelled before it heard the answer.
                Ok(()) | Err(Error::NotFound(_)) => self.collected = true,
                Err(error) => return Err(error),
            }
        }
        Ok(code)
    }
}

const OUTPUT_READ_BYTES: usize = 4096;
/// Reads after the end: two full pipes.
const LAST_READS_MAX: usize = 2 * (64 << 10) / OUTPUT_READ_BYTES;

impl Drop for Exec {
    fn drop(&mut self) {
        if !self.collected {
            abandon(Arc::clone(&self.client), self.id.clone());
        }
    }
}

struct Unfinished {
    client: Option<Arc<Client>>,
    id: String,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            abandon(client, std::mem::take(&mut self.id));
        }
    }
}

fn abandon(client: Arc<Client>, id: String) {
    client.unwatch_exec(&id);
    // Without a runtime the agent is about to end, and its connections with it: the shim sees that.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let _ = client.done(Call::AbandonExec { exec: id }).await;
        });
    }
}

enum Ours {
    Pipes { stdin: Option<ExecInput>, stdout: ExecOutput, stderr: ExecOutput },
    Console(UnixStream),
}

fn piped_stdio(stdin: bool) -> io::Result<(Vec<OwnedFd>, Ours)> {
    let (stdin_read, stdin) = if stdin {
        let (sender, receiver) = pipe::pipe()?;
        let sender: ExecInput = Box::pin(sender);
        (receiver.into_blocking_fd()?, Some(sender))
    } else {
        (null()?, None)
    };
    let (stdout_write, stdout) = output_pipe()?;
    let (stderr_write, stderr) = output_pipe()?;
    Ok((vec![stdin_read, stdout_write, stderr_write], Ours::Pipes { stdin, stdout, stderr }))
}

fn terminal_stdio() -> io::Result<(Vec<OwnedFd>, Ours)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((vec![theirs.into(), null()?, null()?], Ours::Console(ours)))
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

fn output_pipe() -> io::Result<(OwnedFd, ExecOutput)> {
    let (sender, receiver) = pipe::pipe()?;
    let receiver: ExecOutput = Box::pin(receiver);
    Ok((sender.into_blocking_fd()?, receiver))
}

/// The outer end of a terminal.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::fs::fcntl_setfl(&descriptor, OFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` is the same open descriptor as long as it lives, and it lives in the `AsyncFd`.
        let registered = unsafe { AsyncFd::register(descriptor)? };
        Ok(Terminal(Arc::new(registered)))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let room = into.initialize_unfilled();
            match ready.try_io(|terminal| Ok(rustix::io::read(terminal.get_ref(), room)?)) {
                Ok(Ok(count)) => {
                    into.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the inner end open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_not_ready) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|terminal| Ok(rustix::io::write(terminal.get_ref(), bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(done) => return Poll::Ready(done),
                Err(_not_ready) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
