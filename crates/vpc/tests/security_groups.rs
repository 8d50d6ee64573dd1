//! Security groups on packets.

mod common;

use common::*;
use ferrogate_nodeapi::IpProtocol;

/// Two interfaces in different subnets (or one), both in one group that lets its own members in.
async fn pair(world: &mut World, second: &str) -> (Task, Task) {
    let mut vpc = vpc("1");
    vpc.security_groups = vec![group("sg-self", vec![all(of_group("sg-self"))], vec![all(anywhere())])];
    vpc.enis = vec![eni("1", "a", "10.0.1.10", &["sg-self"]), eni("1", "b", second, &["sg-self"])];
    world.desired.vpcs = vec![vpc];
    world.sync().await;
    (world.task("eni-a").await, world.task("eni-b").await)
}

#[test]
fn members_of_a_group_that_lets_itself_in_reach_each_other_until_the_rule_goes() {
    for second in ["10.0.1.11", "10.0.2.11"] {
        on_own_host(async || {
            let mut world = World::open().await;
            let (a, b) = pair(&mut world, second).await;
            b.serve(80);
            b.serve_udp(53);
            assert!(a.reaches(b.ip, 80));
            assert!(a.reaches_udp(b.ip, 53, PATIENCE));
            assert!(a.pings(b.ip));
            let mut tracked = a.connect(b.ip, 80).stream();
            assert!(echoes(&mut tracked, "before"));

            world.group("sg-self").ingress.clear();
            world.sync().await;
            assert!(a.is_silent(b.ip, 80));
            assert!(!a.reaches_udp(b.ip, 53, SILENCE));
            assert!(!a.pings(b.ip));
            // AWS: a tracked connection outlives its rule.
            assert!(echoes(&mut tracked, "after"));
        });
    }
}

#[test]
fn egress_rules_filter_too_and_replies_need_none() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a, b) = pair(&mut world, "10.0.2.11").await;
        b.serve(80);
        b.serve(81);
        world.vpc("vpc-1").security_groups.extend([
            group("sg-client", vec![], vec![tcp(80, 80, cidr("10.0.2.0/24"))]),
            group("sg-server", vec![tcp(0, 65535, of_group("sg-client"))], vec![]),
        ]);
        world.eni("eni-a").security_group_ids = vec!["sg-client".into()];
        world.eni("eni-b").security_group_ids = vec!["sg-server".into()];
        world.sync().await;
        // The server's group has no egress rule: its answers pass as part of the connection.
        assert!(a.reaches(b.ip, 80));
        assert!(a.is_silent(b.ip, 81));
        assert!(b.is_silent(a.ip, 80));

        world.group("sg-client").egress = vec![tcp(81, 81, of_group("sg-server"))];
        world.sync().await;
        assert!(a.reaches(b.ip, 81));
        assert!(a.is_silent(b.ip, 80));
    });
}

#[test]
fn references_follow_membership_and_an_interface_without_rules_is_closed() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a, b) = pair(&mut world, "10.0.2.11").await;
        b.serve(5432);
        world.vpc("vpc-1").security_groups.extend([
            group("sg-app", vec![], vec![all(anywhere())]),
            group("sg-db", vec![tcp(5432, 5432, of_group("sg-app"))], vec![]),
            group("sg-other", vec![], vec![all(anywhere())]),
        ]);
        world.eni("eni-a").security_group_ids = vec!["sg-other".into()];
        world.eni("eni-b").security_group_ids = vec!["sg-db".into()];
        world.sync().await;
        assert!(a.is_silent(b.ip, 5432));

        world.eni("eni-a").security_group_ids = vec!["sg-other".into(), "sg-app".into()];
        world.sync().await;
        assert!(a.reaches(b.ip, 5432));

        world.eni("eni-b").security_group_ids = vec!["sg-other".into()];
        world.sync().await;
        assert!(a.is_silent(b.ip, 5432));
    });
}

#[test]
fn cidr_rules_port_ranges_and_icmp_types() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a, b) = pair(&mut world, "10.0.2.11").await;
        for port in [999, 1000, 1500, 2000, 2001] {
            b.serve(port);
        }
        b.serve_udp(1500);
        world.group("sg-self").ingress =
            vec![tcp(1000, 2000, cidr("10.0.1.0/28")), icmp(8, cidr("10.0.1.10/32"))];
        world.sync().await;
        for port in [1000, 1500, 2000] {
            assert!(a.reaches(b.ip, port), "{port}");
        }
        for port in [999, 2001] {
            assert!(a.is_silent(b.ip, port), "{port}");
        }
        assert!(!a.reaches_udp(b.ip, 1500, SILENCE));
        assert!(a.pings(b.ip));

        world.group("sg-self").ingress = vec![tcp(1000, 2000, cidr("10.0.1.64/28")), icmp(3, anywhere())];
        world.sync().await;
        assert!(a.is_silent(b.ip, 1500));
        assert!(!a.pings(b.ip));

        // A refusal of the peer itself comes back: an error about a known connection.
        let mut rule = all(anywhere());
        rule.protocol = IpProtocol::TCP;
        world.group("sg-self").ingress = vec![rule];
        world.sync().await;
        assert!(matches!(a.connect(b.ip, 7), Attempt::Refused));
    });
}

#[test]
fn a_source_that_is_not_the_interfaces_own_is_dropped_unless_the_check_is_off() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a, b) = pair(&mut world, "10.0.2.11").await;
        world.group("sg-self").ingress = vec![all(anywhere())];
        world.sync().await;
        let spoof = |a: &Task, source: &str| {
            let target = b.ip;
            let listener = inside(&b.netns, || std::net::UdpSocket::bind((target, 9)).unwrap());
            listener.set_read_timeout(Some(SILENCE)).unwrap();
            inside(&a.netns, || {
                run("ip", &["addr", "add", &format!("{source}/32"), "dev", "lo"]);
                let socket = std::net::UdpSocket::bind((source, 9)).unwrap();
                socket.send_to(b"spoofed", (target, 9)).unwrap();
                run("ip", &["addr", "del", &format!("{source}/32"), "dev", "lo"]);
            });
            listener.recv(&mut [0; 16]).is_ok()
        };
        assert!(a.reaches_udp_once(&b));
        assert!(!spoof(&a, "10.0.1.99"));
        assert!(!spoof(&a, "10.0.2.11"));
        assert!(!spoof(&a, "192.0.2.1"));

        inside(&a.netns, || run("ip", &["link", "set", "eth0", "address", "0a:00:00:00:99:99"]));
        assert!(!a.pings(b.ip), "another MAC address passes");
        inside(&a.netns, || run("ip", &["link", "set", "eth0", "address", "0a:00:00:00:01:0a"]));
        // With the address its neighbour went as well, and it has no way to ask for another.
        let router = ["10.0.1.1", "lladdr", "06:fe:00:00:00:01", "dev", "eth0", "nud", "permanent"];
        inside(&a.netns, || run("ip", &[&["neigh", "replace"], &router[..]].concat()));
        let way = ["default", "via", "10.0.1.1", "dev", "eth0", "onlink"];
        inside(&a.netns, || run("ip", &[&["route", "replace"], &way[..]].concat()));
        assert!(a.pings(b.ip));

        world.eni("eni-a").source_dest_check = false;
        world.sync().await;
        assert!(spoof(&a, "192.0.2.1"));
        world.eni("eni-a").source_dest_check = true;
        world.sync().await;
        assert!(!spoof(&a, "192.0.2.1"));
    });
}

/// A plain datagram in the same way as the spoofed ones, so that their silence means something.
trait Datagram {
    fn reaches_udp_once(&self, to: &Task) -> bool;
}

impl Datagram for Task {
    fn reaches_udp_once(&self, to: &Task) -> bool {
        let listener = inside(&to.netns, || std::net::UdpSocket::bind((to.ip, 9)).unwrap());
        listener.set_read_timeout(Some(PATIENCE)).unwrap();
        inside(&self.netns, || {
            let socket = std::net::UdpSocket::bind((self.ip, 9)).unwrap();
            socket.send_to(b"plain", (to.ip, 9)).unwrap();
        });
        listener.recv(&mut [0; 16]).is_ok()
    }
}

#[test]
fn the_router_answers_dns_and_nothing_else() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a, _) = pair(&mut world, "10.0.2.11").await;
        // No rule at all: the resolver is not subject to them.
        world.group("sg-self").ingress.clear();
        world.group("sg-self").egress.clear();
        world.sync().await;
        let sockets = world.fabric.dns_sockets("vpc-1").await.unwrap();
        sockets.udp.into_iter().for_each(echo_udp);
        sockets.tcp.into_iter().for_each(|listener| drop(serve_tcp(listener)));
        for resolver in [ip("10.0.0.2"), ip("169.254.169.253")] {
            assert!(a.reaches_udp(resolver, 53, PATIENCE), "{resolver}");
            assert!(a.reaches(resolver, 53), "{resolver}");
            assert!(a.is_silent(resolver, 80), "{resolver}");
        }
        assert!(a.is_silent(ip("10.0.1.1"), 53));
        assert!(!a.pings(ip("10.0.1.1")));
    });
}
