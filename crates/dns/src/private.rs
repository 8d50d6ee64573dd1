//! The VPC's own names: of its addresses, both ways ("DNS attributes for your VPC", VPC user guide).

use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::Ipv4Net;

use crate::name::wire;

const TTL_SECONDS: u32 = 60;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vpc {
    /// `vpc-…`
    pub vpc_id: String,
    pub cidrs: Vec<Ipv4Net>,
    /// `us-east-1`; chooses the domain of the private names.
    pub region: String,
}

pub(crate) enum Own {
    /// The name is there, perhaps without a record of that kind.
    Record(Option<Box<Record>>),
    NoSuchName,
    NotOurs,
}

impl Vpc {
    /// `ec2.internal` in us-east-1, `<region>.compute.internal` elsewhere.
    fn domain(&self) -> String {
        match self.region.as_str() {
            "" | "us-east-1" => "ec2.internal".into(),
            region => format!("{region}.compute.internal"),
        }
    }

    fn has(&self, address: Ipv4Addr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    pub(crate) fn own(&self, key: &str, owner: &Name, kind: RecordType) -> Own {
        if let Some((address, domain)) = address_of(key) {
            if domain != self.domain() || !self.has(address) {
                return Own::NoSuchName;
            }
            let record = Record::from_rdata(owner.clone(), TTL_SECONDS, RData::A(A(address)));
            return Own::Record(wanted(kind, RecordType::A).then(|| Box::new(record)));
        }
        let Some(address) = reverse_of(key).filter(|address| self.has(*address)) else { return Own::NotOurs };
        let [a, b, c, d] = address.octets();
        let Ok(target) = wire(&format!("ip-{a}-{b}-{c}-{d}.{}", self.domain())) else {
            return Own::NoSuchName;
        };
        let record = Record::from_rdata(owner.clone(), TTL_SECONDS, RData::PTR(PTR(target)));
        Own::Record(wanted(kind, RecordType::PTR).then(|| Box::new(record)))
    }
}

fn wanted(asked: RecordType, kind: RecordType) -> bool {
    asked == kind || asked == RecordType::ANY
}

/// `ip-172-31-0-5.ec2.internal`, `ip-10-0-0-9.eu-west-1.compute.internal`
fn address_of(name: &str) -> Option<(Ipv4Addr, &str)> {
    let (host, domain) = name.split_once('.')?;
    if domain != "ec2.internal" && !domain.ends_with(".compute.internal") {
        return None;
    }
    Some((octets(host.strip_prefix("ip-")?.split('-'))?, domain))
}

/// `5.0.31.172.in-addr.arpa`
fn reverse_of(name: &str) -> Option<Ipv4Addr> {
    octets(name.strip_suffix(".in-addr.arpa")?.rsplit('.'))
}

fn octets<'a>(parts: impl Iterator<Item = &'a str>) -> Option<Ipv4Addr> {
    let octets: Vec<u8> = parts.take(5).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))
}
