//! A further process in a running container.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferrogate_shim::protocol::{self, Call};
use oci_spec::runtime::Spec;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::client::Client;
use crate::Error;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    /// Over the container's own environment.
    pub environment: BTreeMap<String, String>,
    /// `None`: as the container's.
    pub user: Option<String>,
    /// `None`: as the container's.
    pub working_directory: Option<String>,
    /// Otherwise stdin is empty.
    pub stdin: bool,
}

/// A running exec. Dropping it leaves the process running and its exit uncollected until the task ends.
pub struct Exec {
    pub id: String,
    /// As the host sees it.
    pub pid: i32,
    pub stdin: Option<pipe::Sender>,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    exit: oneshot::Receiver<i32>,
    client: Arc<Client>,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl Exec {
    pub(crate) async fn start(
        client: Arc<Client>,
        container: &str,
        spec: &Spec,
        user: Option<String>,
        exec: ExecSpec,
    ) -> Result<Exec, Error> {
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_args(Some(exec.argv));
        let mut environment = process.env().clone().unwrap_or_default();
        crate::spec::overlay_environment(&mut environment, &exec.environment);
        process.set_env(Some(environment));
        if let Some(directory) = exec.working_directory {
            process.set_cwd(directory.into());
        }

        // Unique among the execs of agents before and after this one.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let id = format!("exec-{:x}-{}", now.as_nanos(), SEQUENCE.fetch_add(1, Ordering::Relaxed));
        let io = |source| Error::Io { action: "make pipes for", path: id.clone().into(), source };
        let (stdin_read, stdin) = if exec.stdin {
            let (sender, receiver) = pipe::pipe().map_err(io)?;
            (receiver.into_blocking_fd().map_err(io)?, Some(sender))
        } else {
            (OwnedFd::from(std::fs::File::open("/dev/null").map_err(io)?), None)
        };
        let (stdout_write, stdout) = output_pipe().map_err(io)?;
        let (stderr_write, stderr) = output_pipe().map_err(io)?;

        let exit = client.watch_exec(&id);
        let call = Call::Exec(Box::new(protocol::Exec {
            id: id.clone(),
            container: container.to_owned(),
            process,
            user: exec.user.or(user),
        }));
        let pid = match client.started(call, vec![stdin_read, stdout_write, stderr_write]).await {
            Ok(pid) => pid,
            Err(error) => {
                client.unwatch_exec(&id);
                return Err(error);
            }
        };
        Ok(Exec { id, pid, stdin, stdout, stderr, exit, client })
    }

    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        self.client.done(Call::SignalExec { exec: self.id.clone(), signal }).await
    }

    /// As [`Exec::wait`], with everything it writes read and thrown away: a process whose output nobody takes would
    /// wait for ever once a pipe is full.
    pub async fn wait_discarding(&mut self) -> Result<i32, Error> {
        use tokio::io::{copy, sink};
        let Exec { stdout, stderr, exit, .. } = self;
        let (mut out, mut err) = (sink(), sink());
        let output = async {
            let _ = tokio::join!(copy(stdout, &mut out), copy(stderr, &mut err));
            std::future::pending::<()>().await;
        };
        let code = tokio::select! {
            code = exit => code,
            () = output => unreachable!("it never ends"),
        };
        let code = code.map_err(|_| self.client.lost())?;
        self.client.done(Call::DeleteExec { exec: self.id.clone() }).await?;
        Ok(code)
    }

    /// Its exit code, 128 + signal when one ended it. Collects it: the shim forgets the exec. Cancel-safe.
    pub async fn wait(&mut self) -> Result<i32, Error> {
        let code = (&mut self.exit).await.map_err(|_| self.client.lost())?;
        self.client.done(Call::DeleteExec { exec: self.id.clone() }).await?;
        Ok(code)
    }
}

fn output_pipe() -> std::io::Result<(OwnedFd, pipe::Receiver)> {
    let (sender, receiver) = pipe::pipe()?;
    Ok((sender.into_blocking_fd()?, receiver))
}
