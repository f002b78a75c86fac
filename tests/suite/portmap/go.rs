//! portmap: ports that the Go plugin (1.6 and later) published by nftables are removed by DEL of the container, and by GC if their
//! container no longer exists.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use cni_tests::conf::{self, Backend};
use cni_tests::go_rules;
use cni_tests::kernel::{self, set_sysctl};
use cni_tests::{Attachment, Chain, Sandbox, rules};

use super::{PORT, start};
use crate::case::{Case, improved};
use cni_tests::story::Story;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("del_removes_what_go_left", del),
        improved("gc_removes_what_go_left_and_leads_nowhere", gc),
        improved("check_accepts_what_go_published_by_nftables", check),
    ]
}

/// How many rules of the Go plugin the container has.
fn left(story: &Story<'_>, id: &str) -> usize {
    let comment = format!("\"comment\":\"{id}\"");
    rules::naming(&story.node, "cni_hostport").iter().filter(|line| line.contains(&comment)).count()
}

fn del(sb: &Sandbox) {
    let story = start(sb, Backend::Nftables);
    let web = story.attach("web", &[(PORT, 80, "tcp")]);
    go_rules::publish(&story.node, "web", 9000, &web.ip(false), &web.ip(true));
    go_rules::publish(&story.node, "web2", 9001, "10.77.0.1", "fd00:77::1");
    assert_eq!((left(&story, "web"), left(&story, "web2")), (8, 8));
    story.chain.del(sb, &web.at);
    assert_eq!((left(&story, "web"), left(&story, "web2")), (0, 8), "another container's stay");
}

/// A node whose plugins were replaced under running containers.
fn check(sb: &Sandbox) {
    let story = start(sb, Backend::Nftables);
    let portmap = conf::portmap(Backend::Nftables);
    let mut web = story.attach("web", &[]).at.publish(&[(9000, 80, "tcp"), (9000, 53, "udp")]);
    let check = |web: &Attachment| story.chain.call(sb, "CHECK", &portmap, web, web.result.as_ref()).run();
    check(&web).error().names(&["9000"]);
    set_sysctl(&story.node, "ipv4/conf/all/route_localnet", "1");
    for link in kernel::link_names(&story.node) {
        set_sysctl(&story.node, &format!("ipv4/conf/{link}/route_localnet"), "1");
    }
    go_rules::publish(&story.node, "web", 9000, &web.ip(false), &web.ip(true));
    // Its UDP port is on one address of each family.
    let ports = ["127.0.0.1", "::1"].map(|ip| {
        serde_json::json!({
            "hostPort": 9000, "containerPort": 53, "protocol": "udp", "hostIP": ip
        })
    });
    let tcp = serde_json::json!({"hostPort": 9000, "containerPort": 80, "protocol": "tcp"});
    web = web.with("portMappings", [&[tcp][..], &ports[..]].concat().into());
    check(&web).silent();
    story.node.sh(&["nft", "flush", "chain", "ip6", "cni_hostport", "prerouting"]);
    check(&web).error();
}

/// A process in a namespace that no link of the node leads into.
struct Recluse(Child);

impl Recluse {
    fn start(sb: &Sandbox, name: &str, address: &str) -> Self {
        let ns = sb.container(name);
        ns.sh(&["ip", "addr", "add", address, "dev", "lo"]);
        let child = ns.run(|| Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap());
        ns.delete();
        Self(child)
    }
}

impl Drop for Recluse {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Which network a rule of the Go plugin is for is not written on it: what is alive anywhere stays.
fn gc(sb: &Sandbox) {
    let mut story = start(sb, Backend::Nftables);
    sb.needs("portmap", "1.1.0");
    let mut bridge = conf::masquerading(Backend::Nftables);
    bridge["bridge"] = "br-other".into();
    bridge["ipam"] = serde_json::json!({"type": "static", "addresses": [
        {"address": "10.77.0.2/24"}, {"address": "fd00:77::2/64"}
    ]});
    let other = Chain::new("other", story.chain.version(), &[bridge]);

    // Its address is behind a veth pair. Its namespace has no name any more, and no process.
    let own = std::mem::replace(&mut story.chain, other);
    let alive = story.attach_bare("alive", &[]);
    story.chain = own;
    let held = File::open(alive.ns.path()).unwrap();
    alive.ns.delete();
    go_rules::publish(&story.node, "alive", 9001, "10.77.0.2", "fd00:77::2");
    let recluse = Recluse::start(sb, "recluse", "10.77.0.3/32");
    go_rules::publish(&story.node, "recluse", 9002, "10.77.0.3", "fd00:77::3");
    go_rules::publish(&story.node, "dead", 9003, "10.77.0.4", "fd00:77::4");
    go_rules::publish(&story.node, "listed", 9004, "10.77.0.5", "fd00:77::5");
    let foreign = "table ip cni_hostport { chain hostports { counter comment \"no-address\"; }; }";
    story.node.sh(&["nft", foreign]);

    story.chain.gc(sb, &[("listed", "eth0")]).silent();
    assert_eq!(left(&story, "alive"), 8, "another network's container");
    assert_eq!(left(&story, "recluse"), 4, "its IPv4 address is there, its IPv6 address is not");
    assert_eq!(left(&story, "dead"), 0);
    assert_eq!(left(&story, "listed"), 8, "the runtime knows it");
    assert_eq!(left(&story, "no-address"), 1);

    drop((recluse, held));
    alive.wait_for_its_link_to_go();
    story.chain.gc(sb, &[]).silent();
    assert_eq!(["alive", "recluse", "listed"].map(|id| left(&story, id)), [0; 3]);
}
