//! cni-noded: several nodes, each of them a namespace, with an agent in each.

pub(crate) mod bridge;
pub(crate) mod etcd;
pub(crate) mod file;
pub(crate) mod host_gw;
pub(crate) mod kubernetes;
pub(crate) mod names;
pub(crate) mod vxlan;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cni_tests::parallel::until;
use cni_tests::run::Outcome;
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel, verdict};
use serde_json::{Value, json};

/// Where all nodes are listed.
const NODES: &str = "/run/nodes";
/// The protocol number of the agent's routes.
const PROTOCOL: &str = "115";

/// A node: number 1 is `n1`, with 192.0.2.1 and 2001:db8::1 on `eth0`, and hands out 10.42.1.0/24 and fd00:42:0:1::/64.
#[derive(Debug, Clone)]
struct Node {
    number: usize,
    ns: Netns,
    underlay: [String; 2],
}

/// An agent that runs; it is killed with this.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A container on a node.
struct Pod {
    ns: Netns,
    at: Attachment,
}

/// So many nodes on one switch.
fn nodes(sb: &Sandbox, count: usize) -> Vec<Node> {
    needs(sb);
    let switch = sb.container("switch");
    switch.sh(&["ip", "link", "add", "sw", "type", "bridge"]);
    switch.sh(&["ip", "link", "set", "sw", "up"]);
    (1..=count).map(|number| on_switch(sb, &switch, number)).collect()
}

fn needs(sb: &Sandbox) {
    if !sb.has("cni-noded") {
        verdict::skip("no cni-noded in the directory under test");
    }
}

fn on_switch(sb: &Sandbox, switch: &Netns, number: usize) -> Node {
    let port = format!("p{number}");
    let underlay = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
    let node = node(sb, switch, &port, number, underlay);
    switch.sh(&["ip", "link", "set", &port, "master", "sw", "up"]);
    node
}

/// A node whose `eth0` is the other end of `port`, which is in `above`.
fn node(sb: &Sandbox, above: &Netns, port: &str, number: usize, underlay: [String; 2]) -> Node {
    let name = format!("n{number}");
    let ns = sb.container(&name);
    without_dad(&ns);
    above.sh(&["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &name]);
    ns.sh(&["ip", "link", "set", "lo", "up"]);
    ns.sh(&["ip", "addr", "add", &format!("{}/24", underlay[0]), "dev", "eth0"]);
    ns.sh(&["ip", "addr", "add", &format!("{}/64", underlay[1]), "dev", "eth0", "nodad"]);
    ns.sh(&["ip", "link", "set", "eth0", "up"]);
    Node { number, ns, underlay }
}

/// New addresses can be used at once. A router asks for neighbours from its link-local address, and so not at all for as long as that
/// is checked (`ndisc_solicit` in net/ipv6/ndisc.c).
fn without_dad(ns: &Netns) {
    for conf in ["all", "default"] {
        kernel::set_sysctl(ns, &format!("ipv6/conf/{conf}/accept_dad"), "0");
    }
}

/// Two nodes on a wire each, with a router between them.
fn routed_nodes(sb: &Sandbox) -> Vec<Node> {
    needs(sb);
    let router = sb.container("router");
    without_dad(&router);
    let nodes = (1..=2).map(|number| {
        let port = format!("p{number}");
        let node = node(sb, &router, &port, number, [format!("192.0.{number}.2"), format!("2001:db8:{number}::2")]);
        for (gateway, bits) in [(format!("192.0.{number}.1"), 24), (format!("2001:db8:{number}::1"), 64)] {
            let address = format!("{gateway}/{bits}");
            router.sh(&[
                "sh",
                "-c",
                &format!("ip addr add {address} dev {port} $(case {address} in *:*) echo nodad;; esac)"),
            ]);
        }
        router.sh(&["ip", "link", "set", &port, "up"]);
        node
    });
    let nodes: Vec<Node> = nodes.collect();
    kernel::set_sysctl(&router, "ipv4/ip_forward", "1");
    kernel::set_sysctl(&router, "ipv6/conf/all/forwarding", "1");
    for node in &nodes {
        let n = node.number;
        node.ns.sh(&["ip", "route", "add", "default", "via", &format!("192.0.{n}.1")]);
        node.ns.sh(&["ip", "-6", "route", "add", "default", "via", &format!("2001:db8:{n}::1")]);
    }
    nodes
}

/// Writes the file of the nodes, as programs should: by rename.
fn write(text: &str) {
    fs::write("/run/.nodes", text).unwrap();
    fs::rename("/run/.nodes", NODES).unwrap();
}

/// Lists these nodes.
fn list(nodes: &[Node]) {
    write(&nodes.iter().map(Node::line).collect::<String>());
}

impl Node {
    fn line(&self) -> String {
        let n = self.number;
        format!("n{n} {} {} 10.42.{n}.0/24 fd00:42:0:{n}::/64\n", self.underlay[0], self.underlay[1])
    }

    fn conflist(&self) -> String {
        format!("/etc/cni/net.d/n{}.conflist", self.number)
    }

    /// A configuration with the file as its source, and a network of `bridge` alone.
    fn config(&self, backend: &Value) -> Value {
        self.config_of(&json!({"file": NODES}), backend, &[])
    }

    /// The same with another source, and with further plugins.
    fn config_of(&self, source: &Value, backend: &Value, further: &[Value]) -> Value {
        let n = self.number;
        let mut plugins = vec![json!({
            "type": "bridge", "bridge": "br-net", "isDefaultGateway": true,
            "ipam": {"type": "host-local", "ranges": "{ranges}", "dataDir": format!("/run/ipam{n}")}
        })];
        if backend.get("vxlan").is_some() {
            plugins[0]["mtu"] = json!("{mtu}");
        }
        plugins.extend_from_slice(further);
        let template = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins});
        json!({
            "node": format!("n{n}"), "source": source, "backend": backend,
            "network": {"file": self.conflist(), "template": template},
        })
    }

    /// Starts an agent with this configuration.
    fn start(&self, sb: &Sandbox, config: &Value) -> Agent {
        let (path, log) =
            (format!("/run/noded{}.json", self.number), PathBuf::from(format!("/run/noded{}.log", self.number)));
        fs::write(&path, config.to_string()).unwrap();
        let out = fs::File::options().create(true).append(true).open(&log).unwrap();
        let program = sb.dir().join("cni-noded");
        let child = self.ns.run(|| {
            Command::new(program)
                .args(["--config", &path])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(out)
                .spawn()
        });
        Agent { child: child.unwrap(), log }
    }

    /// What `/healthz` or `/metrics` answers, with its status line; nothing if nobody does.
    fn ask(&self, path: &str) -> String {
        let script = format!("printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 9469 || true");
        self.ns.sh(&["sh", "-c", &script])
    }

    fn is_healthy(&self) -> bool {
        self.ask("/healthz").starts_with("HTTP/1.0 200 ")
    }

    /// The agent's routes as `destination via gateway`, of both IP versions.
    fn routes(&self) -> Vec<String> {
        let mut routes: Vec<String> = ["-4", "-6"]
            .iter()
            .flat_map(|family| kernel::array(&self.ns.sh(&["ip", "-j", family, "route", "show", "proto", PROTOCOL])))
            .map(|r| format!("{} via {}", r["dst"].as_str().unwrap(), r["gateway"].as_str().unwrap_or("nobody")))
            .collect();
        routes.sort();
        routes
    }

    /// The routes that `host-gw` should have to these nodes.
    fn routes_to(nodes: &[&Node]) -> Vec<String> {
        let both = |node: &&Node| {
            let n = node.number;
            [format!("10.42.{n}.0/24 via {}", node.underlay[0]), format!("fd00:42:0:{n}::/64 via {}", node.underlay[1])]
        };
        let mut routes: Vec<String> = nodes.iter().flat_map(both).collect();
        routes.sort();
        routes
    }

    /// Attaches a new container to the network that the agent has written.
    #[track_caller]
    fn attach(&self, sb: &Sandbox, id: &str) -> Pod {
        self.try_attach(sb, id).unwrap_or_else(|outcome| panic!("{outcome}"))
    }

    fn try_attach(&self, sb: &Sandbox, id: &str) -> Result<Pod, Outcome> {
        until("the network's configuration", || fs::exists(self.conflist()).unwrap());
        let chain = Chain::parse(&fs::read_to_string(self.conflist()).unwrap());
        let ns = sb.container(id);
        let mut at = Attachment::new(id, &ns);
        self.ns.run(|| chain.try_add(sb, &mut at)).map(|_| Pod { ns, at })
    }
}

impl Pod {
    /// Pings both addresses of the other one.
    fn reaches(&self, other: &Pod) -> bool {
        [false, true].iter().all(|v6| self.pings(&other.at.ip(*v6)))
    }

    fn pings(&self, to: &str) -> bool {
        self.ns.holds(&["ping", "-n", "-q", "-c1", "-W2", to])
    }

    /// Pings with a packet of just this size, which is not to be cut.
    fn pings_with(&self, to: &str, size: usize) -> bool {
        let headers = if to.contains(':') { 48 } else { 28 };
        self.ns.holds(&["ping", "-n", "-q", "-c1", "-W2", "-M", "do", "-s", &(size - headers).to_string(), to])
    }
}

impl Agent {
    /// What it has written to stderr.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, name: &str) {
        cni_tests::netns::sh(&["kill", "-s", name, &self.child.id().to_string()]);
    }

    /// Ends it by SIGTERM; how long that took. It has to exit with 0.
    fn end(mut self) -> Duration {
        let began = Instant::now();
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        began.elapsed()
    }
}

/// Sets these keys.
fn with(conf: &mut Value, keys: &Value) {
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
}
