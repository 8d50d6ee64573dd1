//! A network load balancer's interface: a process without privileges speaks in its clients' names.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;

use common::*;
use ferrogate_vpc::HOST_WIRE;
use socket2::{Domain, Socket, Type};

const PORT: u16 = 80;

/// A socket in the client's name.
fn socket(kind: Type, client: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&client.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// As the threads of a balancer's process are: they may nothing.
fn become_nobody() {
    // SAFETY: takes no pointers; the raw call changes the calling thread only, which is the test's own.
    let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
    assert_eq!(changed, 0);
}

/// One word of each client to the target, and one back.
fn balance(balancer: &Task, target: Ipv4Addr) {
    let listen = || {
        let limited = Some(PATIENCE);
        let tcp = TcpListener::bind((balancer.ip, PORT)).unwrap();
        let udp = UdpSocket::bind((balancer.ip, PORT)).unwrap();
        udp.set_read_timeout(limited).unwrap();
        (tcp, udp)
    };
    let (tcp, udp) = inside(&balancer.netns, listen);
    let netns = balancer.netns.clone();
    std::thread::spawn(move || {
        inside(&netns, || {
            become_nobody();
            while let Ok((mut client, peer)) = tcp.accept() {
                let to = socket(Type::STREAM, peer);
                if to.connect_timeout(&SocketAddr::from((target, PORT)).into(), SILENCE).is_err() {
                    continue;
                }
                let mut to = TcpStream::from(to);
                let mut word = [0; 5];
                client.read_exact(&mut word).unwrap();
                to.write_all(&word).unwrap();
                to.read_exact(&mut word).unwrap();
                client.write_all(&word).unwrap();
            }
        });
    });
    let netns = balancer.netns.clone();
    std::thread::spawn(move || {
        inside(&netns, || {
            become_nobody();
            let mut word = [0; 16];
            while let Ok((length, peer)) = udp.recv_from(&mut word) {
                let to = UdpSocket::from(socket(Type::DGRAM, peer));
                to.connect((target, PORT)).unwrap();
                to.send(&word[..length]).unwrap();
                to.set_read_timeout(Some(SILENCE / 4)).unwrap();
                if let Ok(length) = to.recv(&mut word) {
                    udp.send_to(&word[..length], peer).unwrap();
                }
            }
        });
    });
}

/// Echoes datagrams and tells who sent them.
fn serve_udp(task: &Task) -> mpsc::Receiver<SocketAddr> {
    let socket = inside(&task.netns, || UdpSocket::bind((task.ip, PORT)).unwrap());
    let (peers, seen) = mpsc::channel();
    std::thread::spawn(move || {
        let mut word = [0; 16];
        while let Ok((length, peer)) = socket.recv_from(&mut word) {
            let _ = socket.send_to(&word[..length], peer);
            if peers.send(peer).is_err() {
                return;
            }
        }
    });
    seen
}

/// Two clients in two subnets, a balancer and a target, both with public addresses.
struct Scene {
    world: World,
    clients: [Task; 2],
    balancer: Task,
    target: Task,
}

const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 20);

impl Scene {
    async fn set() -> Self {
        let mut vpc = vpc("1");
        vpc.security_groups = vec![
            group("sg-client", vec![], vec![all(anywhere())]),
            group("sg-balancer", vec![all(anywhere())], vec![all(anywhere())]),
            group("sg-target", vec![all(of_group("sg-balancer"))], vec![]),
        ];
        vpc.enis = vec![
            eni("1", "near", "10.0.1.10", &["sg-client"]),
            eni("1", "far", "10.0.2.10", &["sg-client"]),
            eni("1", "lb", "10.0.1.20", &["sg-balancer"]),
            eni("1", "target", "10.0.2.30", &["sg-target"]),
        ];
        vpc.enis[2].public_ip = Some(PUBLIC);
        vpc.enis[3].public_ip = Some(Ipv4Addr::new(127, 64, 0, 30));
        vpc.enis[2].network_load_balancer = true;
        let mut world = World::open().await;
        world.desired.vpcs = vec![vpc];
        Self::attach(world).await
    }

    async fn attach(mut world: World) -> Self {
        world.sync().await;
        let clients = [world.task("eni-near").await, world.task("eni-far").await];
        let balancer = world.task("eni-lb").await;
        let target = world.task("eni-target").await;
        Self { world, clients, balancer, target }
    }

    /// As the next agent finds it.
    async fn taken_over(self) -> Self {
        let World { fabric, desired } = self.world;
        drop(fabric);
        let mut world = World::open().await;
        world.desired = desired;
        Self::attach(world).await
    }

    /// Whether the client comes through by both protocols, or by none.
    fn is_open(&self, to: &Task, expected: bool) -> bool {
        let mut stream = to.connect(self.balancer.ip, PORT).stream();
        let limit = if expected { PATIENCE } else { SILENCE };
        echoes(&mut stream, "hello") == expected && to.reaches_udp(self.balancer.ip, PORT, limit) == expected
    }
}

#[test]
fn targets_see_the_clients_own_addresses() {
    on_own_host(async || {
        let mut scene = Scene::set().await;
        let mut peers = scene.target.serve(PORT);
        let datagrams = serve_udp(&scene.target);
        balance(&scene.balancer, scene.target.ip);
        for _ in 0..2 {
            for client in &scene.clients {
                assert!(client.reaches(scene.balancer.ip, PORT));
                assert_eq!(peers.recv().await, Some(client.ip.into()));
                assert!(client.reaches_udp(scene.balancer.ip, PORT, PATIENCE));
                assert_eq!(datagrams.recv().unwrap().ip(), client.ip);
            }
            let mut stream = connect(PUBLIC, PORT, PATIENCE).stream();
            assert!(echoes(&mut stream, "hello"));
            assert_eq!(peers.recv().await, Some(HOST_WIRE.into()));
            assert!(reaches_udp(PUBLIC, PORT, PATIENCE));
            assert_eq!(datagrams.recv().unwrap().ip(), HOST_WIRE);
            scene = scene.taken_over().await;
        }
    });
}

#[test]
fn the_targets_groups_see_the_client_and_the_balancers_groups() {
    on_own_host(async || {
        let mut scene = Scene::set().await;
        let _peers = scene.target.serve(PORT);
        let _datagrams = serve_udp(&scene.target);
        balance(&scene.balancer, scene.target.ip);
        let of = |net: &str| vec![all(cidr(net))];
        for (rules, open) in [
            (vec![all(of_group("sg-balancer"))], [true, true]),
            (vec![all(of_group("sg-client"))], [true, true]),
            (of("10.0.1.10/32"), [true, false]),
            (of("10.0.2.0/24"), [false, true]),
            // The balancer's own address.
            (of("10.0.1.20/32"), [false, false]),
        ] {
            scene.world.group("sg-target").ingress = rules.clone();
            scene.world.sync().await;
            for (client, open) in scene.clients.iter().zip(open) {
                assert!(scene.is_open(client, open), "{rules:?} {client:?} {open}");
            }
        }
    });
}

#[test]
fn it_speaks_for_nobody_who_did_not_speak_to_it() {
    on_own_host(async || {
        let mut scene = Scene::set().await;
        let [near, far] = scene.clients.clone();
        let mut peers = scene.target.serve(PORT);
        scene.world.group("sg-target").ingress = vec![all(anywhere())];
        scene.world.sync().await;
        let speak_for = |client: Ipv4Addr, to: Ipv4Addr| {
            inside(&scene.balancer.netns, || {
                let socket = socket(Type::STREAM, SocketAddr::from((client, 4000)));
                socket.connect_timeout(&SocketAddr::from((to, PORT)).into(), SILENCE).is_ok()
            })
        };
        assert!(!speak_for(near.ip, scene.target.ip));
        // One word is enough, whatever becomes of it.
        assert!(matches!(near.connect(scene.balancer.ip, PORT), Attempt::Refused));
        assert!(speak_for(near.ip, scene.target.ip));
        assert_eq!(peers.recv().await, Some(near.ip.into()));
        assert!(!speak_for(far.ip, scene.target.ip));
        assert!(speak_for(scene.balancer.ip, scene.target.ip));
        // A task's interface is held to its own address, as ever.
        let stolen = inside(&far.netns, || {
            run("ip", &["addr", "add", "10.0.2.99/32", "dev", "lo"]);
            let socket = socket(Type::STREAM, SocketAddr::from((ip("10.0.2.99"), 4000)));
            socket.connect_timeout(&SocketAddr::from((scene.target.ip, PORT)).into(), SILENCE).is_ok()
        });
        assert!(!stolen);
        // Its connections go with it.
        scene.world.fabric.detach("eni-lb").await.unwrap();
        scene.world.sync().await;
        assert!(far.reaches(scene.target.ip, PORT));
    });
}
