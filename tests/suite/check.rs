//! CHECK: silent about an untouched attachment; of a broken one it says which thing is missing.

use cni_tests::conf::Backend;
use cni_tests::{Chain, Netns, Sandbox, conf, kernel, rules};
use serde_json::json;

use crate::case::{Basis, Case, common, improved};
use crate::story::{Container, Story};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("check::l2_bridge", l2),
        common("check::host_local_without_reservation", reservation),
        common("check::bridge_needs_prev_result", needs_result),
    ];
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let name = |what: &str| format!("check::{}_{what}", backend.name());
        cases.push(common(name("untouched"), move |sb| untouched(sb, backend)).based_on(basis));
        for damage in &DAMAGES {
            let case = common(name(damage.what), move |sb| noticed(sb, backend, damage));
            cases.push(case.based_on(if damage.go { basis.max(Basis::Common) } else { Basis::Improved }));
        }
        cases.push(improved(name("port_rule_deleted"), move |sb| rule_deleted(sb, backend, "8080")));
        cases.push(improved(name("masquerade_rule_deleted"), move |sb| rule_deleted(sb, backend, "10.77.0.2")));
    }
    cases
}

/// One thing that somebody breaks.
struct Damage {
    what: &'static str,
    /// Whether the Go plugins notice it too.
    go: bool,
    deed: fn(&Story, &Container),
    /// What CHECK has to name.
    named: &'static [&'static str],
}

const DAMAGES: [Damage; 13] = [
    damage("address_deleted", true, &["10.77.0.2"], |_, c| drop(c.ns.sh(&ip("addr del 10.77.0.2/24 dev eth0")))),
    damage("ipv6_address_deleted", true, &["fd00:77::2"], |_, c| drop(c.ns.sh(&ip("addr del fd00:77::2/64 dev eth0")))),
    damage("default_route_deleted", true, &["oute", "10.77.0.1"], |_, c| drop(c.ns.sh(&ip("route del default")))),
    damage("ipv6_default_route_deleted", true, &["oute", "fd00:77::1"], |_, c| {
        drop(c.ns.sh(&ip("-6 route del default")))
    }),
    damage("link_deleted", true, &["eth0"], |_, c| drop(c.ns.sh(&ip("link del eth0")))),
    damage("mac_changed", true, &[], |_, c| drop(c.ns.sh(&ip("link set eth0 address 0a:00:00:00:00:77")))),
    damage("port_taken_off_the_bridge", true, &[], |s, c| {
        drop(s.node.sh(&["ip", "link", "set", &c.host_link(), "nomaster"]))
    }),
    damage("mtu_changed", false, &["mtu"], |_, c| drop(c.ns.sh(&ip("link set eth0 mtu 1400")))),
    damage("link_set_down", false, &["eth0"], |_, c| drop(c.ns.sh(&ip("link set eth0 down")))),
    damage("gateway_address_deleted", false, &["10.77.0.1"], |s, _| {
        drop(s.node.sh(&ip("addr del 10.77.0.1/24 dev br-test")))
    }),
    damage("forwarding_off", false, &["ip_forward"], |s, _| kernel::set_sysctl(&s.node, "ipv4/ip_forward", "0")),
    damage("ipv6_forwarding_off", false, &["forwarding"], |s, _| {
        kernel::set_sysctl(&s.node, "ipv6/conf/all/forwarding", "0")
    }),
    damage("hairpin_off", false, &["hairpin"], |s, c| {
        s.node.sh(&["bridge", "link", "set", "dev", &c.host_link(), "hairpin", "off"]);
    }),
];

const fn damage(what: &'static str, go: bool, named: &'static [&'static str], deed: fn(&Story, &Container)) -> Damage {
    Damage { what, go, deed, named }
}

fn ip(words: &str) -> Vec<&str> {
    ["ip"].into_iter().chain(words.split(' ')).collect()
}

fn untouched(sb: &Sandbox, backend: Backend) {
    let story = Story::start(sb, backend);
    let with_ports = story.attach("c1", &[(8080, 80, "tcp"), (5353, 53, "udp")]);
    let without = story.attach("c2", &[]);
    for container in [&with_ports, &without, &with_ports] {
        story.chain.check(sb, &container.at).silent();
    }
}

fn noticed(sb: &Sandbox, backend: Backend, damage: &Damage) {
    let story = Story::start(sb, backend);
    let container = story.attach("c1", &[]);
    story.chain.check(sb, &container.at).silent();
    (damage.deed)(&story, &container);
    story.chain.check(sb, &container.at).error().names(damage.named);
}

/// Any one rule or element about a port or an address: whatever it is that the backend keeps.
fn rule_deleted(sb: &Sandbox, backend: Backend, about: &str) {
    let story = Story::start(sb, backend);
    let container = story.attach("c1", &[(8080, 80, "tcp")]);
    story.chain.check(sb, &container.at).silent();
    let gone = rules::delete_one(&story.node, about);
    let error = story.chain.check(sb, &container.at).error();
    assert!(error.text().contains(about), "after deleting {gone}: {error:?}");
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
    crate::host_local::added(sb, "c1", &conf);
    crate::host_local::call(sb, "CHECK", "c1", &conf).run().silent();
    crate::host_local::call(sb, "CHECK", "c1", &conf).names("c1", "eth1").run().error().names(&["c1"]);
    crate::host_local::call(sb, "CHECK", "c2", &conf).run().error().names(&["c2"]);
}

fn needs_result(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Iptables);
    let mut container = story.attach("c1", &[]);
    container.at.result = None;
    story.chain.check(sb, &container.at).error().names(&["prevResult"]);
}
