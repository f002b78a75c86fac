//! vxlan: the MTU that fits, by packets of exact size.

use cni_tests::kernel::link;
use cni_tests::{Sandbox, capture};
use serde_json::{Value, json};

use super::{Container, Host, hosts, list};
use crate::case::{Case, improved};

/// Bytes of an IPv4 or IPv6 header with that of an ICMP echo request.
const HEADERS: [usize; 2] = [28, 48];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("over_ipv4", |sb| fits(sb, false, 1500, &json!({}), 1450)),
        improved("over_ipv6", |sb| fits(sb, true, 1500, &json!({}), 1430)),
        improved("configured", |sb| fits(sb, false, 1500, &json!({"mtu": 1400}), 1400)),
        improved("of_jumbo_frames", |sb| fits(sb, false, 9000, &json!({"mtu": 8950}), 8950)),
        improved("is_not_raised_unasked", |sb| fits(sb, false, 9000, &json!({}), 1500)),
        improved("more_than_fits_is_refused", refused),
        improved("too_small_for_ipv6_is_refused", too_small),
        improved("of_a_bridge_whose_own_was_set", of_set_bridge),
        improved("altered_is_named", altered),
    ]
}

fn underlay(hosts: &[Host], mtu: u32) {
    hosts.iter().for_each(|host| drop(host.ns.sh(&["ip", "link", "set", "eth0", "mtu", &mtu.to_string()])));
}

/// A packet of just this size passes in both directions and whole; one byte more is refused where it is sent.
fn fits(sb: &Sandbox, over_v6: bool, below: u32, keys: &Value, mtu: usize) {
    let hosts = hosts(sb, 2);
    list(&hosts, over_v6);
    underlay(&hosts, below);
    let chains: Vec<_> = hosts.iter().map(|host| host.chain(sb, keys)).collect();
    let containers: Vec<_> =
        hosts.iter().zip(&chains).map(|(host, chain)| host.attach(sb, chain, &format!("c{}", host.number))).collect();
    for (host, container) in hosts.iter().zip(&containers) {
        let port = container.at.result.as_ref().unwrap()["interfaces"][1]["name"].as_str().unwrap();
        for (ns, name) in [(&container.ns, "eth0"), (&host.ns, port), (&host.ns, "br-net")] {
            assert_eq!(link(ns, name).unwrap()["mtu"], mtu, "{name}");
        }
        let reported = container.at.result.as_ref().unwrap()["interfaces"].as_array().unwrap();
        let of = |interface: &Value| interface["mtu"].as_u64();
        let expected = (sb.newest(&super::PLUGINS) >= "1.1.0").then_some(mtu as u64);
        assert!(reported.iter().take(3).all(|interface| of(interface) == expected), "{reported:?}");
    }
    let fragments = capture::listen(&hosts[1].ns, "eth0", "(ip[6:2] & 0x3fff != 0) or (ip6[6] == 44)");
    for (from, to) in [(&containers[0], &containers[1]), (&containers[1], &containers[0])] {
        for (v6, headers) in [(false, HEADERS[0]), (true, HEADERS[1])] {
            assert!(exact(from, &to.at.ip(v6), mtu - headers), "{mtu} bytes");
            assert!(!exact(from, &to.at.ip(v6), mtu - headers + 1), "{} bytes", mtu + 1);
        }
    }
    let seen = capture::heard(fragments, &[]);
    assert_eq!(seen, "", "nothing was cut on the way");
    hosts.iter().zip(&chains).zip(&containers).for_each(|((host, chain), container)| host.check(sb, chain, container));
}

/// An echo request with so many bytes of data, whole, is answered.
fn exact(from: &Container, to: &str, data: usize) -> bool {
    let size = data.to_string();
    from.ns.holds(&["ping", "-n", "-q", "-M", "do", "-s", &size, "-c", "1", "-w", "4", to])
}

fn refused(sb: &Sandbox) {
    let hosts = hosts(sb, 1);
    let outcome = hosts[0].try_attach(sb, &hosts[0].chain(sb, &json!({"mtu": 1451})), "c1").err().unwrap();
    outcome.error().names(&["mtu: 1451", "68 to 1450", "eth0 (1500)", "50 bytes"]);
    assert!(!hosts[0].has_device("vxlan42"));
}

fn too_small(sb: &Sandbox) {
    let hosts = hosts(sb, 1);
    underlay(&hosts, 1329);
    let outcome = hosts[0].try_attach(sb, &hosts[0].chain(sb, &json!({})), "c1").err().unwrap();
    outcome.error().names(&["1279", "1280", "fd00:1::1:2", "eth0"]);
    assert!(!hosts[0].has_device("vxlan42"));
    underlay(&hosts, 1330);
    hosts[0].attach(sb, &hosts[0].chain(sb, &json!({})), "c2");
}

/// Such a bridge does not follow its ports, and would send the container packets that its port drops.
fn of_set_bridge(sb: &Sandbox) {
    let hosts = hosts(sb, 1);
    for words in [&["add", "br-net", "type", "bridge"][..], &["set", "br-net", "mtu", "1500"]] {
        hosts[0].ns.sh(&[&["ip", "link"], words].concat());
    }
    let chain = hosts[0].chain(sb, &json!({}));
    let container = hosts[0].attach(sb, &chain, "c1");
    assert_eq!(link(&hosts[0].ns, "br-net").unwrap()["mtu"], 1450);
    hosts[0].check(sb, &chain, &container);
}

fn altered(sb: &Sandbox) {
    let hosts = hosts(sb, 1);
    let (host, chain) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let container = host.attach(sb, &chain, "c1");
    container.ns.sh(&["ip", "link", "set", "eth0", "mtu", "1500"]);
    host.call(sb, "CHECK", &chain, &container.at).error().names(&["mtu of eth0", "1450", "1500"]);
    container.ns.sh(&["ip", "link", "set", "eth0", "mtu", "1450"]);
    host.ns.sh(&["ip", "link", "set", "vxlan42", "mtu", "1400"]);
    host.call(sb, "CHECK", &chain, &container.at).error().names(&["mtu of vxlan42", "1450", "1400"]);
    // The next ADD makes it so again.
    host.attach(sb, &chain, "c2");
    host.call(sb, "CHECK", &chain, &container.at).silent();
}
