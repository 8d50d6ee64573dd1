//! From packet to packet.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};

use crate::index::Index;
use crate::lookup::{Lookup, lookup};
use crate::private::Vpc;

/// The longest answer by UDP, whatever the client could take (RFC 9715 has less; AWS's resolver says 4096).
pub const UDP_BYTES_MAX: u16 = 4096;
const TCP_BYTES_MAX: usize = u16::MAX as usize;

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do with a packet.
#[derive(Debug)]
pub enum Outcome {
    Answer(Vec<u8>),
    /// To be asked upstream; the answer is then [`Unfinished::finish`].
    Forward(Box<Unfinished>),
    /// It is no question.
    Nothing,
}

/// A question whose answer, or its last part, is not known here.
#[derive(Debug)]
pub struct Unfinished {
    reply: Reply,
    before: Vec<Record>,
    query: Query,
    dnssec: bool,
    checking_disabled: bool,
}

impl Unfinished {
    /// What has to be asked.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Whether the client wants signatures with it: another question than the one without.
    pub fn wants_dnssec(&self) -> bool {
        self.dnssec
    }

    /// A packet to ask it with.
    pub fn question(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        edns.set_dnssec_ok(self.dnssec);
        message.set_edns(edns);
        message.to_vec().ok()
    }

    /// The packet for the client. `None`: nobody upstream answered.
    pub fn finish(self, upstream: Option<&Message>) -> Option<Vec<u8>> {
        let mut response = self.reply.response();
        response.add_answers(self.before);
        match upstream {
            None => response.metadata.response_code = ResponseCode::ServFail,
            Some(upstream) => {
                response.metadata.response_code = upstream.metadata.response_code;
                response.metadata.authentic_data = upstream.metadata.authentic_data;
                response.add_answers(upstream.answers.iter().cloned());
                response.add_authorities(upstream.authorities.iter().cloned());
                response.add_additionals(upstream.additionals.iter().cloned());
            }
        }
        self.reply.encode(response)
    }
}

/// What an answer takes over from its question.
#[derive(Debug)]
struct Reply {
    id: u16,
    op_code: OpCode,
    recursion_desired: bool,
    checking_disabled: bool,
    queries: Vec<Query>,
    edns: bool,
    bytes_max: usize,
}

impl Reply {
    fn of(question: &mut Message, transport: Transport) -> Self {
        let bytes_max = match transport {
            Transport::Tcp => TCP_BYTES_MAX,
            Transport::Udp => usize::from(question.max_payload().clamp(512, UDP_BYTES_MAX)),
        };
        // Several questions get no answer, and may be too long for one that says so.
        let mut queries = std::mem::take(&mut question.queries);
        if queries.len() > 1 {
            queries.clear();
        }
        Self {
            id: question.metadata.id,
            op_code: question.metadata.op_code,
            recursion_desired: question.metadata.recursion_desired,
            checking_disabled: question.metadata.checking_disabled,
            queries,
            edns: question.edns.is_some(),
            bytes_max,
        }
    }

    fn response(&self) -> Message {
        let mut response = Message::new(self.id, MessageType::Response, self.op_code);
        response.metadata.recursion_desired = self.recursion_desired;
        response.metadata.recursion_available = true;
        response.metadata.checking_disabled = self.checking_disabled;
        response.queries.clone_from(&self.queries);
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX);
            response.set_edns(edns);
        }
        response
    }

    fn code(&self, code: ResponseCode) -> Outcome {
        let mut response = self.response();
        response.metadata.response_code = code;
        self.outcome(response)
    }

    fn outcome(&self, response: Message) -> Outcome {
        self.encode(response).map_or(Outcome::Nothing, Outcome::Answer)
    }

    /// What does not fit goes: first what was only added, then all of it, and the client is told to come by TCP.
    fn encode(&self, mut response: Message) -> Option<Vec<u8>> {
        let packet = response.to_vec().ok()?;
        if packet.len() <= self.bytes_max {
            return Some(packet);
        }
        response.additionals.clear();
        let packet = response.to_vec().ok()?;
        if packet.len() <= self.bytes_max {
            return Some(packet);
        }
        response.metadata.truncation = true;
        response.answers.clear();
        response.authorities.clear();
        response.to_vec().ok().filter(|packet| packet.len() <= self.bytes_max)
    }
}

/// Answers a packet that came from an address of the VPC. `random` decides between records of the same right.
pub fn answer(index: &Index, vpc: &Vpc, packet: &[u8], transport: Transport, random: u64) -> Outcome {
    let Ok(mut question) = Message::from_vec(packet) else { return Outcome::Nothing };
    if question.metadata.message_type != MessageType::Query {
        return Outcome::Nothing;
    }
    let version = question.version();
    let dnssec = question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    let reply = Reply::of(&mut question, transport);
    if reply.op_code != OpCode::Query {
        return reply.code(ResponseCode::NotImp);
    }
    let [query] = reply.queries.as_slice() else { return reply.code(ResponseCode::FormErr) };
    if version > 0 {
        return reply.code(ResponseCode::BADVERS);
    }
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return reply.code(ResponseCode::Refused);
    }
    let Lookup { code, answers, authorities, additionals, elsewhere } =
        lookup(index, vpc, query.name(), query.query_type(), random);
    if let Some(name) = elsewhere {
        let mut query = query.clone();
        query.set_name(name);
        let checking_disabled = reply.checking_disabled;
        return Outcome::Forward(Box::new(Unfinished {
            reply,
            before: answers,
            query,
            dnssec,
            checking_disabled,
        }));
    }
    let mut response = reply.response();
    response.metadata.response_code = code;
    response.answers = answers;
    response.authorities = authorities;
    response.additionals = additionals;
    reply.outcome(response)
}
