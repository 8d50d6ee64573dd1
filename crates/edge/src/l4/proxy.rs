//! The PROXY protocol, version 2: who the client is, before its first byte (haproxy.org, "The PROXY protocol").

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection on behalf of another.
const PROXY: u8 = 0x21;
const TCP_IPV4: u8 = 0x11;
const TCP_IPV6: u8 = 0x21;
const TYPE_CRC32C: u8 = 0x03;
const CRC_BYTES: u16 = 4;

/// The header of a TCP connection, with the checksum that network load balancers send too. ELB's own record (0xEA) tells
/// of a VPC endpoint, which there is none of here.
pub(crate) fn header(client: SocketAddr, balancer: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(PROXY);
    match (client.ip(), balancer.ip()) {
        (IpAddr::V4(client), IpAddr::V4(balancer)) => {
            header.push(TCP_IPV4);
            header.extend(length(4));
            header.extend(client.octets());
            header.extend(balancer.octets());
        }
        (client, balancer) => {
            header.push(TCP_IPV6);
            header.extend(length(16));
            header.extend(v6(client));
            header.extend(v6(balancer));
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(balancer.port().to_be_bytes());
    header.push(TYPE_CRC32C);
    header.extend(CRC_BYTES.to_be_bytes());
    let at = header.len();
    // Counted with zeros in its own place.
    header.extend([0; CRC_BYTES as usize]);
    let sum = crc32c(&header);
    header[at..].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Of what follows: two addresses, two ports, the checksum's record.
fn length(address_bytes: u16) -> [u8; 2] {
    (2 * address_bytes + 4 + 3 + CRC_BYTES).to_be_bytes()
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Castagnoli's polynomial, reflected; some fifty bytes per connection need no table.
fn crc32c(bytes: &[u8]) -> u32 {
    let sum =
        bytes.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 }
            })
        });
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_ipv4_header() {
        let header = header("203.0.113.7:4567".parse().unwrap(), "172.31.0.9:80".parse().unwrap());
        assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        assert_eq!(header[12..16], [0x21, 0x11, 0, 19]);
        assert_eq!(header[16..28], [203, 0, 113, 7, 172, 31, 0, 9, 0x11, 0xd7, 0, 80]);
        assert_eq!(header[28..31], [3, 0, 4]);
        assert_eq!(header.len(), 16 + 19);
        let mut zeroed = header.clone();
        zeroed[31..].fill(0);
        assert_eq!(header[31..], crc32c(&zeroed).to_be_bytes());
    }

    #[test]
    fn an_ipv6_header() {
        let header = header("[2001:db8::1]:1".parse().unwrap(), "172.31.0.9:80".parse().unwrap());
        assert_eq!(header[12..16], [0x21, 0x21, 0, 43]);
        assert_eq!(header.len(), 16 + 43);
    }
}
