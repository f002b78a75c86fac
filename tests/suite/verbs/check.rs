//! CHECK: silent about an untouched attachment; of a broken one it says which thing is missing.

use cni_tests::conf::Backend;
use cni_tests::host_local;
use cni_tests::{Chain, Netns, Sandbox, conf, rules};
use serde_json::json;

use crate::case::{Basis, Case, common, improved};
use cni_tests::story::Story;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("each_difference_is_said_once", said_once),
        improved("l2_bridge", l2),
        common("host_local_without_reservation", reservation),
        common("bridge_needs_prev_result", needs_result),
    ];
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let name = |what: &str| format!("{}::{what}", backend.name());
        cases.push(common(name("untouched"), move |sb| untouched(sb, backend)).based_on(basis));
        for damage in &DAMAGES {
            let case = common(name(damage.0), move |sb| noticed(sb, backend, damage));
            cases.push(case.based_on(if damage.1 { basis } else { Basis::Improved }));
        }
        cases.push(improved(name("port_rule_deleted"), move |sb| rule_deleted(sb, backend, "8080")));
        cases.push(improved(name("masquerade_rule_deleted"), move |sb| rule_deleted(sb, backend, "10.77.0.2")));
    }
    cases
}

#[derive(Clone, Copy)]
enum Place {
    Container,
    Node,
}
use Place::{Container as Inside, Node as Outside};

/// One thing that breaks: its name, whether the Go plugins notice it too, where it is done, the command
/// (`LINK` stands for the link at the node's end), and what CHECK has to name.
type Damage = (&'static str, bool, Place, &'static str, &'static [&'static str]);

const DAMAGES: [Damage; 13] = [
    ("address_deleted", true, Inside, "ip addr del 10.77.0.2/24 dev eth0", &["10.77.0.2"]),
    ("ipv6_address_deleted", true, Inside, "ip addr del fd00:77::2/64 dev eth0", &["fd00:77::2"]),
    ("default_route_deleted", true, Inside, "ip route del default", &["oute", "10.77.0.1"]),
    ("ipv6_default_route_deleted", true, Inside, "ip -6 route del default", &["oute", "fd00:77::1"]),
    ("link_deleted", true, Inside, "ip link del eth0", &["eth0"]),
    ("mac_changed", true, Inside, "ip link set eth0 address 0a:00:00:00:00:77", &[]),
    ("port_taken_off_the_bridge", true, Outside, "ip link set LINK nomaster", &[]),
    ("mtu_changed", false, Inside, "ip link set eth0 mtu 1400", &["mtu", "1450", "1400"]),
    ("link_set_down", false, Inside, "ip link set eth0 down", &["eth0"]),
    ("gateway_address_deleted", false, Outside, "ip addr del 10.77.0.1/24 dev br-test", &["10.77.0.1"]),
    ("forwarding_off", false, Outside, "sysctl -qw net.ipv4.ip_forward=0", &["ip_forward"]),
    ("ipv6_forwarding_off", false, Outside, "sysctl -qw net.ipv6.conf.all.forwarding=0", &["forwarding"]),
    ("hairpin_off", false, Outside, "bridge link set dev LINK hairpin off", &["hairpin"]),
];

fn untouched(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let with_ports = story.attach("c1", &[(8080, 80, "tcp"), (5353, 53, "udp")]);
    let without = story.attach("c2", &[]);
    for container in [&with_ports, &without, &with_ports] {
        story.chain.check(sb, &container.at).silent();
    }
}

fn noticed(sb: &Sandbox, backend: Backend, damage: &Damage) {
    let story = Story::with(sb, backend, |bridge, _| bridge["mtu"] = 1450.into());
    let container = story.attach("c1", &[]);
    story.chain.check(sb, &container.at).silent();
    let (_, _, place, deed, named) = damage;
    let deed = deed.replace("LINK", &container.host_link());
    let place = if matches!(place, Inside) { &container.ns } else { &story.node };
    place.sh(&deed.split(' ').collect::<Vec<_>>());
    story.chain.check(sb, &container.at).error().names(named);
}

/// Any one rule or element of a port or an address, depending on the backend.
fn rule_deleted(sb: &Sandbox, backend: Backend, about: &str) {
    let story = Story::start(sb, backend);
    let container = story.attach("c1", &[(8080, 80, "tcp")]);
    story.chain.check(sb, &container.at).silent();
    let gone = rules::delete_one(&story.node, about);
    let error = story.chain.check(sb, &container.at).error();
    assert!(error.text().contains(about), "after deleting {gone}: {error:?}");
}

/// Runtimes print both, one after the other.
fn said_once(sb: &Sandbox) {
    let ns: Netns = sb.container("c1");
    let chain = Chain::new("testnet", sb.newest(&["bridge", "host-local"]), &[conf::bridge()]);
    let mut at = cni_tests::Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    let difference = |part: &str| part.contains(": expected ");
    ns.sh(&["ip", "addr", "del", &format!("{}/24", at.ip(false)), "dev", "eth0"]);
    let several = chain.check(sb, &at).error();
    let others: Vec<&str> = several.details.split("; ").filter(|part| difference(part)).collect();
    assert!(!others.is_empty() && others.iter().all(|other| !several.msg.contains(other)), "{several:?}");
    ns.sh(&["ip", "addr", "add", &format!("{}/24", at.ip(false)), "dev", "eth0"]);
    ns.sh(&["ip", "route", "replace", "default", "via", conf::V4_GATEWAY]);
    chain.check(sb, &at).silent();
    ns.sh(&["ip", "-6", "route", "del", "default"]);
    let single = chain.check(sb, &at).error();
    assert!(difference(&single.msg) && single.details.is_empty(), "{single:?}");
}

fn l2(sb: &Sandbox) {
    let ns: Netns = sb.container("c1");
    let chain = Chain::new("testnet", sb.newest(&["bridge"]), &[json!({"type": "bridge", "bridge": "br-test"})]);
    let mut at = cni_tests::Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    chain.check(sb, &at).silent();
    ns.sh(&["ip", "link", "set", "eth0", "down"]);
    chain.check(sb, &at).error().names(&["eth0"]);
}

fn reservation(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/24"]);
    host_local::added(sb, "c1", &conf);
    host_local::call(sb, "CHECK", "c1", &conf).run().silent();
    host_local::call(sb, "CHECK", "c1", &conf).names("c1", "eth1").run().error().names(&["c1"]);
    host_local::call(sb, "CHECK", "c2", &conf).run().error().names(&["c2"]);
}

fn needs_result(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Iptables);
    let mut container = story.attach("c1", &[]);
    container.at.result = None;
    story.chain.check(sb, &container.at).error().names(&["prevResult"]);
}
