//! bridge: what is seen on the wire: announcements of a new container's addresses, and what router advertisements do not do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cni_tests::capture::{heard, listen};
use cni_tests::kernel::{addresses, routes, sysctl};
use cni_tests::packets::ping;
use cni_tests::router;
use cni_tests::{Attachment, Chain, Sandbox};
use serde_json::Value;

use super::alone;
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("announces_its_addresses", announced),
        improved("announces_its_addresses_after_a_slow_ipam", announced_late),
        improved("a_new_gateway_answers_at_once", new_gateway),
        improved("reused_address_works_at_once", reused),
        improved("router_advertisements_during_add_change_nothing", flood),
        improved("accept_ra_is_off_on_both_sides", accept_ra),
        improved("enabledad_detects_a_duplicate", duplicate),
        common("enabledad_waits", dad),
    ]
}

/// Attaches `c1` beside a neighbour, which must hear a gratuitous ARP and an unsolicited neighbour advertisement.
fn announced_by(sb: &Sandbox, chain: &Chain) {
    let neighbour = sb.container("n");
    chain.add(sb, &mut Attachment::new("n", &neighbour));
    let ears = listen(&neighbour, "eth0", "arp or (icmp6 and ip6[40] == 136)");
    let mut at = Attachment::new("c1", &sb.container("c1"));
    let result = chain.add(sb, &mut at);
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    let (v4, v6) = (at.ip(false), at.ip(true));
    let arp = [mac, "ff:ff:ff:ff:ff:ff", "ARP", &v4];
    let advertisement = [mac, "advertisement", &v6];
    let text = heard(ears, &[&arp, &advertisement]);
    for words in [&arp[..], &advertisement] {
        let said = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(said, "no packet with {words:?} arrived: {text}");
    }
}

fn announced(sb: &Sandbox) {
    announced_by(sb, &alone(sb, |_| ()));
}

/// The kernel looks at new links' carriers once a second: by then the new port has been found without one, and drops
/// what the container sends as its end goes up.
fn announced_late(sb: &Sandbox) {
    announced_by(sb, &slow(sb));
}

fn slow(sb: &Sandbox) -> Chain {
    let host_local = sb.dir().join("host-local").display().to_string();
    sb.fake("slow", &format!("[ $CNI_COMMAND != ADD ] || sleep 1.5; exec {host_local}"));
    alone(sb, |conf| conf["ipam"]["type"] = "slow".into())
}

/// The first packet after the first ADD, both ways: the kernel notices a new bridge's carrier late.
fn new_gateway(sb: &Sandbox) {
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    slow(sb).add(sb, &mut at);
    let local = sb.node().sh(&["ip", "-6", "route", "show", "table", "local"]);
    assert!(local.contains("local fd00:77::1 "), "{local}");
    let first = ["ping", "-n", "-q", "-c", "1", "-W", "1"];
    assert!(ns.holds(&[&first[..], &["fd00:77::1"]].concat()), "from the container");
    assert!(sb.node().holds(&[&first[..], &[&at.ip(true)]].concat()), "from the node");
}

/// A neighbour that knows an address's old owner reaches the new one with its next packet.
fn reused(sb: &Sandbox) {
    let one_address = |conf: &mut Value| {
        conf["ipam"]["ranges"] = serde_json::json!([
            [{"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.2", "rangeEnd": "10.77.0.3"}],
            [{"subnet": "fd00:77::/64", "rangeStart": "fd00:77::2", "rangeEnd": "fd00:77::3"}]
        ]);
    };
    let chain = alone(sb, one_address);
    let neighbour = sb.container("n");
    chain.add(sb, &mut Attachment::new("n", &neighbour));
    let mut old = Attachment::new("old", &sb.container("old"));
    chain.add(sb, &mut old);
    let (v4, v6) = (old.ip(false), old.ip(true));
    assert!(ping(&neighbour, &v4) && ping(&neighbour, &v6));
    chain.del(sb, &old);
    let mut new = Attachment::new("new", &sb.container("new"));
    chain.add(sb, &mut new);
    assert_eq!((new.ip(false), new.ip(true)), (v4.clone(), v6.clone()));
    for to in [v4, v6] {
        assert!(neighbour.holds(&["ping", "-n", "-q", "-c", "1", "-W", "1", &to]), "{to} with the first packet");
    }
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn flood(sb: &Sandbox) {
    let (node, chain) = (sb.node(), alone(sb, |_| ()));
    let attacker = sb.container("attacker");
    chain.add(sb, &mut Attachment::new("attacker", &attacker));
    // Raw sockets need a link-local address as the source; nothing else is special about the attacker.
    let node_before = addresses(&node, "br-test");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| router::advertise(&attacker, &stop));
        // The sender ends with the case, however that ends.
        let _ended = Ends(&stop);
        for n in 0..5 {
            let ns = sb.container(&format!("c{n}"));
            let v4_only = n == 4;
            let chain = alone(sb, |conf| {
                if v4_only {
                    conf["ipam"] = serde_json::json!({"type": "host-local", "subnet": "10.77.0.0/24"});
                }
            });
            chain.add(sb, &mut Attachment::new(&ns.name, &ns));
            std::thread::sleep(Duration::from_millis(60));
            let found = addresses(&ns, "eth0");
            assert!(found.iter().all(|address| !address.contains("bad")), "{found:?}");
            let via: Vec<_> = routes(&ns, "-6").iter().filter(|r| r["protocol"] == "ra").cloned().collect();
            assert!(via.is_empty(), "{via:?}");
        }
    });
    assert_eq!(addresses(&node, "br-test"), node_before);
    assert!(routes(&node, "-6").iter().all(|route| route["protocol"] != "ra"));
}

fn accept_ra(sb: &Sandbox) {
    let ns = sb.container("c1");
    let result = alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &ns));
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    for (place, name) in [(&sb.node(), "br-test"), (&sb.node(), port), (&ns, "eth0")] {
        assert_eq!(sysctl(place, &format!("ipv6/conf/{name}/accept_ra")).as_deref(), Some("0"), "{name}");
    }
}

fn with_dad(conf: &mut Value) {
    conf["enabledad"] = true.into();
}

fn dad(sb: &Sandbox) {
    let ns = sb.container("c1");
    alone(sb, with_dad).add(sb, &mut Attachment::new("c1", &ns));
    assert_eq!(sysctl(&ns, "ipv6/conf/eth0/accept_dad").as_deref(), Some("1"));
    let shown = ns.sh(&["ip", "-6", "addr", "show", "dev", "eth0", "scope", "global"]);
    assert!(shown.contains("fd00:77::2") && !shown.contains("tentative"), "{shown}");
}

/// Another host on the bridge has the address that IPAM allocates.
fn duplicate(sb: &Sandbox) {
    let thief = sb.container("thief");
    alone(sb, |_| ()).add(sb, &mut Attachment::new("thief", &thief));
    thief.sh(&["ip", "addr", "add", "fd00:77::3/64", "dev", "eth0", "nodad"]);
    let ns = sb.container("c1");
    let failed = alone(sb, with_dad).try_add(sb, &mut Attachment::new("c1", &ns));
    failed.expect_err("a duplicate").error();
}
