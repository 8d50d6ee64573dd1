//! The resolver of each VPC, at its base address plus two and at 169.254.169.253 ("Amazon DNS server", VPC user guide).
//!
//! It answers the private names of addresses itself (`ip-172-31-0-5.ec2.internal`, and back), and passes everything
//! else to the resolvers of the host, as AWS's passes it to the internet's.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ferrogate_nodeapi::{Fabric, VpcFabric as DesiredVpc};
use ferrogate_vpc::VpcFabric;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Questions of one VPC that are being answered at a time; more are dropped, and asked again.
const QUESTIONS_MAX: usize = 1024;
/// What a UDP message holds: EDNS clients say 4096 at most in practice.
const UDP_BYTES_MAX: usize = 4096;
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const TTL_SECONDS: u32 = 60;

/// The resolvers of all VPCs that have an interface here.
#[derive(Default)]
pub(crate) struct Resolvers {
    running: HashMap<String, JoinSet<()>>,
}

impl Resolvers {
    /// Begins with VPCs that are new and ends with those that are gone.
    pub(crate) async fn sync(&mut self, fabric: &VpcFabric, wanted: &Fabric) {
        self.running.retain(|vpc_id, _| wanted.vpcs.iter().any(|vpc| vpc.vpc_id == *vpc_id));
        for vpc in &wanted.vpcs {
            if vpc.enis.is_empty() || self.running.contains_key(&vpc.vpc_id) {
                continue;
            }
            match serve(fabric, vpc).await {
                Ok(tasks) => drop(self.running.insert(vpc.vpc_id.clone(), tasks)),
                Err(error) => tracing::error!(error, vpc = vpc.vpc_id, "the VPC's resolver cannot be served"),
            }
        }
    }
}

async fn serve(fabric: &VpcFabric, vpc: &DesiredVpc) -> Result<JoinSet<()>, String> {
    let sockets = fabric.dns_sockets(&vpc.vpc_id).await.map_err(|error| error.to_string())?;
    let resolver = Arc::new(Resolver {
        cidrs: vpc.cidrs.clone(),
        upstream: upstream(),
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
    Ok(tasks)
}

/// The host's own resolvers.
fn upstream() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers =
        text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|ip| SocketAddr::new(ip, 53)).collect()
}

pub(crate) struct Resolver {
    cidrs: Vec<Ipv4Net>,
    upstream: Vec<SocketAddr>,
    slots: Arc<Semaphore>,
}

impl Resolver {
    async fn udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; UDP_BYTES_MAX];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else { continue };
            let (resolver, socket, question) =
                (Arc::clone(&self), Arc::clone(&socket), buffer[..length].to_vec());
            tokio::spawn(async move {
                if let Some(answer) = resolver.answer(&question, false).await {
                    let _ = socket.send_to(&answer, peer).await;
                }
                drop(slot);
            });
        }
    }

    async fn tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
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
            let Some(answer) = self.answer(&question?, true).await else { return Ok(()) };
            write_message(&mut stream, &answer).await?;
        }
    }

    /// `None`: what came is no question, and gets no answer.
    pub(crate) async fn answer(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let message = Message::from_vec(question).ok()?;
        let query = message.queries.first()?;
        match self.own(query.name(), query.query_type()) {
            Own::Answer(record) => {
                let mut response = message.into_response();
                response.metadata.recursion_available = true;
                response.answers.extend(record.map(|record| *record));
                response.to_vec().ok()
            }
            Own::NoSuchName => failure(message, ResponseCode::NXDomain),
            Own::NotOurs => match self.forward(question, tcp).await {
                Some(answer) => Some(answer),
                None => failure(message, ResponseCode::ServFail),
            },
        }
    }

    /// Names of private addresses, and addresses of the VPC.
    fn own(&self, name: &Name, kind: RecordType) -> Own {
        let text = name.to_ascii().to_lowercase();
        let text = text.trim_end_matches('.');
        if let Some(address) = address_of(text) {
            if !self.cidrs.iter().any(|cidr| cidr.contains(&address)) {
                return Own::NoSuchName;
            }
            let record = (kind == RecordType::A)
                .then(|| Record::from_rdata(name.clone(), TTL_SECONDS, RData::A(A(address))));
            return Own::Answer(record.map(Box::new));
        }
        let Some(address) = reverse_of(text) else { return Own::NotOurs };
        if !self.cidrs.iter().any(|cidr| cidr.contains(&address)) {
            return Own::NotOurs;
        }
        let [a, b, c, d] = address.octets();
        let Ok(target) = Name::from_ascii(format!("ip-{a}-{b}-{c}-{d}.ec2.internal.")) else {
            return Own::NoSuchName;
        };
        let record = (kind == RecordType::PTR)
            .then(|| Record::from_rdata(name.clone(), TTL_SECONDS, RData::PTR(PTR(target))));
        Own::Answer(record.map(Box::new))
    }

    /// From the host's namespace, as the host itself would ask.
    async fn forward(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        for server in &self.upstream {
            let asked = if tcp { ask_tcp(*server, question).await } else { ask_udp(*server, question).await };
            if let Ok(answer) = asked {
                return Some(answer);
            }
        }
        None
    }
}

/// One without anybody to pass a question on to.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn alone() -> Resolver {
    let cidrs = vec![Ipv4Net::new_assert(Ipv4Addr::new(172, 31, 0, 0), 16)];
    Resolver { cidrs, upstream: Vec::new(), slots: Arc::new(Semaphore::new(1)) }
}

enum Own {
    /// The name is there, perhaps without a record of that kind.
    Answer(Option<Box<Record>>),
    NoSuchName,
    NotOurs,
}

fn failure(message: Message, code: ResponseCode) -> Option<Vec<u8>> {
    let mut response = message.into_response();
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.to_vec().ok()
}

/// `ip-172-31-0-5.ec2.internal`, `ip-10-0-0-9.eu-west-1.compute.internal`
fn address_of(name: &str) -> Option<Ipv4Addr> {
    let (host, domain) = name.split_once('.')?;
    if domain != "ec2.internal" && !domain.ends_with(".compute.internal") {
        return None;
    }
    let octets: Vec<u8> =
        host.strip_prefix("ip-")?.split('-').map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))
}

/// `5.0.31.172.in-addr.arpa`
fn reverse_of(name: &str) -> Option<Ipv4Addr> {
    let octets: Vec<u8> = name
        .strip_suffix(".in-addr.arpa")?
        .split('.')
        .rev()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        "[::]:0".parse().map_err(std::io::Error::other)?
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; UDP_BYTES_MAX];
    loop {
        let length = tokio::time::timeout(FORWARD_TIMEOUT, socket.recv(&mut buffer)).await??;
        // Only an answer to this very question is one.
        if length >= 2 && question.len() >= 2 && buffer[..2] == question[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let work = async {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, question).await?;
        read_message(&mut stream).await
    };
    tokio::time::timeout(FORWARD_TIMEOUT, work).await?
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_u16(length).await?;
    stream.write_all(message).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    async fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = alone().answer(&message.to_vec().unwrap(), false).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    #[tokio::test]
    async fn private_names_both_ways() {
        let answer = ask("IP-172-31-0-5.ec2.internal.", RecordType::A).await;
        assert_eq!(answer.answers[0].data, RData::A(A(Ipv4Addr::new(172, 31, 0, 5))));
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
    async fn without_a_resolver_behind_it_says_so() {
        let answer = ask("example.com.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn garbage_gets_no_answer() {
        assert_eq!(alone().answer(b"\x00\x01garbage", false).await, None);
    }
}
