//! Subnets, network ACLs, route tables and VPCs on packets.

mod common;

use common::*;
use ferrogate_nodeapi::{IpProtocol, RouteFabric, RouteTarget};

/// An open VPC with a task in each subnet and a second one in the first.
async fn three(world: &mut World) -> (Task, Task, Task) {
    let mut vpc = vpc("1");
    vpc.security_groups = vec![group("sg-open", vec![all(anywhere())], vec![all(anywhere())])];
    vpc.enis = vec![
        eni("1", "a1", "10.0.1.10", &["sg-open"]),
        eni("1", "a2", "10.0.1.11", &["sg-open"]),
        eni("1", "b", "10.0.2.10", &["sg-open"]),
    ];
    world.desired.vpcs = vec![vpc];
    world.sync().await;
    (world.task("eni-a1").await, world.task("eni-a2").await, world.task("eni-b").await)
}

#[test]
fn network_acls_judge_in_order_at_the_border_of_a_subnet_only() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a1, a2, b) = three(&mut world).await;
        a2.serve(80);
        b.serve(80);
        b.serve(81);
        let acl = world.acl("acl-1-b");
        acl.ingress = vec![
            acl_entry(200, true, IpProtocol::TCP, "0.0.0.0/0", Some((80, 81))),
            acl_entry(100, false, IpProtocol::TCP, "10.0.1.0/24", Some((81, 81))),
        ];
        world.acl("acl-1-a").ingress =
            vec![acl_entry(100, true, IpProtocol::TCP, "10.0.2.0/24", Some((1024, 65535)))];
        world.sync().await;
        assert!(a1.reaches(b.ip, 80));
        assert!(a1.is_silent(b.ip, 81), "rule 100 comes before 200");
        assert!(!a1.pings(b.ip), "the last rule denies");
        assert!(a1.reaches(a2.ip, 80), "inside a subnet no list is asked");
    });
}

#[test]
fn network_acls_know_no_connections() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a1, _, b) = three(&mut world).await;
        b.serve(80);
        assert!(a1.reaches(b.ip, 80));
        let mut known = a1.connect(b.ip, 80).stream();
        // The answers would go to a high port.
        world.acl("acl-1-a").ingress =
            vec![acl_entry(100, true, IpProtocol::TCP, "0.0.0.0/0", Some((1, 1023)))];
        world.sync().await;
        assert!(a1.is_silent(b.ip, 80));
        known.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(!echoes(&mut known, "cut"), "a known connection is judged as well");

        world.acl("acl-1-a").ingress =
            vec![acl_entry(100, true, IpProtocol::TCP, "0.0.0.0/0", Some((1024, 65535)))];
        world.sync().await;
        assert!(a1.reaches(b.ip, 80));

        world.acl("acl-1-b").egress.clear();
        world.sync().await;
        assert!(a1.is_silent(b.ip, 80));
    });
}

#[test]
fn route_tables_decide_and_no_route_is_no_route() {
    on_own_host(async || {
        let mut world = World::open().await;
        let outside = Outside::make(&world).await;
        outside.serve(80);
        let (a1, _, b) = three(&mut world).await;
        world.eni("eni-a1").public_ip = Some(ip("127.64.0.10"));
        world.sync().await;
        assert!(a1.reaches(OUTSIDE, 80));

        // A blackhole wins for its range, the longer prefix, and comes and goes live.
        let blackhole = RouteFabric { destination: net("203.0.113.0/24"), target: RouteTarget::Blackhole };
        world.vpc("vpc-1").route_tables[0].routes.push(blackhole);
        world.sync().await;
        assert!(a1.is_silent(OUTSIDE, 80));
        world.vpc("vpc-1").route_tables[0].routes.pop();
        world.sync().await;
        assert!(a1.reaches(OUTSIDE, 80));

        // Without the route, with a gateway.
        let igw = world.vpc("vpc-1").route_tables[0].routes.pop().unwrap();
        world.sync().await;
        assert!(a1.is_silent(OUTSIDE, 80));
        b.serve(80);
        assert!(a1.reaches(b.ip, 80), "local routes stay");
        world.vpc("vpc-1").route_tables[0].routes.push(igw);
        world.sync().await;
        assert!(a1.reaches(OUTSIDE, 80));
    });
}

#[test]
fn a_route_to_an_interface_leads_through_it() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a1, _, b) = three(&mut world).await;
        b.serve(80);
        // The appliance has a subnet and a table of its own, else its packets would come back to it.
        let vpc = world.vpc("vpc-1");
        let (mut subnet, mut table) = (vpc.subnets[0].clone(), vpc.route_tables[0].clone());
        (subnet.subnet_id, subnet.cidr) = ("subnet-1-c".into(), net("10.0.3.0/24"));
        (subnet.route_table_id, table.route_table_id) = ("rtb-c".into(), "rtb-c".into());
        vpc.subnets.push(subnet);
        vpc.route_tables.push(table);
        let mut appliance = eni("1", "c", "10.0.3.10", &["sg-open"]);
        (appliance.subnet_id, appliance.source_dest_check) = ("subnet-1-c".into(), false);
        vpc.enis.push(appliance);
        let target = RouteTarget::NetworkInterface("eni-c".into());
        vpc.route_tables[0].routes.push(RouteFabric { destination: net("10.0.2.0/24"), target });
        world.sync().await;
        assert!(a1.is_silent(b.ip, 80), "the appliance is not there yet");
        let appliance = world.task("eni-c").await;
        assert!(a1.is_silent(b.ip, 80), "it does not forward");
        inside(&appliance.netns, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        assert!(a1.reaches(b.ip, 80));
        world.fabric.detach("eni-c").await.unwrap();
        assert!(a1.is_silent(b.ip, 80));
        world.vpc("vpc-1").route_tables[0].routes.pop();
        world.sync().await;
        assert!(a1.reaches(b.ip, 80));
    });
}

#[test]
fn two_vpcs_with_the_same_addresses_do_not_see_each_other() {
    on_own_host(async || {
        let mut world = World::open().await;
        for name in ["1", "2"] {
            let mut vpc = vpc(name);
            vpc.security_groups =
                vec![group(&format!("sg-{name}"), vec![all(anywhere())], vec![all(anywhere())])];
            vpc.enis = vec![
                eni(name, &format!("{name}-a"), "10.0.1.10", &[&format!("sg-{name}")]),
                eni(name, &format!("{name}-b"), "10.0.2.10", &[&format!("sg-{name}")]),
            ];
            world.desired.vpcs.push(vpc);
        }
        world.vpc("vpc-2").enis[1].private_ip = ip("10.0.2.20");
        world.sync().await;
        let (a1, b1) = (world.task("eni-1-a").await, world.task("eni-1-b").await);
        let (a2, b2) = (world.task("eni-2-a").await, world.task("eni-2-b").await);
        b1.serve(80);
        b2.serve(80);
        assert!(a1.reaches(b1.ip, 80));
        assert!(a2.reaches(b2.ip, 80));
        assert!(a1.is_silent(b2.ip, 80));
        assert!(a2.is_silent(b1.ip, 80));

        // A VPC that goes takes nothing of the other with it.
        world.desired.vpcs.retain(|vpc| vpc.vpc_id == "vpc-2");
        world.sync().await;
        assert!(a1.is_silent(b1.ip, 80));
        assert!(a2.reaches(b2.ip, 80));
    });
}
