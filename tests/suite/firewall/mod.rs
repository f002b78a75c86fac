//! firewall: who reaches whom, with both backends and with firewalld, beside the Go plugin and beside other programs' rules.

pub(crate) mod back_to_go;
pub(crate) mod check;
pub(crate) mod firewalld;
pub(crate) mod foreign;
pub(crate) mod go;
pub(crate) mod legacy;
pub(crate) mod matrix;
pub(crate) mod mixed;
pub(crate) mod published_only;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod traffic;

use cni_tests::conf::{self, Backend, firewall};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, netns, rules};
use serde_json::{Value, json};

const POLICIES: [&str; 3] = ["open", "same-bridge", "isolated"];

/// Those, and the ones with a closed door.
const COLUMNS: [&str; 6] =
    ["open", "same-bridge", "isolated", "publishedOnly", "publishedOnly, same-bridge", "publishedOnly, isolated"];

const PORT: u16 = 8080;

const OUTSIDE_PORT: u16 = 7000;

const PUBLISHED: [(u16, u16, &str); 2] = [(PORT, 80, "tcp"), (PORT, 80, "udp")];

/// A node that drops all packets without an accept rule, as Docker configures it, with hosts outside.
struct Node<'a> {
    sb: &'a Sandbox,
    ns: Netns,
    outside: Outside,
    backend: Backend,
    _server: Server,
}

/// A network: bridge, portmap and firewall.
struct Net<'a> {
    node: &'a Node<'a>,
    chain: Chain,
}

struct Container {
    ns: Netns,
    at: Attachment,
    _server: Server,
}

impl<'a> Node<'a> {
    fn start(sb: &'a Sandbox, backend: Backend) -> Self {
        for tool in ["iptables", "ip6tables"] {
            netns::sh(&[tool, "-P", "FORWARD", "DROP"]);
        }
        Self::accepting(sb, backend)
    }

    /// The same with the kernel's own policy.
    fn accepting(sb: &'a Sandbox, backend: Backend) -> Self {
        let outside = sb.outside();
        let _server = Server::start(&outside.ns, "outside", OUTSIDE_PORT);
        Self { sb, ns: sb.node(), outside, backend, _server }
    }

    /// Network `n` (a digit), with a last plugin.
    fn network(&'a self, n: u8, last: Option<Value>) -> Net<'a> {
        let backend = self.backend.name();
        let bridge = json!({
            "type": "bridge", "bridge": format!("br-{n}"), "isDefaultGateway": true, "hairpinMode": true,
            "ipMasq": true, "ipMasqBackend": backend,
            "ipam": {"type": "host-local", "ranges": [
                [{"subnet": format!("10.88.{n}.0/24")}], [{"subnet": format!("fd00:88:{n}::/64")}]
            ]}
        });
        let portmap = json!({"type": "portmap", "backend": backend, "capabilities": {"portMappings": true}});
        let plugins: Vec<Value> = [bridge, portmap].into_iter().chain(last).collect();
        let version = self.sb.newest(&["bridge", "portmap", "host-local", "firewall"]);
        Net { node: self, chain: Chain::new(&format!("net{n}"), version, &plugins) }
    }

    /// Network `n` with the firewall plugin.
    fn guarded(&'a self, n: u8, policy: &str) -> Net<'a> {
        self.network(n, Some(firewall(self.backend, policy)))
    }
}

impl Net<'_> {
    /// A container with a server on port 80.
    fn attach(&self, id: &str, ports: &[(u16, u16, &str)]) -> Container {
        let ns = self.node.sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(ports);
        self.chain.add(self.node.sb, &mut at);
        let _server = Server::start(&ns, id, 80);
        Container { ns, at, _server }
    }
}

fn reaches(from: &Netns, to: &str, port: u16, who: &str) -> bool {
    let answers = ask(from, Proto::Tcp, at(to, port)).is_ok_and(|answer| answer.starts_with(who));
    answers && ask(from, Proto::Udp, at(to, port)).is_ok_and(|answer| answer.starts_with(who))
}

fn is_cut_off(from: &Netns, to: &str, port: u16) -> bool {
    silent(from, Proto::Tcp, at(to, port)) && silent(from, Proto::Udp, at(to, port))
}

fn call(sb: &Sandbox, verb: &str, id: &str, conf: &Value) -> Outcome {
    let call = sb.plugin("firewall", verb).names(id, "eth0").env("CNI_NETNS", "/run/netns/none");
    call.conf(conf).run()
}

fn add(sb: &Sandbox, backend: Backend, policy: &str, id: &str, n: u8) -> Value {
    let conf = conf::firewall_alone(sb, backend, policy, n);
    call(sb, "ADD", id, &conf).result();
    conf
}

fn about_bridge(sb: &Sandbox) -> Vec<String> {
    rules::naming(&sb.node(), "br0")
}

/// The rows of the table of docs/firewall.md under `heading`, with what its column says.
fn documented(heading: &str, column: &str) -> Vec<(String, bool)> {
    let text = include_str!("../../../docs/firewall.md");
    let (_, section) = text.split_once(heading).unwrap_or_else(|| panic!("docs/firewall.md has no {heading:?}"));
    let lines = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut rows = lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect());
    let head: Vec<String> = rows.next().expect("a table");
    let at = head.iter().position(|cell| cell == column).unwrap_or_else(|| panic!("no column {column:?} in {head:?}"));
    rows.skip(1)
        .map(|cells: Vec<String>| {
            let passes = match cells[at].as_str() {
                "yes" => true,
                "–" => false,
                other => panic!("{other:?} is neither yes nor –, in {cells:?}"),
            };
            (cells[0].clone(), passes)
        })
        .collect()
}
