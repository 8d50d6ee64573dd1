//! Which instance of a service is next, and which are left alone for a while. Pure: the time is given, as what has passed
//! since some moment that never changes.
//!
//! Instances come one after the other. One that failed five times in a row within 30 seconds is left alone for 30 seconds,
//! for 60 when that happens again, up to 300; never more than half of them at once.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

/// So many in a row,
pub const FAILURES_MAX: usize = 5;
/// and the first of them not longer ago.
pub const FAILURES_WITHIN: Duration = Duration::from_secs(30);
/// The first time; each time after that so much longer, and forgotten again for each such time that went well.
pub const EJECTED_STEP: Duration = Duration::from_secs(30);
pub const EJECTED_MAX: Duration = Duration::from_secs(300);

/// How an attempt with an instance went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// No connection, none that lasted until an answer, no answer in time, or one that says that the server failed (5xx).
    Failed,
}

/// The instances of one service.
#[derive(Debug, Default)]
pub struct Hosts {
    hosts: Vec<Host>,
    /// Where the search for the next one begins.
    next: usize,
}

#[derive(Debug)]
struct Host {
    address: SocketAddrV4,
    /// The last ones in a row, [`FAILURES_MAX`] at most.
    failures: VecDeque<Duration>,
    /// It is left alone until then; in the past: it was.
    ejected_until: Option<Duration>,
    /// Nobody has been told that it is let in again.
    is_out: bool,
    ejections: u32,
}

impl Host {
    fn is_ejected(&self, now: Duration) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    fn eject(&mut self, now: Duration) -> Duration {
        let good = self.ejected_until.map_or(Duration::ZERO, |until| now.saturating_sub(until));
        let forgotten = u32::try_from(good.as_secs() / EJECTED_STEP.as_secs()).unwrap_or(u32::MAX);
        self.ejections = self.ejections.saturating_sub(forgotten).saturating_add(1);
        let time = EJECTED_STEP.saturating_mul(self.ejections).min(EJECTED_MAX);
        self.failures.clear();
        self.ejected_until = Some(now + time);
        self.is_out = true;
        time
    }
}

impl Hosts {
    /// `start`: any number. Proxies that begin together do not all begin with the same instance.
    pub fn new(start: usize) -> Self {
        Self { hosts: Vec::new(), next: start }
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// These and no others. What is known of those that stay stays.
    pub fn set(&mut self, addresses: &[SocketAddrV4], now: Duration) {
        let mut former = std::mem::take(&mut self.hosts);
        for address in addresses {
            if self.hosts.iter().any(|host| host.address == *address) {
                continue;
            }
            let known = former.iter().position(|host| host.address == *address);
            let host = known.map(|at| former.swap_remove(at)).unwrap_or_else(|| Host {
                address: *address,
                failures: VecDeque::with_capacity(FAILURES_MAX),
                ejected_until: None,
                is_out: false,
                ejections: 0,
            });
            self.hosts.push(host);
        }
        while self.ejected(now) > self.hosts.len() / 2 {
            let ejected = self.hosts.iter_mut().filter(|host| host.is_ejected(now));
            if let Some(soonest) = ejected.min_by_key(|host| host.ejected_until) {
                soonest.ejected_until = Some(now);
            }
        }
    }

    /// The next one, if possible none of those that were tried; `None`: there is none at all.
    pub fn pick(&mut self, tried: &[SocketAddrV4], now: Duration) -> Option<SocketAddrV4> {
        self.pick_of(tried, now, |_| true)
    }

    /// The same of those that `may` be it.
    pub fn pick_of(
        &mut self,
        tried: &[SocketAddrV4],
        now: Duration,
        may: impl Fn(&SocketAddrV4) -> bool,
    ) -> Option<SocketAddrV4> {
        self.pick_where(tried, |host| !host.is_ejected(now) && may(&host.address))
    }

    /// The same, with those that are left alone.
    pub fn pick_any_of(
        &mut self,
        tried: &[SocketAddrV4],
        may: impl Fn(&SocketAddrV4) -> bool,
    ) -> Option<SocketAddrV4> {
        self.pick_where(tried, |host| may(&host.address))
    }

    fn pick_where(
        &mut self,
        tried: &[SocketAddrV4],
        is_usable: impl Fn(&Host) -> bool,
    ) -> Option<SocketAddrV4> {
        let count = self.hosts.len();
        let in_turn = (0..count).map(|step| (self.next % count + step) % count);
        let usable: Vec<usize> = in_turn.filter(|at| is_usable(&self.hosts[*at])).collect();
        let fresh = usable.iter().find(|at| !tried.contains(&self.hosts[**at].address));
        let at = *fresh.or(usable.first())?;
        self.next = at + 1;
        Some(self.hosts[at].address)
    }

    /// How an attempt went. For how long the instance is left alone now, if that is because of this one.
    pub fn settle(&mut self, address: SocketAddrV4, outcome: Outcome, now: Duration) -> Option<Duration> {
        let (count, ejected) = (self.hosts.len(), self.ejected(now));
        let host = self.hosts.iter_mut().find(|host| host.address == address)?;
        if host.is_ejected(now) {
            return None;
        }
        if outcome == Outcome::Good {
            host.failures.clear();
            return None;
        }
        if host.failures.len() == FAILURES_MAX {
            host.failures.pop_front();
        }
        host.failures.push_back(now);
        let first = *host.failures.front()?;
        let fails = host.failures.len() == FAILURES_MAX && now.saturating_sub(first) <= FAILURES_WITHIN;
        (fails && ejected < count / 2).then(|| host.eject(now))
    }

    /// Those that were left alone and are not any more, each once.
    pub fn let_in(&mut self, now: Duration) -> Vec<SocketAddrV4> {
        let back = self.hosts.iter_mut().filter(|host| host.is_out && !host.is_ejected(now));
        back.map(|host| {
            host.is_out = false;
            host.address
        })
        .collect()
    }

    fn ejected(&self, now: Duration) -> usize {
        self.hosts.iter().filter(|host| host.is_ejected(now)).count()
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
