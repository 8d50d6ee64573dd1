//! Questions for the resolvers of the host, from its own namespace, as the host itself would ask.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferrogate_dns::{UDP_BYTES_MAX, Unfinished};
use hickory_proto::op::{Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::cache::{Cache, Key};

const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
/// resolv.conf(5), MAXNS.
const SERVERS_MAX: usize = 3;

/// One for all VPCs: what the host's resolvers say depends on no VPC.
pub(crate) struct Forwarder {
    /// `None`: nobody to ask.
    resolv_conf: Option<&'static str>,
    cache: Cache,
    random: Unpredictable,
}

impl Forwarder {
    pub(crate) fn to_the_hosts() -> Self {
        Self { resolv_conf: Some("/etc/resolv.conf"), ..Self::to_nobody() }
    }

    pub(crate) fn to_nobody() -> Self {
        Self { resolv_conf: None, cache: Cache::default(), random: Unpredictable::default() }
    }

    pub(crate) fn random(&self) -> u64 {
        self.random.next()
    }

    /// `None`: no server answered.
    pub(crate) async fn ask(&self, open: &Unfinished) -> Option<Message> {
        let key = Key::of(open.query(), open.wants_dnssec());
        if let Some(answer) = self.cache.get(&key, Instant::now()) {
            return Some(answer);
        }
        let id = u16::try_from(self.random() & 0xffff).unwrap_or_default();
        let question = open.question(id)?;
        for server in self.servers().await {
            let Ok(packet) = ask_udp(server, &question).await else { continue };
            let Some(mut answer) = answer_to(&packet, id, open) else { continue };
            let mut bytes = packet.len();
            if answer.metadata.truncation
                && let Ok(packet) = ask_tcp(server, &question).await
                && let Some(whole) = answer_to(&packet, id, open)
            {
                bytes = packet.len();
                answer = whole;
            }
            self.cache.put(key, &answer, bytes, Instant::now());
            return Some(answer);
        }
        None
    }

    /// As they are now: the host may move to another network.
    async fn servers(&self) -> Vec<SocketAddr> {
        let Some(path) = self.resolv_conf else { return Vec::new() };
        let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
        let servers = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
        servers.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, 53)).collect()
    }
}

/// Only an answer to this very question is one.
fn answer_to(packet: &[u8], id: u16, open: &Unfinished) -> Option<Message> {
    let message = Message::from_vec(packet).ok()?;
    let same = message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message.queries.first().is_none_or(|query| query == open.query());
    same.then_some(message)
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; usize::from(UDP_BYTES_MAX)];
    let answer = async {
        loop {
            let length = socket.recv(&mut buffer).await?;
            if length >= 2 && buffer[..2] == question[..2] {
                return Ok::<_, std::io::Error>(length);
            }
        }
    };
    let length = tokio::time::timeout(FORWARD_TIMEOUT, answer).await.map_err(std::io::Error::from)??;
    buffer.truncate(length);
    Ok(buffer)
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let work = async {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, question).await?;
        read_message(&mut stream).await
    };
    tokio::time::timeout(FORWARD_TIMEOUT, work).await?
}

pub(super) async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// Numbers that nobody can foresee: SipHash of a counter, under the keys that the standard library draws at random.
#[derive(Default)]
struct Unpredictable {
    keys: RandomState,
    counter: AtomicU64,
}

impl Unpredictable {
    fn next(&self) -> u64 {
        let mut hasher = self.keys.build_hasher();
        hasher.write_u64(self.counter.fetch_add(1, Ordering::Relaxed));
        hasher.finish()
    }
}
