//! The files a container finds in `/etc`.

use ferrogate_nodeapi::{Connect, TaskNetwork};

/// `connect`: names of Service Connect are known here and to no resolver.
pub(crate) fn hosts(network: &TaskNetwork, connect: Option<&Connect>) -> String {
    let short = network.hostname.split('.').next().unwrap_or(&network.hostname);
    let mut text = format!("127.0.0.1 localhost\n{} {} {short}\n", network.private_ip, network.hostname);
    for (address, name) in connect.map(Connect::names).unwrap_or_default() {
        // A line is one name: what ECS takes for one has no space in it.
        if !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
            text += &format!("{address} {name}\n");
        }
    }
    text
}

pub(crate) fn resolv_conf(network: &TaskNetwork) -> String {
    let mut text = String::new();
    if !network.dns_search.is_empty() {
        text += &format!("search {}\n", network.dns_search.join(" "));
    }
    for server in &network.dns_servers {
        text += &format!("nameserver {server}\n");
    }
    text + "options timeout:2 attempts:5\n"
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ferrogate_nodeapi::{AppProtocol, ConnectClient, ConnectTimeouts};

    use super::*;

    #[test]
    fn names_of_service_connect_are_in_hosts() {
        let network = TaskNetwork {
            eni_id: "eni-1".into(),
            vpc_id: "vpc-1".into(),
            subnet_id: "subnet-1".into(),
            mac: "0a:00:00:00:00:01".into(),
            private_ip: Ipv4Addr::new(10, 0, 0, 4),
            subnet_cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            dns_servers: Vec::new(),
            dns_search: Vec::new(),
            hostname: "ip-10-0-0-4.ec2.internal".into(),
        };
        let client = |name: &str, port| ConnectClient {
            service_id: name.to_owned(),
            discovery_name: name.to_owned(),
            dns_name: name.to_owned(),
            port,
            protocol: AppProtocol::Http,
            timeouts: ConnectTimeouts::default(),
        };
        let clients =
            vec![client("shop.house", 80), client("stock", 80), client("stock", 81), client("a b", 1)];
        let connect = Connect { clients, ..Connect::default() };
        let own = "127.0.0.1 localhost\n10.0.0.4 ip-10-0-0-4.ec2.internal ip-10-0-0-4\n";
        assert_eq!(hosts(&network, None), own);
        assert_eq!(
            hosts(&network, Some(&connect)),
            format!("{own}127.255.0.1 shop.house\n127.255.0.2 stock\n")
        );
    }
}
