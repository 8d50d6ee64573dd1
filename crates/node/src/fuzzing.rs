//! Packets to the VPC resolver, as `fuzz/` reaches it.

/// What the resolver of 172.31.0.0/16 says to a packet when there is nobody to pass a question on to.
pub async fn dns_answer(packet: &[u8]) -> Option<Vec<u8>> {
    crate::dns::alone().answer(packet, ferrogate_dns::Transport::Udp).await
}
