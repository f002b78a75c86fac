//! firewall: networks of different implementations on one node. A policy of one holds against the other's, whichever came
//! first. The expectations are the table of docs/firewall.md.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use cni_tests::packets::{Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, netns, parallel, rules, verdict};
use serde_json::json;

use super::{POLICIES, documented};
use crate::case::{Case, improved};

/// Who makes the rules of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Nftables,
    Iptables,
    Go,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Go => "go",
        })
    }
}

/// Where Debian has the Go plugins.
const GO: &str = "/usr/lib/cni";

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let ptp = pairs().map(|(first, second)| {
        improved(format!("ptp::{first}_before_{second}"), move |sb| matrix(sb, "ptp", first, second))
    });
    with_bridges().into_iter().chain(ptp).collect()
}

/// Those that are worth a second run with legacy tools.
pub(crate) fn with_bridges() -> Vec<Case> {
    let matrix = pairs().map(|(first, second)| {
        improved(format!("{first}_before_{second}"), move |sb| matrix(sb, "bridge", first, second))
    });
    let ends = pairs().map(|(first, second)| {
        improved(format!("{first}_before_{second}_del_and_flush"), move |sb| ends(sb, first, second))
    });
    matrix.chain(ends).collect()
}

fn pairs() -> impl Iterator<Item = (By, By)> {
    let all = [By::Nftables, By::Iptables, By::Go];
    all.into_iter().flat_map(move |one| all.map(|other| (one, other))).filter(|(one, other)| one != other)
}

/// A network of one implementation.
struct Net {
    sb: Sandbox,
    by: By,
    policy: &'static str,
    bridge: String,
    chain: Chain,
}

struct Container {
    ns: Netns,
    at: Attachment,
    label: String,
    _server: Server,
}

impl Net {
    /// Network `n`, of which there is one only on the node.
    fn new(sb: &Sandbox, kind: &str, n: u8, by: By, policy: &'static str) -> Self {
        let sb = if by == By::Go { sb.with_plugins(Path::new(GO)) } else { sb.with_plugins(sb.dir()) };
        if !sb.has("firewall") {
            verdict::skip(format!("no Go plugins in {GO}"));
        }
        let bridge = format!("br-{n}");
        let ipam = json!({"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}], "ranges": [
            [{"subnet": format!("10.88.{n}.0/24")}], [{"subnet": format!("fd00:88:{n}::/64")}]
        ]});
        let link = match kind {
            "bridge" => json!({"type": "bridge", "bridge": bridge, "isGateway": true, "ipam": ipam}),
            _ => json!({"type": kind, "ipam": ipam}),
        };
        let backend = if by == By::Nftables { "nftables" } else { "iptables" };
        let last = json!({"type": "firewall", "backend": backend, "ingressPolicy": policy});
        let version = sb.newest(&[kind, "host-local", "firewall"]);
        Self { chain: Chain::new(&format!("net{n}"), version, &[link, last]), sb, by, policy, bridge }
    }

    fn attach(&self, id: &str) -> Container {
        let label = format!("{id}-{}", self.chain.name());
        let ns = self.sb.container(&label);
        let mut at = Attachment::new(&label, &ns);
        self.chain.add(&self.sb, &mut at);
        let _server = Server::start(&ns, &label, 80);
        Container { ns, at, label, _server }
    }

    fn del(&self, of: &Container) {
        self.chain.del(&self.sb, &of.at);
    }

    fn check(&self, of: &Container) {
        if self.by != By::Go {
            self.chain.check(&self.sb, &of.at).silent();
        }
    }
}

/// One network of `by` for each policy that it has: Debian 12's Go plugin (1.1.1) knows no `isolated`.
fn networks(sb: &Sandbox, kind: &str, first: u8, by: By) -> Vec<Net> {
    let policies = (first..).zip(POLICIES).filter(|(_, policy)| by != By::Go || *policy != "isolated");
    policies.map(|(n, policy)| Net::new(sb, kind, n, by, policy)).collect()
}

/// A node that drops packets without an accept rule: it shows an accept at the wrong place, and a policy without effect.
fn dropping() {
    for tool in ["iptables", "ip6tables"] {
        netns::sh(&[tool, "-P", "FORWARD", "DROP"]);
    }
}

fn passes(from: &Net, to: &Net) -> bool {
    let table = documented("### Networks of different implementations", to.policy);
    let row = table.into_iter().find(|(row, _)| row == from.policy);
    row.unwrap_or_else(|| panic!("docs/firewall.md has no row {:?}", from.policy)).1
}

/// Asks in both directions, both families and both protocols.
fn probe(pairs: &[(&Net, &Container, &Net, &Container)]) {
    let directions: Vec<_> = pairs.iter().flat_map(|(a, x, b, y)| [(*a, *x, *b, *y), (*b, *y, *a, *x)]).collect();
    parallel::at_once(directions.len() * 4, |n| {
        let (from, client, to, server) = directions[n / 4];
        let (v6, proto) = (n & 1 == 1, if n & 2 == 0 { Proto::Tcp } else { Proto::Udp });
        let address = at(&server.at.ip(v6), 80);
        let whom = || format!("{} of {} to {} of {}, {address}", from.policy, from.by, to.policy, to.by);
        if passes(from, to) {
            let answer = ask(&client.ns, proto, address);
            assert!(answer.is_ok_and(|answer| answer.starts_with(&server.label)), "{} doesn't get through", whom());
        } else {
            assert!(silent(&client.ns, proto, address), "{} gets through", whom());
        }
    });
}

fn matrix(sb: &Sandbox, kind: &str, first: By, second: By) {
    dropping();
    let (ones, others) = (networks(sb, kind, 1, first), networks(sb, kind, 4, second));
    let before: Vec<Container> = ones.iter().map(|net| net.attach("a")).collect();
    let after: Vec<Container> = others.iter().map(|net| net.attach("b")).collect();
    let pair = |(one, x)| others.iter().zip(&after).map(move |(other, y)| (one, x, other, y));
    let pairs: Vec<_> = ones.iter().zip(&before).flat_map(pair).collect();
    probe(&pairs);
    for (net, container) in ones.iter().zip(&before).chain(others.iter().zip(&after)) {
        net.check(container);
        net.del(container);
    }
}

/// DEL of one network keeps the other's policy, its next ADD makes it whole again, established traffic goes on, and what the
/// rules of one were leaves nothing.
fn ends(sb: &Sandbox, first: By, second: By) {
    dropping();
    let (one, other) =
        (Net::new(sb, "bridge", 1, first, "same-bridge"), Net::new(sb, "bridge", 4, second, "same-bridge"));
    let open = Net::new(sb, "bridge", 7, first, "open");
    let (stays, guest) = (one.attach("a"), open.attach("o"));
    let talk = Talk::start(&guest.ns, &stays);
    let goes = other.attach("b");
    talk.goes_on();
    probe(&[(&one, &stays, &other, &goes)]);
    let second_one = one.attach("c");
    one.del(&second_one);
    probe(&[(&one, &stays, &other, &goes)]);
    other.del(&goes);
    let again = other.attach("d");
    probe(&[(&one, &stays, &other, &again)]);
    talk.goes_on();
    // What a restart of a firewall service does to the tables of iptables.
    if second != By::Nftables || first != By::Nftables {
        for tool in ["iptables", "ip6tables"] {
            netns::sh(&["sh", "-c", &format!("{tool} -F; {tool} -X")]);
        }
        let (late, later) = (other.attach("e"), one.attach("f"));
        probe(&[(&one, &later, &other, &late), (&one, &stays, &other, &late)]);
        other.del(&late);
        one.del(&later);
    }
    one.del(&stays);
    other.del(&again);
    open.del(&guest);
    for net in [&one, &other].into_iter().filter(|net| net.by != By::Go) {
        let left = about(&sb.node(), &net.bridge);
        assert!(left.is_empty(), "{} left {left:?}", net.by);
    }
}

/// The rules of either variant that name a bridge.
fn about(node: &Netns, bridge: &str) -> Vec<String> {
    rules::naming(node, bridge)
}

/// A connection that stays.
struct Talk {
    socket: std::net::UdpSocket,
    label: String,
}

impl Talk {
    fn start(from: &Netns, to: &Container) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(20_000);
        let local = PORT.fetch_add(1, Ordering::Relaxed);
        let socket = from.run(|| std::net::UdpSocket::bind(("0.0.0.0", local)).unwrap());
        socket.connect(at(&to.at.ip(false), 80)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        let talk = Self { socket, label: to.label.clone() };
        talk.goes_on();
        talk
    }

    fn goes_on(&self) {
        let answered = (0..5).any(|_| {
            let mut buffer = [0; 256];
            let size = self.socket.send(b"?").and_then(|_| self.socket.recv(&mut buffer)).unwrap_or(0);
            buffer[..size].starts_with(self.label.as_bytes())
        });
        assert!(answered, "an established connection to {} has ended", self.label);
    }
}
