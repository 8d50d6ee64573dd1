//! Network namespaces with a name, and threads inside them.
//!
//! Only threads made for it ever enter a namespace: they end there, or live there for good. A tokio worker that
//! entered one and kept running other tasks would send their packets into the wrong network.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::error::{Error, Result};

const THREAD_NAMESPACE: &str = "/proc/thread-self/ns/net";
const NSFS_MAGIC: libc::c_long = 0x6e73_6673;

/// An open namespace: it exists as long as this does, or its name.
#[derive(Clone, Debug)]
pub(crate) struct NetNs {
    path: PathBuf,
    file: Arc<File>,
}

impl NetNs {
    /// Makes a namespace, prepares it from inside, and gives it the name `path`; nothing stays when it fails.
    pub(crate) fn create<T: Send>(
        path: &Path,
        prepare: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(Self, T)> {
        let what = || format!("making the network namespace {}", path.display());
        File::create(path).map_err(Error::io(what()))?;
        let made = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: unshare takes no pointers; it changes this thread only, which ends here.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return Err(Error::io(what())(io::Error::last_os_error()));
                }
                let prepared = prepare()?;
                bind(Path::new(THREAD_NAMESPACE), path).map_err(Error::io(what()))?;
                Ok(prepared)
            });
            inside.join().unwrap_or_else(|_| Err(Error::WorkerGone { namespace: path.display().to_string() }))
        });
        let opened = made.and_then(|prepared| {
            let opened = Self::open(path)?;
            Ok((opened.ok_or_else(|| Error::UnknownNetns { name: path.display().to_string() })?, prepared))
        });
        if opened.is_err() {
            // The first error is the one to tell.
            let _ = Self::remove_name(path);
        }
        opened
    }

    /// `None` when there is no such name or it names no namespace (a crash between file and mount).
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("opening {}", path.display()))(error)),
        };
        // SAFETY: statfs is plain data for which zeroes are a value; the kernel fills it.
        let magic = unsafe {
            let mut stat: libc::statfs = std::mem::zeroed();
            if libc::fstatfs(file.as_raw_fd(), &raw mut stat) != 0 {
                return Err(Error::io(format!("looking at {}", path.display()))(io::Error::last_os_error()));
            }
            stat.f_type as libc::c_long
        };
        Ok((magic == NSFS_MAGIC).then(|| Self { path: path.to_owned(), file: Arc::new(file) }))
    }

    /// Takes the name away; the namespace ends with its last process, socket and open file.
    pub(crate) fn remove_name(path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| Error::io(format!("unmounting {}", path.display()))(error.into()))?;
        // SAFETY: the name is a live C string.
        while unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) } == 0 {}
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) {
            return Err(Error::io(format!("unmounting {}", path.display()))(error));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `action` in the namespace, on a thread that ends with it.
    pub(crate) fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                Ok(action())
            });
            inside
                .join()
                .unwrap_or_else(|_| Err(Error::WorkerGone { namespace: self.path.display().to_string() }))
        })
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: setns takes no pointers; it changes the calling thread only, which was made for it.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            let what = format!("entering the network namespace {}", self.path.display());
            return Err(Error::io(what)(io::Error::last_os_error()));
        }
        Ok(())
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let source = CString::new(source.as_os_str().as_bytes())?;
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both names are live C strings; a bind mount takes neither type nor data.
    let result = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Jobs that may wait for a worker's attention.
const WORKER_QUEUE: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in a namespace and does small jobs there (makes sockets). It ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    jobs: mpsc::SyncSender<Job>,
    namespace: Arc<str>,
}

impl Worker {
    pub(crate) fn start(namespace: &NetNs) -> Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(WORKER_QUEUE);
        let name: Arc<str> = namespace.path.display().to_string().into();
        let (namespace, (entered, result)) = (namespace.clone(), mpsc::sync_channel(1));
        thread::Builder::new()
            .name("vpc-uplink".into())
            .spawn(move || {
                let inside = namespace.enter();
                let stay = inside.is_ok();
                // The namespace's file is not held: the worker must not keep a namespace alive after its name.
                drop(namespace);
                let _ = entered.send(inside);
                if stay {
                    queue.into_iter().for_each(|job| job());
                }
            })
            .map_err(Error::io("starting a thread"))?;
        result.recv().unwrap_or_else(|_| Err(Error::WorkerGone { namespace: name.to_string() }))?;
        Ok(Self { jobs, namespace: name })
    }

    /// For small jobs that do not block.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        action: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, result) = tokio::sync::oneshot::channel();
        let gone =
            || io::Error::other(format!("the thread in {} is gone or drowned in work", self.namespace));
        let job = Box::new(move || {
            // Nobody waits any more: the result is dropped.
            let _ = answer.send(action());
        });
        self.jobs.try_send(job).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}
