//! One service as the proxy knows it: its instances as they are, and connections to them.

use std::net::SocketAddrV4;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::net::TcpStream;

use super::hosts::{Hosts, Outcome};
use super::listen::prepare;
use super::pool::Pool;
use super::seldom::Seldom;
use super::split::Traffic;
use crate::alb::random;

/// For a connection to be taken: long enough for a first packet that was lost to be sent again, and three attempts are over
/// well before a request's time.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Before an instance that has failed already is tried once more.
const BACKOFF: Duration = Duration::from_millis(25);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// As `hosts` and `seldom` want it.
pub(super) fn now() -> Duration {
    START.elapsed()
}

/// The revision that gets something, chosen once.
pub(super) struct Aim {
    traffic: Option<Arc<Traffic>>,
    revision: Option<String>,
}

pub(super) struct Cluster {
    /// The service's, in words for a person.
    name: String,
    hosts: Mutex<Hosts>,
    /// `None`: all instances get as much as any.
    traffic: Mutex<Option<Arc<Traffic>>>,
    /// What was said last of its instances; `None`: nothing.
    told: Mutex<Option<Vec<SocketAddrV4>>>,
    /// Requests and connections that no instance took.
    failed: Mutex<Seldom>,
    pub(super) pool: Arc<Pool>,
}

impl Cluster {
    pub(super) fn new(name: &str) -> Self {
        let start = random::below(1 << 16) as usize;
        Self {
            name: name.to_owned(),
            hosts: Mutex::new(Hosts::new(start)),
            traffic: Mutex::default(),
            told: Mutex::default(),
            failed: Mutex::default(),
            pool: Arc::default(),
        }
    }

    pub(super) fn set(&self, addresses: &[SocketAddrV4]) {
        self.pool.keep(addresses);
        self.hosts().set(addresses, now());
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        let (service, instances) = (&self.name, addresses.len());
        let mut told = lock(&self.told);
        if told.as_ref() == Some(&sorted) {
            return;
        }
        *told = Some(sorted);
        match instances {
            0 => tracing::warn!(service, "a service has no instance"),
            _ => tracing::info!(service, instances, "the instances of a service"),
        }
    }

    /// Nobody took a request or a connection.
    pub(super) fn failed(&self, why: &dyn std::fmt::Display) {
        let service = &self.name;
        if let Some(times) = lock(&self.failed).happened(now()) {
            tracing::warn!(service, times, "{why}");
        }
    }

    /// What is looked at now and then.
    pub(super) fn sweep(&self) {
        self.pool.sweep();
        let service = &self.name;
        for address in self.hosts().let_in(now()) {
            tracing::info!(service, %address, "an instance that was left alone is called again");
        }
        if let Some(times) = lock(&self.failed).due(now()) {
            tracing::warn!(service, times, "nobody took requests or connections");
        }
    }

    /// From now on its revisions share it so.
    pub(super) fn share(&self, traffic: Option<Traffic>) {
        let mut known = lock(&self.traffic);
        if known.as_deref() != traffic.as_ref() {
            tracing::info!(service = self.name, traffic = ?traffic, "how the revisions of a service share it");
            *known = traffic.map(Arc::new);
        }
    }

    /// For whom a request with these headers, or a connection, is.
    pub(super) fn aim(&self, headers: Option<&HeaderMap>) -> Aim {
        let traffic = lock(&self.traffic).clone();
        let revision =
            traffic.as_ref().and_then(|traffic| traffic.aim(headers, random::below)).map(str::to_owned);
        Aim { traffic, revision }
    }

    /// The next instance, and noted as tried; `None`: the service has none.
    pub(super) async fn pick(&self, aim: &Aim, tried: &mut Vec<SocketAddrV4>) -> Option<SocketAddrV4> {
        let picked = self.next(aim, tried)?;
        if tried.contains(&picked) {
            tokio::time::sleep(BACKOFF).await;
        }
        tried.push(picked);
        Some(picked)
    }

    fn next(&self, aim: &Aim, tried: &[SocketAddrV4]) -> Option<SocketAddrV4> {
        let (mut hosts, now) = (self.hosts(), now());
        let Some(traffic) = &aim.traffic else { return hosts.pick(tried, now) };
        let wanted = aim.revision.as_ref();
        let of_it =
            wanted.and_then(|revision| hosts.pick_of(tried, now, |address| traffic.is_of(address, revision)));
        // That never more than half of a service is left alone says nothing of one revision.
        of_it
            .or_else(|| hosts.pick_of(tried, now, |address| traffic.serves(address)))
            .or_else(|| hosts.pick_any_of(tried, |address| traffic.serves(address)))
            .or_else(|| hosts.pick_any_of(tried, |address| traffic.is_beside(address)))
    }

    pub(super) fn settle(&self, address: SocketAddrV4, outcome: Outcome) {
        let ejected = self.hosts().settle(address, outcome, now());
        if let Some(time) = ejected {
            let (service, seconds) = (&self.name, time.as_secs());
            tracing::warn!(service, %address, seconds, "an instance fails and is left alone");
        }
    }

    /// A new connection. Whether there is one is settled here.
    pub(super) async fn connect(&self, address: SocketAddrV4) -> std::io::Result<TcpStream> {
        let connected = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match connected {
            Ok(stream) => {
                prepare(&stream);
                Ok(stream)
            }
            Err(error) => {
                tracing::debug!(%address, %error, "no connection to an instance");
                self.settle(address, Outcome::Failed);
                Err(error)
            }
        }
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        lock(&self.hosts)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
