//! cni-noded: parts that are leased in a real etcd.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cni_tests::netns::sh;
use cni_tests::parallel::until;
use cni_tests::{Netns, Sandbox, verdict};
use serde_json::{Value, json};

use super::{Agent, Node, nodes};
use crate::case::{Case, improved};

const ADDRESS: &str = "192.0.2.200";
/// The shortest lease that is allowed, in seconds.
const TTL: u64 = 5;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("three_hosts_at_once_share_a_subnet", at_once),
        improved("five_hosts_at_once_for_one_part", one_part),
        improved("restart_has_the_same_part", restart),
        improved("no_part_is_left", none_left),
        improved("part_of_a_dead_host_is_given_on", dead),
        improved("two_hosts_of_one_name", one_name),
        improved("killed_and_back", killed),
        improved("paused_and_back", paused),
        improved("host_that_was_cut_off_for_too_long", cut_off),
        improved("compacted_while_a_host_was_cut_off", compacted),
        improved("tls_with_certificates_that_are_renewed", tls),
    ]
}

/// etcd in a namespace of its own, on the nodes' switch.
pub(super) struct Etcd {
    ns: Netns,
    child: Child,
    more: Vec<String>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // One that is stopped too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    pub(super) fn start(sb: &Sandbox) -> Self {
        Self::start_with(sb, "http", &[])
    }

    fn start_with(sb: &Sandbox, scheme: &str, more: &[&str]) -> Self {
        let ns = sb.container("etcd");
        let switch = Netns::existing("switch");
        switch.sh(&["ip", "link", "add", "petcd", "type", "veth", "peer", "name", "eth0", "netns", "etcd"]);
        switch.sh(&["ip", "link", "set", "petcd", "master", "sw", "up"]);
        ns.sh(&["ip", "link", "set", "lo", "up"]);
        ns.sh(&["ip", "addr", "add", &format!("{ADDRESS}/24"), "dev", "eth0"]);
        ns.sh(&["ip", "link", "set", "eth0", "up"]);
        let mut more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        let url = format!("{scheme}://{ADDRESS}:2379");
        more.extend([
            "--listen-client-urls".to_owned(),
            format!("{url},http://127.0.0.1:2379"),
            "--advertise-client-urls".to_owned(),
            url,
        ]);
        let child = run(&ns, &more);
        let etcd = Self { ns, child, more };
        etcd.wait();
        etcd
    }

    fn wait(&self) {
        until("etcd", || self.ns.holds(&["sh", "-c", "ETCDCTL_API=3 etcdctl endpoint health >/dev/null 2>&1"]));
    }

    fn again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = run(&self.ns, &self.more);
        self.wait();
    }

    fn signal(&self, name: &str) {
        sh(&["kill", "-s", name, &self.child.id().to_string()]);
    }

    /// What `etcdctl` prints.
    fn ctl(&self, words: &str) -> String {
        self.ns.sh(&["sh", "-c", &format!("ETCDCTL_API=3 etcdctl {words}")])
    }

    pub(super) fn parts(&self) -> Vec<String> {
        self.ctl("get --prefix --keys-only /cni-noded/parts/ | grep . || true").lines().map(str::to_owned).collect()
    }
}

fn run(ns: &Netns, more: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open("/run/etcd.log").unwrap();
    let mut command = Command::new("etcd");
    command.args(["--data-dir", "/run/etcd", "--listen-peer-urls", "http://127.0.0.1:2380"]).args(more);
    // It refuses processors that it doesn't know without.
    command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH).stdout(Stdio::null()).stderr(log);
    ns.run(|| command.spawn()).unwrap_or_else(|error| verdict::skip(format!("etcd: {error}")))
}

fn source(subnet: &str, part: u8) -> Value {
    json!({"etcd": {
        "endpoints": [format!("http://{ADDRESS}:2379")], "ttl": TTL,
        "subnets": [{"subnet": subnet, "part": part}, {"subnet": "fd00:42::/56", "part": 64}],
    }})
}

/// An agent with routes to the others' parts.
fn start(sb: &Sandbox, node: &Node, subnet: &str, part: u8) -> Agent {
    let mut source = source(subnet, part);
    source["etcd"]["addresses"] = json!(node.underlay);
    node.start(sb, &node.config_of(&source, &json!({"host-gw": {}}), &[]))
}

/// The IPv4 part in the node's configuration.
fn part(node: &Node) -> String {
    until("the network's configuration", || fs::exists(node.conflist()).unwrap());
    let list: Value = serde_json::from_str(&fs::read_to_string(node.conflist()).unwrap()).unwrap();
    list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"].as_str().unwrap().to_owned()
}

fn unlike(parts: &[String]) -> bool {
    parts.iter().collect::<std::collections::BTreeSet<_>>().len() == parts.len()
}

fn at_once(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    let etcd = Etcd::start(sb);
    // Four parts: each wants the same ones as another.
    let _agents: Vec<_> = nodes.iter().map(|node| start(sb, node, "10.42.0.0/22", 24)).collect();
    let parts: Vec<_> = nodes.iter().map(part).collect();
    assert!(unlike(&parts), "{parts:?}");
    assert_eq!(etcd.parts().len(), 6);
    for node in &nodes {
        until("routes", || node.routes().len() == 4 && node.is_healthy());
    }
    let pods: Vec<_> = nodes.iter().map(|node| node.attach(sb, &format!("c{}", node.number))).collect();
    for to in &pods[1..] {
        assert!(pods[0].reaches(to));
    }
}

/// All of them ask while etcd is stopped, and so get their answers at the same time: each sees that the part is free.
fn one_part(sb: &Sandbox) {
    let nodes = nodes(sb, 5);
    let etcd = Etcd::start(sb);
    etcd.signal("STOP");
    let agents: Vec<_> = nodes.iter().map(|node| start(sb, node, "10.42.0.0/24", 24)).collect();
    std::thread::sleep(Duration::from_secs(1));
    etcd.signal("CONT");
    let without = || agents.iter().filter(|agent| agent.log().contains("all parts of 10.42.0.0/24 are taken")).count();
    until("four are without", || without() == 4);
    until("one has it", || nodes.iter().filter(|node| fs::exists(node.conflist()).unwrap()).count() == 1);
}

fn restart(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let etcd = Etcd::start(sb);
    let mut agents: Vec<_> = nodes.iter().map(|node| start(sb, node, "10.42.0.0/16", 24)).collect();
    let parts: Vec<_> = nodes.iter().map(part).collect();
    for node in &nodes {
        until("routes", || node.routes().len() == 2);
    }
    let routes = nodes[1].routes();
    // With its lease,
    drop(agents.remove(0));
    let again = start(sb, &nodes[0], "10.42.0.0/16", 24);
    until("health", || nodes[0].is_healthy());
    assert_eq!((part(&nodes[0]), nodes[1].routes()), (parts[0].clone(), routes.clone()));
    // and when that has run out.
    drop(again);
    until("its lease is gone", || etcd.parts().len() == 2);
    until("and so the other's routes", || nodes[1].routes().is_empty());
    let _again = start(sb, &nodes[0], "10.42.0.0/16", 24);
    until("routes", || nodes[1].routes() == routes);
    assert_eq!(part(&nodes[0]), parts[0]);
}

fn none_left(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    let etcd = Etcd::start(sb);
    let agents: Vec<_> = nodes.iter().map(|node| start(sb, node, "10.42.0.0/23", 24)).collect();
    until("one is without", || agents.iter().any(|agent| agent.log().contains("all parts of 10.42.0.0/23 are taken")));
    until("two have one", || nodes.iter().filter(|node| fs::exists(node.conflist()).unwrap()).count() == 2);
    assert_eq!(etcd.parts().len(), 4);
    // Each attempt of the third gives its lease back.
    std::thread::sleep(Duration::from_secs(3));
    let leases = etcd.ctl("lease list").lines().filter(|line| !line.contains("found")).count();
    assert!(leases <= 3, "{leases} leases");
}

fn dead(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let _etcd = Etcd::start(sb);
    let first = start(sb, &nodes[0], "10.42.0.0/24", 24);
    assert_eq!(part(&nodes[0]), "10.42.0.0/24");
    let second = start(sb, &nodes[1], "10.42.0.0/24", 24);
    until("it waits", || second.log().contains("all parts of 10.42.0.0/24 are taken"));
    drop(first);
    assert_eq!(part(&nodes[1]), "10.42.0.0/24");
    until("health", || nodes[1].is_healthy());
}

fn one_name(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let _etcd = Etcd::start(sb);
    let first = start(sb, &nodes[0], "10.42.0.0/16", 24);
    part(&nodes[0]);
    let mut source = source("10.42.0.0/16", 24);
    source["etcd"]["addresses"] = json!(nodes[1].underlay);
    source["etcd"]["state"] = json!("/run/other");
    let mut config = nodes[1].config_of(&source, &json!({"host-gw": {}}), &[]);
    config["node"] = json!("n1");
    let second = nodes[1].start(sb, &config);
    until("it says so", || {
        second.log().contains("another host is called n1 there, with the addresses [192.0.2.1, 2001:db8::1]")
    });
    assert!(!fs::exists(nodes[1].conflist()).unwrap());
    drop(first);
    until("the name is free", || fs::exists(nodes[1].conflist()).unwrap());
}

/// Two nodes with routes to each other.
fn pair(sb: &Sandbox) -> (Vec<Node>, Etcd, Vec<Agent>) {
    let nodes = nodes(sb, 3);
    let etcd = Etcd::start(sb);
    let agents = nodes[..2].iter().map(|node| start(sb, node, "10.42.0.0/16", 24)).collect();
    for node in &nodes[..2] {
        until("routes", || node.routes().len() == 2 && node.is_healthy());
    }
    (nodes, etcd, agents)
}

/// What is there while etcd is away stays, it says so, and afterwards a third node is seen.
fn away_and_back(sb: &Sandbox, nodes: &[Node], agents: &[Agent], back: impl FnOnce()) {
    let (routes, parts) = (nodes[0].routes(), [part(&nodes[0]), part(&nodes[1])]);
    until("it says so", || agents[0].log().contains("nothing changes meanwhile") && !nodes[0].is_healthy());
    assert!(nodes[0].ask("/metrics").contains("cni_noded_source_up 0\n"));
    assert_eq!(nodes[0].routes(), routes);
    back();
    until("it answers again", || nodes[..2].iter().all(Node::is_healthy));
    assert_eq!([part(&nodes[0]), part(&nodes[1])], parts);
    let _third = start(sb, &nodes[2], "10.42.0.0/16", 24);
    until("routes to the third", || nodes[0].routes().len() == 4);
    assert!(routes.iter().all(|route| nodes[0].routes().contains(route)));
}

fn killed(sb: &Sandbox) {
    let (nodes, mut etcd, agents) = pair(sb);
    etcd.signal("KILL");
    away_and_back(sb, &nodes, &agents, || etcd.again());
}

fn paused(sb: &Sandbox) {
    let (nodes, etcd, agents) = pair(sb);
    etcd.signal("STOP");
    away_and_back(sb, &nodes, &agents, || etcd.signal("CONT"));
}

fn cut(node: &Node, state: &str) {
    Netns::existing("switch").sh(&["ip", "link", "set", &format!("p{}", node.number), state]);
}

/// Its lease runs out and its part is given to another: it has to say so, and take another one.
fn cut_off(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    let etcd = Etcd::start(sb);
    let first = start(sb, &nodes[0], "10.42.0.0/24", 25);
    let had = part(&nodes[0]);
    until("health", || nodes[0].is_healthy());
    cut(&nodes[0], "down");
    until("the lease has run out", || etcd.parts().is_empty());
    assert_eq!(part(&nodes[0]), had, "nothing changes meanwhile");
    let key = had.replace('/', "-");
    etcd.ctl(&format!("put /cni-noded/parts/{key} another"));
    cut(&nodes[0], "up");
    until("it says so", || first.log().contains(&format!("{had}, which this node had, was given to another")));
    until("another part", || part(&nodes[0]) != had);
    // And where nobody has taken it, it is its own again.
    let had = part(&nodes[0]);
    cut(&nodes[0], "down");
    until("the lease has run out", || etcd.parts().len() == 1);
    cut(&nodes[0], "up");
    until("it has it again", || etcd.parts().len() == 3 && nodes[0].is_healthy());
    assert_eq!(part(&nodes[0]), had);
}

fn compacted(sb: &Sandbox) {
    let (nodes, mut etcd, agents) = pair(sb);
    cut(&nodes[0], "down");
    let _third = start(sb, &nodes[2], "10.42.0.0/16", 24);
    part(&nodes[2]);
    let entry =
        |n: u8| format!("'{{\"token\":\"t\",\"addresses\":[\"192.0.2.{n}\"],\"subnets\":[\"10.43.{n}.0/24\"]}}'");
    etcd.ctl(&format!("put /cni-noded/nodes/gone {}", entry(7)));
    etcd.ctl("del /cni-noded/nodes/gone");
    etcd.ctl(&format!("put /cni-noded/nodes/there {}", entry(8)));
    let revision = etcd.ctl("get / -w json | jq .header.revision");
    etcd.ctl(&format!("compact {}", revision.trim()));
    // The connection does not survive: a watch has to be begun again, from what is no longer there.
    etcd.again();
    cut(&nodes[0], "up");
    until("the new list", || nodes[0].routes().iter().any(|route| route == "10.43.8.0/24 via 192.0.2.8"));
    until("routes to the third", || nodes[0].routes().len() == 5);
    assert!(!nodes[0].routes().iter().any(|route| route.starts_with("10.43.7.")), "{}", agents[0].log());
}

/// Certificates of a new authority in `/run/pki`, for the server and for a client.
fn certificates() {
    let script = "mkdir -p /run/pki/new && cd /run/pki/new &&
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca 2>/dev/null &&
        for one in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $one.key -out $one.csr -subj /CN=$one 2>/dev/null &&
            printf 'subjectAltName=IP:192.0.2.200,IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >ext &&
            openssl x509 -req -in $one.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out $one.crt -days 2 -extfile ext 2>/dev/null || exit 1
        done && mv -f ./* .. && rmdir /run/pki/new";
    sh(&["sh", "-c", script]);
}

fn tls(sb: &Sandbox) {
    let nodes = nodes(sb, 2);
    certificates();
    let files = |ca: &str| {
        [
            "--cert-file=/run/pki/server.crt".to_owned(),
            "--key-file=/run/pki/server.key".to_owned(),
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file=/run/pki/{ca}"),
        ]
    };
    let words = files("ca.crt");
    let mut etcd = Etcd::start_with(sb, "https", &words.each_ref().map(String::as_str));
    let mut source = source("10.42.0.0/16", 24);
    source["etcd"]["endpoints"] = json!([format!("https://{ADDRESS}:2379")]);
    source["etcd"]["ca"] = json!("/run/pki/ca.crt");
    let config = |node: &Node, source: &Value| {
        let mut source = source.clone();
        source["etcd"]["addresses"] = json!(node.underlay);
        node.config_of(&source, &json!({"host-gw": {}}), &[])
    };
    let without = nodes[1].start(sb, &config(&nodes[1], &source));
    until("it is refused without a certificate", || without.log().contains("etcd: https://192.0.2.200:2379"));
    drop(without);
    assert!(etcd.parts().is_empty() && !fs::exists(nodes[1].conflist()).unwrap());
    source["etcd"]["cert"] = json!("/run/pki/client.crt");
    source["etcd"]["key"] = json!("/run/pki/client.key");
    let agents: Vec<_> = nodes.iter().map(|node| node.start(sb, &config(node, &source))).collect();
    for node in &nodes {
        until("health", || node.is_healthy());
    }
    let parts: Vec<_> = nodes.iter().map(part).collect();
    // All of them new, by another authority.
    certificates();
    etcd.again();
    until("new certificates are read", || nodes.iter().all(Node::is_healthy) && etcd.parts().len() == 4);
    std::thread::sleep(Duration::from_secs(TTL));
    assert!(etcd.parts().len() == 4 && nodes.iter().map(part).collect::<Vec<_>>() == parts, "{}", agents[0].log());
    // A server that another authority has signed is none.
    sh(&["sh", "-c", "cp /run/pki/ca.crt /run/pki/server-ca.crt"]);
    certificates();
    until("it is not trusted", || !nodes[0].is_healthy());
}
