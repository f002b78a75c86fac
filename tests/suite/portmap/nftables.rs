//! portmap with nftables: what others do to its tables, an owner whose ports change, ADD and DEL at once, and listeners.

use std::net::{TcpListener, TcpStream, UdpSocket};

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, ask, at};
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Chain, Sandbox, rules};
use serde_json::{Value, json};

use super::{PORT, start};
use crate::case::{Case, improved};
use cni_tests::story::{Container, Story};

const NFT: Backend = Backend::Nftables;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("the_next_add_repairs_what_was_emptied", emptied),
        improved("a_withdrawn_port_goes_to_the_next_network", withdrawn),
        improved("a_flow_to_a_withdrawn_port_ends", flow),
        improved("add_and_del_at_once_leave_nothing", at_the_same_time),
        improved("a_dormant_table_is_named_and_woken", dormant),
        improved("an_empty_list_of_values_is_refused", no_values),
        improved("a_connection_from_the_port_is_no_listener", connection),
        improved("a_listener_in_a_long_range_is_a_warning", long_range),
    ]
}

/// portmap alone, for an attachment that it has been called for before.
fn portmap(story: &Story<'_>, verb: &str, to: &Attachment) -> cni_tests::Outcome {
    story.chain.call(story.sb, verb, &conf::portmap(NFT), to, to.result.as_ref()).run()
}

/// What leads to a chain counts in it like its rules: with two ports and more an empty chain looks like a full one.
fn emptied(sb: &Sandbox) {
    let story = start(sb, NFT);
    let ports = [(9000, 80, "tcp"), (9001, 80, "tcp"), (9002, 80, "tcp")];
    let old = story.attach("old", &ports);
    let chain = "snat-local-10.77.0.0/24";
    for (n, emptied) in (0..).zip([
        vec!["nft", "flush", "table", "ip", "cni_ports"],
        vec!["nft", "flush", "chain", "ip", "cni_ports", chain],
        vec!["nft", "flush", "chain", "inet", "cni_masquerade", "subnet-10.77.0.0/24"],
    ]) {
        story.node.sh(&emptied);
        story.chain.check(sb, &old.at).error().names(&["10.77.0.0/24"]);
        let new = story.attach(&format!("new{n}"), &[(PORT + n, 80, "tcp")]);
        for container in [&new, &old] {
            story.chain.check(sb, &container.at).silent();
        }
        let answer = ask(&story.node, Proto::Tcp, at("127.0.0.1", 9000)).unwrap();
        assert_eq!(answer, format!("old {}", conf::V4_GATEWAY), "after {emptied:?}");
    }
    // For another subnet's containers, too.
    story.node.sh(&["nft", "flush", "table", "ip", "cni_ports"]);
    let second = second(&story);
    let ns = sb.container("elsewhere");
    let mut elsewhere = Attachment::new("elsewhere", &ns).publish(&[(7000, 80, "tcp")]);
    second.add(sb, &mut elsewhere);
    portmap(&story, "CHECK", &old.at).silent();
}

/// Another network with portmap.
fn second(story: &Story<'_>) -> Chain {
    let bridge = json!({"type": "bridge", "bridge": "br-second", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}]]}});
    Chain::new("second", story.chain.version(), &[bridge, conf::portmap(NFT)])
}

/// A container on two networks whose ports are the same, and the first network's ADD again with another port.
fn withdrawn(sb: &Sandbox) {
    let story = start(sb, NFT);
    let ports = [(PORT, 80, "tcp"), (PORT, 80, "udp")];
    let web = story.attach("web", &ports);
    let second = second(&story);
    let mut also = Attachment::new("web", &web.ns).on("eth1").publish(&ports);
    second.add(sb, &mut also);
    let moved = web.at.clone().publish(&[(9090, 80, "tcp")]);
    portmap(&story, "ADD", &moved).result();
    second.check(sb, &also).silent();
    portmap(&story, "CHECK", &moved).silent();
    let asked = |port| ask(&story.node, Proto::Tcp, at("127.0.0.1", port)).unwrap();
    assert_eq!(asked(9090), format!("web {}", conf::V4_GATEWAY));
    assert_eq!(asked(PORT), "web 10.79.0.1", "through the other network's bridge");
    second.del(sb, &also);
    story.chain.del(sb, &moved);
    let left = rules::naming(&story.node, "web");
    assert!(left.is_empty(), "{left:?}");
}

/// A client that never pauses keeps its connection's entry alive.
fn flow(sb: &Sandbox) {
    let story = start(sb, NFT);
    let web = story.attach("web", &[(PORT, 80, "udp")]);
    let client = story.outside.ns.run(|| UdpSocket::bind((Outside::V4, 5555))).unwrap();
    client.connect((Outside::NODE_V4, PORT)).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let answers = || {
        let mut buffer = [0; 64];
        (0..5).any(|_| client.send(b"?").is_ok() && client.recv(&mut buffer).is_ok())
    };
    assert!(answers(), "it is served");
    let moved = web.at.clone().publish(&[(PORT + 1, 80, "udp")]);
    portmap(&story, "ADD", &moved).result();
    assert!(!answers(), "no container has the port now");
    story.chain.del(sb, &moved);
}

/// A runtime sends DEL while its ADD still runs. A later DEL removes all that either has left.
fn at_the_same_time(sb: &Sandbox) {
    let story = start(sb, NFT);
    let containers: Vec<Container> =
        (0..12_u16).map(|n| story.attach_bare(&format!("c{n}"), &[(8000 + n, 80, "tcp")])).collect();
    for round in 0..3 {
        at_once(containers.len() * 2, |n| {
            let at = &containers[n / 2].at;
            let port = 9000 + 100 * (round % 2) + u16::try_from(n).unwrap();
            if n % 2 == 0 {
                portmap(&story, "ADD", &at.clone().publish(&[(port, 80, "tcp")])).result();
            } else {
                let forgotten = Attachment { result: None, capabilities: serde_json::Map::new(), ..at.clone() };
                portmap(&story, "DEL", if n % 4 == 1 { at } else { &forgotten }).silent();
            }
        });
        for container in &containers {
            let forgotten = Attachment { result: None, capabilities: serde_json::Map::new(), ..container.at.clone() };
            portmap(&story, "DEL", &forgotten).silent();
        }
        let left: Vec<_> =
            rules::all(&story.node).into_iter().filter(|l| l.contains("cni_ports") && l.contains("id: c")).collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
        for container in &containers {
            portmap(&story, "ADD", &container.at).result();
        }
    }
}

fn dormant(sb: &Sandbox) {
    let story = start(sb, NFT);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    for table in ["ip cni_ports", "ip6 cni_ports", "ip cni_localnet", "inet cni_masquerade"] {
        story.node.sh(&["nft", &format!("add table {table} {{ flags dormant; }}")]);
        story.chain.check(sb, &web.at).error().names(&[table, "dormant"]);
        story.node.sh(&["nft", &format!("add table {table}")]);
        story.chain.check(sb, &web.at).silent();
    }
    // The next ADD wakes them.
    for (n, table) in (1..).zip(["ip cni_ports", "ip6 cni_ports", "ip cni_localnet", "inet cni_masquerade"]) {
        story.node.sh(&["nft", &format!("add table {table} {{ flags dormant; }}")]);
        let next = story.attach(&format!("c{n}"), &[(PORT + n, 80, "tcp")]);
        story.chain.check(sb, &web.at).silent();
        story.chain.check(sb, &next.at).silent();
    }
}

/// An empty list would match nothing, or everything.
fn no_values(sb: &Sandbox) {
    let story = start(sb, NFT);
    let bare = Chain::new("story", story.chain.version(), &[conf::masquerading(NFT)]);
    let ns = sb.container("web");
    let mut web = Attachment::new("web", &ns).publish(&[(PORT, 80, "tcp")]);
    bare.add(sb, &mut web);
    for condition in ["ip saddr { }", "ip saddr != {}"] {
        let mut portmap = conf::portmap(NFT);
        portmap["conditionsV4"] = json!([condition]);
        let refused = story.chain.call(sb, "ADD", &portmap, &web, web.result.as_ref()).run().error();
        refused.names(&["{ }", "no value"]);
    }
    assert!(!rules::all(&story.node).iter().any(|line| line.contains("cni_ports")), "nothing is touched");
}

/// What ADD says on stderr.
fn warning(story: &Story<'_>, id: &str, mappings: Value) -> String {
    let ns = story.sb.container(id);
    let bare = Chain::new("story", story.chain.version(), &[conf::masquerading(NFT)]);
    let mut at = Attachment::new(id, &ns).with("portMappings", mappings);
    bare.add(story.sb, &mut at);
    let added = portmap(story, "ADD", &at);
    added.result();
    added.stderr.clone()
}

fn connection(sb: &Sandbox) {
    let story = start(sb, NFT);
    let listener = story.node.run(|| TcpListener::bind(("127.0.0.1", 7777))).unwrap();
    let outgoing = story.node.run(|| TcpStream::connect(("127.0.0.1", 7777))).unwrap();
    let datagrams = story.node.run(|| UdpSocket::bind(("127.0.0.1", 6666))).unwrap();
    datagrams.connect(("127.0.0.1", 9)).unwrap();
    let port = outgoing.local_addr().unwrap().port();
    let said = warning(
        &story,
        "near",
        json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 6666, "containerPort": 80, "protocol": "udp"}]),
    );
    assert_eq!(said, "", "the near end of a connection");
    drop((listener, outgoing));
    let _bound = story.node.run(|| UdpSocket::bind(("0.0.0.0", 6667))).unwrap();
    let said = warning(&story, "bound", json!([{"hostPort": 6667, "containerPort": 80, "protocol": "udp"}]));
    assert!(said.contains("6667/udp"), "a warning: {said}");
}

fn long_range(sb: &Sandbox) {
    let story = start(sb, NFT);
    let _tcp = story.node.run(|| TcpListener::bind(("0.0.0.0", 10_700))).unwrap();
    let _six = story.node.run(|| TcpListener::bind(("::1", 10_800))).unwrap();
    let range = json!([{"hostPort": 10_000, "containerPort": 80, "protocol": "tcp", "range": 1000}]);
    let said = warning(&story, "many", range);
    assert!(said.contains("10700/tcp, 10800/tcp:"), "a warning: {said}");
}
