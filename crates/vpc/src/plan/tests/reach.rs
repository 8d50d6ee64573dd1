//! What [`reach`] says against what the planned rules do.

use super::super::reach::{Destination, Direction, Transport, Unreachable, reach};
use super::*;

const EPHEMERAL: u16 = 40_000;

fn transport(tcp: bool) -> (Transport, u8) {
    if tcp { (Transport::Tcp, 6) } else { (Transport::Udp, 17) }
}

fn packet(protocol: u8, port: u16, established: bool) -> Traffic {
    Traffic { protocol, port, icmp: (0, 0), established, spoofed: None }
}

fn route(destination: &str, target: RouteTarget) -> RouteFabric {
    RouteFabric { destination: destination.parse().unwrap(), target }
}

/// An interface, a subnet, an open group and an open list, a default route to the gateway.
fn open() -> Fabric {
    let everything = "0.0.0.0/0".parse().unwrap();
    let entry = AclEntry {
        rule_number: 100,
        allow: true,
        protocol: IpProtocol::All,
        cidr: everything,
        ports: None,
        icmp: None,
    };
    let rule = SecurityGroupRule {
        protocol: IpProtocol::All,
        ports: None,
        icmp: None,
        peer: Peer::Cidr(everything),
    };
    let eni = |number: u8, public| EniFabric {
        eni_id: format!("eni-{number}"),
        subnet_id: "subnet-1".into(),
        mac: format!("0a:00:00:00:00:{number:02x}"),
        private_ip: Ipv4Addr::new(10, 0, 0, number),
        public_ip: public,
        security_group_ids: vec!["sg-1".into()],
        source_dest_check: true,
        network_load_balancer: false,
    };
    let vpc = VpcFabric {
        vpc_id: "vpc-1".into(),
        region: "us-east-1".into(),
        cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        subnets: vec![SubnetFabric {
            subnet_id: "subnet-1".into(),
            cidr: "10.0.0.0/24".parse().unwrap(),
            route_table_id: "rtb-1".into(),
            network_acl_id: "acl-1".into(),
        }],
        route_tables: vec![RouteTableFabric {
            route_table_id: "rtb-1".into(),
            routes: vec![
                route("10.0.0.0/16", RouteTarget::Local),
                route("0.0.0.0/0", RouteTarget::InternetGateway("igw-1".into())),
            ],
        }],
        network_acls: vec![NetworkAclFabric {
            network_acl_id: "acl-1".into(),
            ingress: vec![entry.clone()],
            egress: vec![entry],
        }],
        security_groups: vec![SecurityGroupFabric {
            group_id: "sg-1".into(),
            ingress: Vec::new(),
            egress: vec![rule],
        }],
        enis: vec![eni(4, Some(Ipv4Addr::new(127, 64, 0, 4))), eni(5, None)],
        internet_gateway: Some("igw-1".into()),
    };
    Fabric { revision: 1, vpcs: vec![vpc] }
}

fn after(change: impl FnOnce(&mut VpcFabric), to: Destination) -> Result<(), Unreachable> {
    let mut fabric = open();
    change(&mut fabric.vpcs[0]);
    reach(&fabric, "eni-4", to)
}

const HTTPS: Destination = Destination::Internet { port: 443 };

fn neighbour(port: u16) -> Destination {
    Destination::Address { ip: Ipv4Addr::new(10, 0, 0, 5), port, protocol: Transport::Tcp }
}

#[test]
fn the_way_out_and_each_thing_in_it() {
    assert_eq!(after(|_| {}, HTTPS), Ok(()));
    assert_eq!(reach(&open(), "eni-9", HTTPS), Err(Unreachable::NoInterface { eni_id: "eni-9".into() }));

    let why = after(|vpc| vpc.route_tables[0].routes.truncate(1), HTTPS).unwrap_err();
    let expected = Unreachable::NoRoute {
        destination: HTTPS,
        subnet_id: "subnet-1".into(),
        route_table_id: "rtb-1".into(),
    };
    assert_eq!(why, expected);
    let text = "route table rtb-1 of subnet subnet-1 has no route to the internet on TCP port 443; add one, 0.0.0.0/0 \
                to an internet gateway";
    assert_eq!(why.to_string(), text);

    let gone = after(|vpc| vpc.internet_gateway = None, HTTPS).unwrap_err();
    assert!(matches!(&gone, Unreachable::DeadRoute { target, .. } if target == "igw-1"), "{gone:?}");
    let hole = after(|vpc| vpc.route_tables[0].routes[1].target = RouteTarget::Blackhole, HTTPS).unwrap_err();
    assert!(matches!(&hole, Unreachable::DeadRoute { .. }), "{hole:?}");
    // Part of the internet in a hole is not the internet.
    assert_eq!(
        after(|vpc| vpc.route_tables[0].routes.push(route("52.0.0.0/8", RouteTarget::Blackhole)), HTTPS),
        Ok(())
    );

    let no_address = after(|vpc| vpc.enis[0].public_ip = None, HTTPS).unwrap_err();
    let expected = Unreachable::NoPublicAddress {
        eni_id: "eni-4".into(),
        route_table_id: "rtb-1".into(),
        internet_gateway_id: "igw-1".into(),
    };
    assert_eq!(no_address, expected);
    assert!(no_address.to_string().contains("assignPublicIp=ENABLED"));

    let closed = after(|vpc| vpc.security_groups[0].egress.clear(), HTTPS).unwrap_err();
    assert!(
        matches!(&closed, Unreachable::SecurityGroupOutbound { security_group_ids, .. } if *security_group_ids == ["sg-1"])
    );
    // Only inside is not outside; 443 only is enough.
    let inside = |vpc: &mut VpcFabric| {
        vpc.security_groups[0].egress[0].peer = Peer::Cidr("10.0.0.0/8".parse().unwrap());
    };
    assert!(matches!(after(inside, HTTPS), Err(Unreachable::SecurityGroupOutbound { .. })));
    let only = |vpc: &mut VpcFabric| {
        vpc.security_groups[0].egress[0].protocol = IpProtocol::TCP;
        vpc.security_groups[0].egress[0].ports = Some((443, 443));
    };
    assert_eq!(after(only, HTTPS), Ok(()));
    assert!(after(only, Destination::Internet { port: 5000 }).is_err());
    // What leaves one block is enough, wherever it is.
    let one = |vpc: &mut VpcFabric| {
        vpc.security_groups[0].egress[0].peer = Peer::Cidr("3.5.0.0/16".parse().unwrap());
    };
    assert_eq!(after(one, HTTPS), Ok(()));
}

#[test]
fn network_acls_are_asked_both_ways() {
    let ports = |first, last| {
        move |vpc: &mut VpcFabric| {
            let entry = &mut vpc.network_acls[0].ingress[0];
            (entry.protocol, entry.ports) = (IpProtocol::TCP, Some((first, last)));
        }
    };
    // The answer comes to an ephemeral port.
    let why = after(ports(443, 443), HTTPS).unwrap_err();
    let Unreachable::NetworkAcl { network_acl_id, direction, rule_number, .. } = &why else {
        panic!("{why:?}")
    };
    assert_eq!((network_acl_id.as_str(), *direction, *rule_number), ("acl-1", Direction::Inbound, None));
    assert!(why.to_string().contains("no rule that allows the answers' TCP ports 32768-60999"), "{why}");
    assert_eq!(after(ports(1024, 65_535), HTTPS), Ok(()));
    assert_eq!(after(ports(40_000, 40_001), HTTPS), Ok(()));

    let deny = |vpc: &mut VpcFabric| {
        let entry = AclEntry { rule_number: 50, allow: false, ..vpc.network_acls[0].egress[0].clone() };
        vpc.network_acls[0].egress.push(entry);
    };
    let why = after(deny, HTTPS).unwrap_err();
    assert!(
        matches!(&why, Unreachable::NetworkAcl { rule_number: Some(50), direction: Direction::Outbound, .. }),
        "{why:?}"
    );
    // Inside a subnet they are not asked.
    let let_in = |vpc: &mut VpcFabric| {
        deny(vpc);
        let rule = vpc.security_groups[0].egress[0].clone();
        vpc.security_groups[0].ingress.push(rule);
    };
    assert_eq!(after(let_in, neighbour(80)), Ok(()));
}

#[test]
fn neighbours_resolvers_and_machines_that_route() {
    let why = after(|_| {}, neighbour(80)).unwrap_err();
    assert!(matches!(&why, Unreachable::SecurityGroupInbound { eni_id, .. } if eni_id == "eni-5"), "{why:?}");
    assert!(after(|vpc| drop(vpc.enis.pop()), neighbour(80)).unwrap_err().to_string().contains("10.0.0.5"));
    let dns = |ip: [u8; 4]| Destination::Address { ip: ip.into(), port: 53, protocol: Transport::Udp };
    for address in [[10, 0, 0, 2], [169, 254, 169, 253]] {
        assert_eq!(after(|vpc| vpc.security_groups[0].egress.clear(), dns(address)), Ok(()));
    }
    let by_machine = |check| {
        move |vpc: &mut VpcFabric| {
            vpc.route_tables[0].routes[1].target = RouteTarget::NetworkInterface("eni-5".into());
            vpc.enis[1].source_dest_check = check;
            let rule = vpc.security_groups[0].egress[0].clone();
            vpc.security_groups[0].ingress.push(rule);
        }
    };
    assert!(matches!(after(by_machine(true), HTTPS), Err(Unreachable::SourceDestCheck { .. })));
    assert_eq!(after(by_machine(false), HTTPS), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// There by the rules, and back again.
    #[test]
    fn it_agrees_with_the_rules(
        mut vpc in fabrics(),
        from in 0usize..5,
        to in proptest::option::weighted(0.7, 0usize..5),
        port in 0u16..9,
        tcp in any::<bool>(),
        by_public in any::<bool>(),
    ) {
        vpc.route_tables[0].routes = vec![route("0.0.0.0/0", RouteTarget::InternetGateway("igw-1".into()))];
        let (from, to) = (from % vpc.enis.len(), to.map(|to| to % vpc.enis.len()));
        prop_assume!(Some(from) != to);
        let (protocol, number) = transport(tcp);
        let go = |from, to, port, established| planned(&vpc, from, to, &packet(number, port, established));
        let public = to.and_then(|to| vpc.enis[to].public_ip).filter(|_| by_public);
        let (ip, expected) = match (to, public) {
            // Out to the world and in from it: two packets each way.
            (Some(_), Some(_)) => return Ok(()),
            (Some(to_eni), None) => (
                vpc.enis[to_eni].private_ip,
                go(Some(from), to, port, false) && go(to, Some(from), EPHEMERAL, true),
            ),
            (None, _) => (WORLD, go(Some(from), None, port, false) && go(None, Some(from), EPHEMERAL, true)),
        };
        let fabric = Fabric { revision: 1, vpcs: vec![vpc.clone()] };
        let eni = format!("eni-{from}");
        let said = reach(&fabric, &eni, Destination::Address { ip, port, protocol });
        prop_assert_eq!(said.is_ok(), expected, "{:?}", said);
        if to.is_none() && tcp && expected {
            prop_assert_eq!(reach(&fabric, &eni, Destination::Internet { port }), Ok(()));
        }
    }
}
