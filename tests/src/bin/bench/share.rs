//! Ports that several containers share: how evenly, what a connection and an ADD cost with 1 and 1000 of them, and what becomes of new
//! connections while a container leaves.
//!
//! All containers are addresses of one namespace, whose server counts the connections to each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::packets::Outside;
use cni_tests::{Netns, Sandbox};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::contestant::Contestant;
use crate::node::Node;
use crate::statistics::{Sample, ms, us};
use crate::turns::Players;
use crate::{Common, VERSION, connect};

/// The measured port, and the first of those that the node shares besides.
const PORT: u16 = 8080;
const OTHERS: u16 = 20_000;
/// How many new connections each container gets when their spread is measured.
const EACH: usize = 2500;
/// New connections a second while a container leaves, and for how long.
const RATE: u32 = 1000;
const LOAD: Duration = Duration::from_secs(3);

pub(crate) fn run(common: &Common) {
    let rounds = common.rounds;
    let play = move |sandbox: &Sandbox, who: &Contestant, turns: &crate::turns::Turns<(), ()>| {
        let bench = Bench::start(sandbox, who);
        turns.serve(|()| bench.run(rounds));
    };
    Players::start(&common.contestants[..1], play).once(&());
}

/// Connections that were accepted, by the last byte of the address.
type Accepted = Arc<Mutex<BTreeMap<u8, usize>>>;

struct Bench<'a> {
    node: Node,
    who: &'a Contestant,
    accepted: Accepted,
}

impl<'a> Bench<'a> {
    fn start(sandbox: &Sandbox, who: &'a Contestant) -> Self {
        let node = Node::start(sandbox);
        (3..=250).for_each(|n| drop(node.container.sh(&["ip", "addr", "add", &address(n), "dev", "eth0"])));
        let accepted = Accepted::default();
        serve(&node.container, &accepted);
        Self { node, who, accepted }
    }

    fn run(&self, rounds: u32) {
        println!("spread of {EACH} new connections for each container: the least and the most of one");
        for count in [3, 5, 20] {
            self.spread(count);
        }
        println!("\nnew connections, {RATE} a second, while one of five containers leaves");
        self.leaving();
        println!("\na new connection, and ADD and DEL of one container to a port that two share: median of {rounds}");
        for others in [1, 1000] {
            self.cost(others, rounds);
        }
        println!("\nADD and DEL of one container to a port that others share: median of {rounds}");
        for members in [1, 20, 200] {
            self.join(members, rounds);
        }
    }

    fn spread(&self, count: u8) {
        (2..2 + count).for_each(|n| self.portmap("ADD", n, (PORT, 1), true));
        self.accepted.lock().unwrap().clear();
        let total = usize::from(count) * EACH;
        drop(connect::times(&self.node.outside.ns, to(PORT), total));
        thread::sleep(Duration::from_millis(200));
        let accepted = self.accepted.lock().unwrap().clone();
        let percent = |part: Option<&usize>| (*part.unwrap_or(&0) as f64 / EACH as f64 - 1.0) * 100.0;
        assert_eq!((accepted.len(), accepted.values().sum::<usize>()), (count.into(), total), "{accepted:?}");
        println!(
            "{count:>5} containers: {:+.1} % to {:+.1} %",
            percent(accepted.values().min()),
            percent(accepted.values().max())
        );
        (2..2 + count).for_each(|n| self.portmap("DEL", n, (PORT, 1), true));
    }

    fn leaving(&self) {
        (2..7).for_each(|n| self.portmap("ADD", n, (PORT, 1), true));
        let (attempts, from) = (Mutex::new(Vec::new()), &self.node.outside.ns);
        let begin = Instant::now();
        let (asked, done) = thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| from.run(|| attempt(begin, &attempts)));
            }
            thread::sleep(LOAD / 2);
            let asked = Instant::now();
            self.portmap("DEL", 4, (PORT, 1), true);
            (asked, Instant::now())
        });
        let attempts = attempts.into_inner().unwrap();
        let of_parts = ["before DEL", "during DEL", "after it has returned"];
        for (part, when) in of_parts.into_iter().enumerate() {
            let of = attempts.iter().filter(|(at, _)| usize::from(*at >= asked) + usize::from(*at > done) == part);
            let failed = of.clone().filter(|(_, succeeded)| !succeeded).count();
            println!("{when:>24}: {failed} of {} failed", of.count());
        }
        (2..7).for_each(|n| self.portmap("DEL", n, (PORT, 1), true));
    }

    fn cost(&self, others: u16, rounds: u32) {
        (2..5).for_each(|n| self.portmap("ADD", n, (OTHERS, others), true));
        [200, 201].into_iter().for_each(|n| self.portmap("ADD", n, (PORT, 1), true));
        self.portmap("ADD", 210, (PORT + 1, 1), false);
        let (mut shared, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            shared.extend(connect::times(&self.node.outside.ns, to(PORT), 100));
            alone.extend(connect::times(&self.node.outside.ns, to(PORT + 1), 100));
        }
        let (shared, alone): (Sample, Sample) = (shared.into_iter().collect(), alone.into_iter().collect());
        let (add, del) = self.turns(202, rounds);
        println!(
            "{others:>5} other shares: connection {:.1} us (not shared: {:.1} us), ADD {:.2} ms, DEL {:.2} ms",
            us(shared.median()),
            us(alone.median()),
            ms(add.median()),
            ms(del.median())
        );
        (2..5).chain([200, 201]).for_each(|n| self.portmap("DEL", n, (PORT, 1), true));
        self.portmap("DEL", 210, (PORT + 1, 1), false);
    }

    fn join(&self, members: u8, rounds: u32) {
        (2..2 + members).for_each(|n| self.portmap("ADD", n, (PORT, 1), true));
        let (add, del) = self.turns(240, rounds);
        println!("{members:>5} others: ADD {:.2} ms, DEL {:.2} ms", ms(add.median()), ms(del.median()));
        (2..2 + members).for_each(|n| self.portmap("DEL", n, (PORT, 1), true));
    }

    /// ADD and DEL of one more member.
    fn turns(&self, n: u8, rounds: u32) -> (Sample, Sample) {
        let turn = |verb: &str| self.timed(verb, n, (PORT, 1), true);
        let (mut add, mut del) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            add.push(turn("ADD"));
            del.push(turn("DEL"));
        }
        (add.into_iter().collect(), del.into_iter().collect())
    }

    fn portmap(&self, verb: &str, n: u8, ports: (u16, u16), shared: bool) {
        let _ = self.timed(verb, n, ports, shared);
    }

    /// portmap for the container with the address `10.88.0.n`, and how long it took.
    fn timed(&self, verb: &str, n: u8, (port, range): (u16, u16), shared: bool) -> Duration {
        let netns = self.node.container.path();
        let conf = json!({
            "cniVersion": VERSION, "name": "bench", "type": "portmap", "backend": "nftables",
            "share": if shared { "web" } else { "" },
            "runtimeConfig": {"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp", "range": range}]},
            "prevResult": {
                "cniVersion": VERSION, "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": netns}],
                "ips": [{"address": address(n), "interface": 1}]
            }
        });
        self.who.call(verb, &conf, &format!("c{n}"), &netns).0
    }
}

fn address(n: u8) -> String {
    format!("10.88.0.{n}/24")
}

fn to(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Outside::NODE_V4.parse().unwrap(), port)
}

/// Accepts connections on port 80, counts and closes them, until the program ends.
fn serve(ns: &Netns, accepted: &Accepted) {
    let listener = ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).expect("listen");
    let accepted = Arc::clone(accepted);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Ok(SocketAddr::V4(own)) = stream.local_addr() {
                *accepted.lock().unwrap().entry(own.ip().octets()[3]).or_default() += 1;
            }
        }
    });
}

/// Connects at a quarter of the rate: when each connection was begun, and whether it was made.
fn attempt(begin: Instant, attempts: &Mutex<Vec<(Instant, bool)>>) {
    let pause = Duration::from_secs(4) / RATE;
    while begin.elapsed() < LOAD {
        let at = Instant::now();
        let stream = TcpStream::connect_timeout(&SocketAddr::V4(to(PORT)), Duration::from_secs(2));
        if let Ok(stream) = &stream {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(stream, sockopt::Linger, &linger).expect("SO_LINGER");
        }
        attempts.lock().unwrap().push((at, stream.is_ok()));
        thread::sleep(pause.saturating_sub(at.elapsed()));
    }
}
