//! A network over two hosts: round trips and throughput between containers, beside the bare underlay and beside a VXLAN that is made by
//! hand, in turns.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::{Attachment, Chain, Netns, Sandbox};
use serde_json::json;

use crate::statistics::{Sample, ratio, row, us};
use crate::turns::order;
use crate::{Common, VERSION};

/// Round trips in a turn, and bytes.
const TRIPS: u32 = 2000;
const BYTES: usize = 256 << 20;

/// Two ends that reach each other.
struct Way {
    name: &'static str,
    from: Netns,
    to: Netns,
    address: IpAddr,
}

pub(crate) fn run(common: &Common) {
    for contestant in &common.contestants {
        let dir = contestant.dir.as_deref().unwrap_or(Path::new("/")).to_owned();
        let measured = Sandbox::run(&dir, |sandbox| measure(sandbox, common.rounds));
        let (names, trips, streams) = measured.unwrap_or_else(|stop| panic!("{stop:?}"));
        let heads: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        println!("{}", contestant.label());
        row("", &heads, &heads);
        let cells = |samples: &[Sample], show: fn(Duration) -> String| {
            let first = samples[0].median();
            let cell = |sample: &Sample| format!("{} ({:.2})", show(sample.median()), ratio(sample.median(), first));
            samples.iter().map(cell).collect::<Vec<_>>()
        };
        row("round trip, us", &heads, &cells(&trips, |time| format!("{:.1}", us(time) / f64::from(TRIPS))));
        // In brackets how many times as long the same bytes take.
        row(
            "throughput, Gbit/s",
            &heads,
            &cells(&streams, |time| format!("{:.1}", BYTES as f64 * 8e-9 / time.as_secs_f64())),
        );
        row(
            "",
            &heads,
            &[
                String::new(),
                String::new(),
                format!(
                    "to by hand: {:.2}, {:.2}",
                    ratio(trips[2].median(), trips[1].median()),
                    ratio(streams[2].median(), streams[1].median())
                ),
            ],
        );
    }
}

type Measured = (Vec<&'static str>, Vec<Sample>, Vec<Sample>);

fn measure(sandbox: &Sandbox, rounds: u32) -> Measured {
    let hosts = [1, 2].map(|n| sandbox.container(&format!("h{n}")));
    sandbox
        .node()
        .sh(&["ip", "link", "add", "wire0", "netns", "h1", "type", "veth", "peer", "name", "wire0", "netns", "h2"]);
    for (n, host) in hosts.iter().enumerate() {
        host.sh(&["ip", "addr", "add", &format!("192.0.2.{}/24", n + 1), "dev", "wire0"]);
        host.sh(&["ip", "link", "set", "wire0", "up"]);
    }
    let [one, two] = hosts.clone();
    let bare = Way { name: "underlay", from: one, to: two, address: "192.0.2.2".parse().unwrap() };
    let ways = [bare, by_hand(sandbox, &hosts), by_plugin(sandbox, &hosts)];
    let (mut trips, mut streams) = (vec![Vec::new(); 3], vec![Vec::new(); 3]);
    for round in 0..rounds as usize {
        for at in order(round, ways.len()) {
            trips[at].push(round_trips(&ways[at]));
            streams[at].push(stream(&ways[at]));
        }
    }
    let samples = |times: Vec<Vec<Duration>>| times.into_iter().map(Sample::from_iter).collect();
    (ways.iter().map(|way| way.name).collect(), samples(trips), samples(streams))
}

/// What an administrator types: a bridge, a pair, a VXLAN device with one entry.
fn by_hand(sandbox: &Sandbox, hosts: &[Netns; 2]) -> Way {
    let guests = [1, 2].map(|n| sandbox.container(&format!("hand{n}")));
    for (n, (host, guest)) in hosts.iter().zip(&guests).enumerate() {
        let (name, other) = (guest.name.as_str(), format!("192.0.2.{}", 2 - n));
        for words in [
            "ip link add br-hand type bridge".to_owned(),
            format!("ip link add hand mtu 1450 master br-hand up type veth peer name eth0 mtu 1450 netns {name}"),
            "ip link add vx-hand master br-hand up type vxlan id 7 dstport 4790 dev wire0".to_owned(),
            format!("bridge fdb append 00:00:00:00:00:00 dev vx-hand dst {other}"),
            "ip link set br-hand up".to_owned(),
        ] {
            host.sh(&words.split(' ').collect::<Vec<_>>());
        }
        guest.sh(&["ip", "addr", "add", &format!("10.7.0.{}/24", n + 1), "dev", "eth0"]);
        guest.sh(&["ip", "link", "set", "eth0", "up"]);
    }
    let [from, to] = guests;
    Way { name: "by hand", from, to, address: "10.7.0.2".parse().unwrap() }
}

fn by_plugin(sandbox: &Sandbox, hosts: &[Netns; 2]) -> Way {
    std::fs::write("/run/peers", "192.0.2.1\n192.0.2.2\n").unwrap();
    let attached = [1, 2].map(|n: usize| {
        let ipam = json!({"type": "host-local", "subnet": "10.8.0.0/16", "rangeStart": format!("10.8.{n}.2"), "dataDir": format!("/run/ipam{n}")});
        let bridge = json!({"type": "bridge", "bridge": "br-net", "ipam": ipam});
        let vxlan = json!({"type": "vxlan", "vni": 8, "dev": "wire0", "peers": "/run/peers"});
        let chain = Chain::new("net", VERSION, &[bridge, vxlan]);
        let ns = sandbox.container(&format!("c{n}"));
        let mut at = Attachment::new(&ns.name, &ns);
        hosts[n - 1].run(|| chain.add(sandbox, &mut at));
        (ns, at.ip(false))
    });
    let [(from, _), (to, address)] = attached;
    Way { name: "vxlan", from, to, address: address.parse().unwrap() }
}

/// One datagram after the other, there and back.
fn round_trips(way: &Way) -> Duration {
    let server = way.to.run(|| UdpSocket::bind((way.address, 7000)).expect("bind"));
    let client = way.from.run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"));
    client.connect((way.address, 7000)).expect("connect");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            // One more, which looks the neighbours up.
            for _ in 0..=TRIPS {
                let mut buffer = [0; 64];
                let (size, from) = server.recv_from(&mut buffer).expect("a datagram");
                server.send_to(&buffer[..size], from).expect("an answer");
            }
        });
        let trip = || {
            client.send(&[0; 32]).expect("send");
            client.recv(&mut [0; 64]).expect("an answer");
        };
        trip();
        let start = Instant::now();
        (0..TRIPS).for_each(|_| trip());
        start.elapsed()
    })
}

/// The time of [`BYTES`] through one TCP connection.
fn stream(way: &Way) -> Duration {
    let listener = way.to.run(|| TcpListener::bind((way.address, 7001)).expect("listen"));
    thread::scope(|scope| {
        let received = scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut buffer = vec![0; 1 << 18];
            let (start, mut left) = (Instant::now(), BYTES);
            while left > 0 {
                left -= stream.read(&mut buffer).expect("read").min(left);
            }
            start.elapsed()
        });
        let to = SocketAddr::new(way.address, 7001);
        let mut stream = way.from.run(|| TcpStream::connect(to).expect("connect"));
        let block = vec![0; 1 << 18];
        for _ in 0..BYTES / block.len() {
            stream.write_all(&block).expect("write");
        }
        received.join().expect("read")
    })
}
