//! Internet gateways and the relay to the host.

mod common;

use std::net::{IpAddr, TcpListener, UdpSocket};

use common::*;
use ferrogate_vpc::{API_WIRE, HOST_WIRE, wire_address};

/// Two VPCs with the same addresses; `eni-1-a` is 127.64.0.11, `eni-2-a` 127.64.0.21, `eni-1-b` has none.
async fn public(world: &mut World) -> (Task, Task, Task) {
    for name in ["1", "2"] {
        let mut vpc = vpc(name);
        let id = format!("sg-{name}");
        vpc.security_groups = vec![group(&id, vec![all(anywhere())], vec![all(anywhere())])];
        vpc.enis = vec![eni(name, &format!("{name}-a"), "10.0.1.10", &[&id])];
        vpc.enis[0].public_ip = Some(ip(&format!("127.64.0.{name}1")));
        if name == "1" {
            vpc.enis.push(eni(name, "1-b", "10.0.2.10", &[&id]));
        }
        world.desired.vpcs.push(vpc);
    }
    world.sync().await;
    (world.task("eni-1-a").await, world.task("eni-1-b").await, world.task("eni-2-a").await)
}

fn from_host(address: &str, port: u16) -> Attempt {
    connect(ip(address), port, PATIENCE)
}

#[test]
fn the_host_reaches_public_addresses_on_every_open_port_and_nothing_changes_in_its_namespace() {
    on_own_host(async || {
        let before = network_state();
        let mut world = World::open().await;
        let (a, _, other) = public(&mut world).await;
        let mut peers = a.serve(80);
        a.serve(8443);
        a.serve_udp(5353);
        other.serve(80);
        for port in [80, 8443] {
            assert!(echoes(&mut from_host("127.64.0.11", port).stream(), "from the host"), "{port}");
        }
        assert_eq!(peers.recv().await, Some(IpAddr::V4(HOST_WIRE)));
        assert!(echoes(&mut from_host("127.64.0.21", 80).stream(), "the other"));
        assert!(reaches_udp(ip("127.64.0.11"), 5353, PATIENCE));
        assert!(matches!(from_host("127.64.0.99", 80), Attempt::Refused), "nobody has this address");
        assert_eq!(network_state(), before);

        // A server of the host on all addresses is not mistaken for the task.
        let _server = serve_tcp(TcpListener::bind("0.0.0.0:9999").unwrap());
        // The relay resets what it has accepted: sometimes before we look.
        if let Attempt::Open(mut stream) = from_host("127.64.0.11", 9999) {
            assert!(!echoes(&mut stream, "the host itself answers"));
        }

        let mut tracked = from_host("127.64.0.11", 80).stream();
        assert!(echoes(&mut tracked, "one"));
        world.group("sg-1").ingress = vec![tcp(8443, 8443, cidr("100.127.255.254/32"))];
        world.sync().await;
        assert!(matches!(from_host("127.64.0.11", 80), Attempt::Refused), "its rule is revoked");
        assert!(matches!(from_host("127.64.0.11", 9999), Attempt::Refused));
        assert!(echoes(&mut from_host("127.64.0.11", 8443).stream(), "still open"));
        assert!(echoes(&mut tracked, "two"));

        // An address taken away is nobody's at once, for known connections as well.
        world.eni("eni-1-a").public_ip = None;
        world.sync().await;
        assert!(matches!(from_host("127.64.0.11", 8443), Attempt::Refused));
        tracked.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(!echoes(&mut tracked, "three"));
        assert_eq!(network_state(), before);
    });
}

#[test]
fn large_transfers_pass_and_half_closed_connections_stay_open_the_other_way() {
    use std::io::{Read, Write};
    on_own_host(async || {
        const BYTES: usize = 8 << 20;
        let mut world = World::open().await;
        let (a, ..) = public(&mut world).await;
        let listener = inside(&a.netns, || TcpListener::bind("0.0.0.0:80").unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(&received).unwrap();
        });
        let mut stream = from_host("127.64.0.11", 80).stream();
        let sent: Vec<u8> = (0..BYTES).map(|i| (i * 31 % 251) as u8).collect();
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == sent);
        server.join().unwrap();
    });
}

#[test]
fn tasks_reach_each_other_by_public_address_through_the_gateway() {
    on_own_host(async || {
        let mut world = World::open().await;
        let (a, private, other) = public(&mut world).await;
        let mut peers = other.serve(80);
        let address = wire_address(ip("127.64.0.21"));
        assert!(a.reaches(address, 80));
        assert_eq!(peers.recv().await, Some(IpAddr::V4(wire_address(ip("127.64.0.11")))));
        assert!(private.is_silent(address, 80), "without a public address no gateway");

        // Inside one VPC: out of the gateway and in again.
        world.eni("eni-1-b").public_ip = Some(ip("127.64.0.12"));
        world.sync().await;
        let mut peers = private.serve(80);
        assert!(a.reaches(wire_address(ip("127.64.0.12")), 80));
        assert_eq!(peers.recv().await, Some(IpAddr::V4(wire_address(ip("127.64.0.11")))));
        assert!(a.pings(wire_address(ip("127.64.0.12"))));

        // The group sees the public address, so a reference to the group does not match.
        world.group("sg-1").ingress = vec![all(of_group("sg-1"))];
        world.sync().await;
        assert!(a.reaches(private.ip, 80));
        assert!(a.is_silent(wire_address(ip("127.64.0.12")), 80));
    });
}

#[test]
fn the_world_is_reached_and_the_host_is_not() {
    on_own_host(async || {
        let api = serve_api();
        let mut options = options();
        options.api = Some(api);
        options.deny_outbound = vec![net("203.0.113.128/25")];
        let mut world = World::open_with(options).await;
        let outside = Outside::make(&world).await;
        let mut peers = outside.serve(80);
        outside.serve_udp(53);
        let (a, private, _) = public(&mut world).await;
        assert!(a.reaches(OUTSIDE, 80));
        assert_eq!(peers.recv().await, Some(IpAddr::V4(HOST_OUTSIDE)), "as a connection of the host's own");
        assert!(a.reaches_udp(OUTSIDE, 53, PATIENCE));
        assert!(matches!(reset_or(&a, OUTSIDE, 81), Outcome::Reset), "a refusal comes back as a reset");
        assert!(private.is_silent(OUTSIDE, 80), "no public address");

        // Servers on all of the host's addresses.
        serve_tcp(TcpListener::bind("0.0.0.0:8080").unwrap());
        echo_udp(UdpSocket::bind("0.0.0.0:8080").unwrap());
        for own in
            [HOST_OUTSIDE, ip("203.0.113.255"), ip("203.0.113.200"), ip("169.254.169.254"), ip("224.0.0.1")]
        {
            assert!(!matches!(reset_or(&a, own, 8080), Outcome::Echo), "{own}");
            assert!(!a.reaches_udp(own, 8080, SILENCE), "{own}");
        }
        assert!(matches!(reset_or(&a, HOST_WIRE, 15001), Outcome::Silent | Outcome::Reset));
        assert!(a.is_silent(ip("100.64.9.9"), 8080), "a wire address nobody has");

        assert_eq!(world.fabric.api_address().unwrap().ip(), &API_WIRE);
        assert!(a.reaches(API_WIRE, api.port()));
        assert!(!matches!(reset_or(&a, API_WIRE, 8080), Outcome::Echo), "only the API's port");

        // Security groups judge what leaves.
        world.group("sg-1").egress = vec![tcp(80, 80, anywhere())];
        world.sync().await;
        assert!(a.reaches(OUTSIDE, 80));
        assert!(a.is_silent(API_WIRE, api.port()));
    });
}

#[test]
fn without_sk_lookup_open_ports_are_listened_on_one_by_one() {
    on_own_host_after(refuse_bpf, async || {
        let mut options = options();
        options.fallback_ports = vec![8080];
        let mut world = World::open_with(options).await;
        let (a, ..) = public(&mut world).await;
        for port in [80, 8080] {
            a.serve(port);
        }
        a.serve_udp(5353);
        assert!(echoes(
            &mut from_host("127.64.0.11", 8080).stream(),
            "all ports are open, this is in the list"
        ));
        assert!(matches!(from_host("127.64.0.11", 80), Attempt::Refused), "open, but nowhere named");
        world.group("sg-1").ingress = vec![tcp(80, 80, anywhere()), udp(5353, anywhere())];
        world.sync().await;
        assert!(echoes(&mut from_host("127.64.0.11", 80).stream(), "named by its rule"));
        assert!(reaches_udp(ip("127.64.0.11"), 5353, PATIENCE));
        assert!(matches!(from_host("127.64.0.11", 8080), Attempt::Refused), "not open any more");
    });
}

/// From here on, this thread and every one made from it are told that there is no BPF.
fn refuse_bpf() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load_number = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let is_bpf = libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: 1,
        k: libc::SYS_bpf as u32,
    };
    let refuse = statement(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let mut filter = [load_number, is_bpf, refuse, statement(libc::BPF_RET, libc::SECCOMP_RET_ALLOW)];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live during the call, which copies them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    assert_eq!(result, 0, "seccomp: {}", std::io::Error::last_os_error());
}

/// Stands for the API endpoint, on the host's loopback.
fn serve_api() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    serve_tcp(listener);
    address
}

enum Outcome {
    Echo,
    Reset,
    Silent,
}

/// The relay accepts before it knows: what is refused is reset right after.
fn reset_or(task: &Task, address: std::net::Ipv4Addr, port: u16) -> Outcome {
    match inside(&task.netns, || connect(address, port, SILENCE)) {
        Attempt::Open(mut stream) => match echoes(&mut stream, "hello") {
            true => Outcome::Echo,
            false => Outcome::Reset,
        },
        Attempt::Refused => Outcome::Reset,
        Attempt::Silent => Outcome::Silent,
    }
}
