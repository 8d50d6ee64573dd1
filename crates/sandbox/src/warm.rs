//! Keeps the kernel's lock on cgroup membership at hand while tasks start.
//!
//! To move a process into a cgroup the kernel takes a lock that every fork and exit shares. Who takes it within some
//! milliseconds of the last one gets it at once; everybody else waits for an RCU grace period first (measured with
//! Linux 6.18: 11 ms at the median, against 0.2 ms). A start moves processes twice: its shim, and every container's
//! first process. So while one is under way this process says every few milliseconds that it is in the cgroup it is
//! in, which moves nothing and keeps the lock.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Well below what the kernel takes to let go.
const PERIOD: Duration = Duration::from_millis(4);
/// From one step of a start to the next.
const HOLD: Duration = Duration::from_millis(100);

/// Until when it is kept; `None`: nobody keeps it.
static UNTIL: Mutex<Option<Instant>> = Mutex::new(None);

/// For the next moments. Costs nothing where it is kept already, and a thread for as long otherwise.
pub(crate) fn keep() {
    let mut until = UNTIL.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = until.is_some();
    *until = Some(Instant::now() + HOLD);
    if !kept && std::thread::Builder::new().name("cgroup-lock".into()).spawn(stay).is_err() {
        *until = None;
    }
}

fn stay() {
    let place = place();
    loop {
        let stayed = place.as_deref().is_some_and(|place| say(place).is_ok());
        std::thread::sleep(PERIOD);
        let mut until = UNTIL.lock().unwrap_or_else(PoisonError::into_inner);
        if !stayed || until.is_none_or(|until| until < Instant::now()) {
            *until = None;
            return;
        }
    }
}

/// That this process is where it is.
fn say(place: &Path) -> std::io::Result<()> {
    std::fs::write(place, std::process::id().to_string())
}

/// The member list of a cgroup this process is in; any hierarchy will do. `None` where it cannot be seen.
fn place() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = std::process::id().to_string();
    let is_in = |place: &PathBuf| {
        std::fs::read_to_string(place).is_ok_and(|members| members.lines().any(|member| member == own))
    };
    text.lines().flat_map(candidates).find(is_in)
}

/// Where the member list of a line of `/proc/self/cgroup` may be.
fn candidates(line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let of = |mount: String| PathBuf::from(format!("/sys/fs/cgroup{mount}{path}/cgroup.procs"));
    match controllers {
        // Version 2 alone, or beside version 1.
        "" => vec![of(String::new()), of("/unified".into())],
        controllers => vec![of(format!("/{controllers}"))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_lists() {
        let paths = |line| candidates(line).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let both =
            ["/sys/fs/cgroup/user.slice/a/cgroup.procs", "/sys/fs/cgroup/unified/user.slice/a/cgroup.procs"];
        assert_eq!(paths("0::/user.slice/a"), both);
        assert_eq!(paths("7:cpu,cpuacct:/x"), ["/sys/fs/cgroup/cpu,cpuacct/x/cgroup.procs"]);
        assert_eq!(paths("garbage"), Vec::<String>::new());
    }

    /// Whatever it is allowed to here, it ends and can begin again.
    #[test]
    fn it_ends_by_itself() {
        let before = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for _ in 0..2 {
            keep();
            let end = Instant::now() + Duration::from_secs(30);
            while UNTIL.lock().unwrap().is_some() {
                assert!(Instant::now() < end, "the lock is kept for ever");
                std::thread::sleep(PERIOD);
            }
        }
        assert_eq!(std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(), before);
    }
}
