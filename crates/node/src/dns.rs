//! The resolver of each VPC, at its base address plus two and at 169.254.169.253 ("Amazon DNS server", VPC user guide).
//!
//! ```text
//!  Names ──(follow)──► Index ──┐
//!  packet ─────────────────────┴─► ferrogate_dns::answer ─► sent at once
//!                                          └─► Forwarder (cache, the host's resolvers) ─► sent when it comes
//! ```
//!
//! What the zones of the VPC and its own private names say is answered in the loop that reads the socket; only what is
//! passed on to the resolvers of the host takes a task of its own, and there are at most `QUESTIONS_MAX` of them.

mod cache;
mod forward;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ferrogate_dns::{Index, Outcome, Transport, Vpc, answer};
use ferrogate_nodeapi::{Fabric, Names, VpcFabric as DesiredVpc};
use ferrogate_vpc::VpcFabric;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use forward::{Forwarder, read_message, write_message};

/// Questions of one VPC that are asked elsewhere at a time, and connections; more are dropped, and asked again.
const QUESTIONS_MAX: usize = 1024;
/// Longer ones are no questions.
const QUESTION_BYTES_MAX: usize = 4096;
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a socket's failure, so that one that fails again and again does not take the processor.
const FAILURE_PAUSE: Duration = Duration::from_millis(20);

/// The published names, arranged; a new value takes the place of the last one.
type Current = Arc<Shared<Index>>;
/// Read by many, replaced by one.
type Shared<T> = RwLock<Arc<T>>;

/// The resolvers of all VPCs that have an interface here.
pub(crate) struct Resolvers {
    running: HashMap<String, Running>,
    current: Current,
    forwarder: Arc<Forwarder>,
    _follow: JoinSet<()>,
}

struct Running {
    resolver: Arc<Resolver>,
    _tasks: JoinSet<()>,
}

impl Resolvers {
    /// `names`: what they answer for; they follow it.
    pub(crate) fn new(names: watch::Receiver<Arc<Names>>) -> Self {
        let current = Current::default();
        set(&current, Index::new(Arc::clone(&names.borrow())));
        let mut follow = JoinSet::new();
        follow.spawn(follow_names(names, Arc::clone(&current)));
        Self {
            running: HashMap::new(),
            current,
            forwarder: Arc::new(Forwarder::to_the_hosts()),
            _follow: follow,
        }
    }

    /// Begins with VPCs that are new, tells those that are there of their blocks, ends with those that are gone.
    pub(crate) async fn sync(&mut self, fabric: &VpcFabric, wanted: &Fabric) {
        self.running.retain(|vpc_id, _| wanted.vpcs.iter().any(|vpc| vpc.vpc_id == *vpc_id));
        for vpc in &wanted.vpcs {
            if let Some(running) = self.running.get(&vpc.vpc_id) {
                put(&running.resolver.vpc, identity(vpc));
                continue;
            }
            if vpc.enis.is_empty() {
                continue;
            }
            match self.serve(fabric, identity(vpc)).await {
                Ok(running) => drop(self.running.insert(vpc.vpc_id.clone(), running)),
                Err(error) => tracing::error!(error, vpc = vpc.vpc_id, "the VPC's resolver cannot be served"),
            }
        }
    }

    async fn serve(&self, fabric: &VpcFabric, vpc: Vpc) -> Result<Running, String> {
        let sockets = fabric.dns_sockets(&vpc.vpc_id).await.map_err(|error| error.to_string())?;
        let resolver = Arc::new(Resolver {
            vpc: RwLock::new(Arc::new(vpc)),
            current: Arc::clone(&self.current),
            forwarder: Arc::clone(&self.forwarder),
            slots: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        });
        let mut tasks = JoinSet::new();
        for socket in sockets.udp {
            let socket = UdpSocket::from_std(socket).map_err(|error| error.to_string())?;
            tasks.spawn(Arc::clone(&resolver).udp(Arc::new(socket)));
        }
        for listener in sockets.tcp {
            let listener = TcpListener::from_std(listener).map_err(|error| error.to_string())?;
            tasks.spawn(Arc::clone(&resolver).tcp(listener));
        }
        Ok(Running { resolver, _tasks: tasks })
    }
}

fn identity(vpc: &DesiredVpc) -> Vpc {
    Vpc { vpc_id: vpc.vpc_id.clone(), cidrs: vpc.cidrs.clone(), region: vpc.region.clone() }
}

fn set(current: &Current, index: Index) {
    for why in index.unreadable() {
        tracing::error!(why, "a record is left out of the answers");
    }
    put(current, index);
}

fn put<T>(shared: &Shared<T>, value: T) {
    *shared.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
}

fn get<T>(shared: &Shared<T>) -> Arc<T> {
    Arc::clone(&shared.read().unwrap_or_else(PoisonError::into_inner))
}

/// Until nobody publishes any more; the last names stay good.
async fn follow_names(mut names: watch::Receiver<Arc<Names>>, current: Current) {
    while names.changed().await.is_ok() {
        let wanted = Arc::clone(&names.borrow_and_update());
        let before = get(&current);
        // Tens of thousands of records take their time.
        match tokio::task::spawn_blocking(move || before.next(wanted)).await {
            Ok(index) => set(&current, index),
            Err(error) => tracing::error!(%error, "names could not be arranged; the former ones stay"),
        }
    }
}

pub(crate) struct Resolver {
    vpc: Shared<Vpc>,
    current: Current,
    forwarder: Arc<Forwarder>,
    slots: Arc<Semaphore>,
}

impl Resolver {
    async fn udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUESTION_BYTES_MAX];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            };
            match self.outcome(&buffer[..length], Transport::Udp) {
                Outcome::Answer(packet) => drop(socket.send_to(&packet, peer).await),
                Outcome::Nothing => {}
                Outcome::Forward(open) => {
                    let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { continue };
                    let (resolver, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tokio::spawn(async move {
                        let answer = resolver.forwarder.ask(&open).await;
                        if let Some(packet) = open.finish(answer.as_ref()) {
                            let _ = socket.send_to(&packet, peer).await;
                        }
                        drop(slot);
                    });
                }
            }
        }
    }

    async fn tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { continue };
            let resolver = Arc::clone(&self);
            tokio::spawn(async move {
                let _ = resolver.connection(stream).await;
                drop(slot);
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let Ok(question) = tokio::time::timeout(TCP_IDLE_TIMEOUT, read_message(&mut stream)).await else {
                return Ok(());
            };
            let Some(answer) = self.answer(&question?, Transport::Tcp).await else { return Ok(()) };
            tokio::time::timeout(TCP_IDLE_TIMEOUT, write_message(&mut stream, &answer)).await??;
        }
    }

    fn outcome(&self, packet: &[u8], transport: Transport) -> Outcome {
        answer(&get(&self.current), &get(&self.vpc), packet, transport, self.forwarder.random())
    }

    /// `None`: what came is no question, and gets no answer.
    pub(crate) async fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match self.outcome(question, transport) {
            Outcome::Answer(packet) => Some(packet),
            Outcome::Nothing => None,
            Outcome::Forward(open) => {
                let answer = self.forwarder.ask(&open).await;
                open.finish(answer.as_ref())
            }
        }
    }
}

/// One without anybody to pass a question on to, with a zone that has records of most kinds.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn alone() -> Resolver {
    use ferrogate_nodeapi::{RecordSet, Routing, Zone};
    let record = |name: &str, kind: &str, value: &str| RecordSet {
        name: name.into(),
        kind: kind.into(),
        ttl_seconds: 60,
        values: vec![value.into()],
        alias: None,
        routing: Routing::Simple,
        healthy: true,
    };
    let records = vec![
        record("web.local", "A", "10.0.0.1"),
        record("www.local", "CNAME", "web.local."),
        record("out.local", "CNAME", "www.example.com."),
        record("_http.local", "SRV", "1 1 80 web.local."),
        record("*.any.local", "TXT", "\"any\""),
    ];
    let zone = Zone { name: "local".into(), vpc_ids: Some(vec!["vpc-1".into()]), records };
    let index = Index::new(Arc::new(Names { revision: 1, zones: vec![zone] }));
    let cidrs = vec![ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(172, 31, 0, 0), 16)];
    Resolver {
        vpc: RwLock::new(Arc::new(Vpc { vpc_id: "vpc-1".into(), cidrs, region: "us-east-1".into() })),
        current: Arc::new(RwLock::new(Arc::new(index))),
        forwarder: Arc::new(Forwarder::to_nobody()),
        slots: Arc::new(Semaphore::new(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    async fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = alone().answer(&message.to_vec().unwrap(), Transport::Udp).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    #[tokio::test]
    async fn private_names_both_ways() {
        let answer = ask("IP-172-31-0-5.ec2.internal.", RecordType::A).await;
        assert_eq!(answer.answers[0].data.to_string(), "172.31.0.5");
        let answer = ask("5.0.31.172.in-addr.arpa.", RecordType::PTR).await;
        assert_eq!(answer.answers[0].data.to_string(), "ip-172-31-0-5.ec2.internal.");
        let answer = ask("ip-172-31-0-5.ec2.internal.", RecordType::AAAA).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    }

    #[tokio::test]
    async fn addresses_of_elsewhere_have_no_name_here() {
        let answer = ask("ip-10-0-0-1.ec2.internal.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }

    #[tokio::test]
    async fn zones_are_answered() {
        let answer = ask("www.local.", RecordType::A).await;
        assert_eq!(answer.answers.len(), 2);
        let answer = ask("nobody.local.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }

    #[tokio::test]
    async fn without_a_resolver_behind_it_says_so() {
        let answer = ask("example.com.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        let answer = ask("out.local.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn garbage_gets_no_answer() {
        assert_eq!(alone().answer(b"\x00\x01garbage", Transport::Udp).await, None);
    }

    #[tokio::test]
    async fn new_names_take_the_place_of_the_last() {
        let (publisher, names) = watch::channel(Arc::new(Names::default()));
        let resolvers = Resolvers::new(names);
        publisher.send_replace(Arc::new(Names { revision: 7, zones: Vec::new() }));
        while get(&resolvers.current).revision() != 7 {
            tokio::task::yield_now().await;
        }
    }
}
