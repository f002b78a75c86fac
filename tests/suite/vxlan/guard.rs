//! vxlan: who may send packets to the port. VXLAN authenticates nobody.

use std::net::UdpSocket;

use cni_tests::packets::ping;
use cni_tests::{Netns, Sandbox, capture};
use serde_json::json;

use super::{Host, host, hosts, list};
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("drops_a_strangers_packets_over_ipv4", |sb| stranger(sb, false)),
        improved("drops_a_strangers_packets_over_ipv6", |sb| stranger(sb, true)),
        improved("leaves_other_ports_alone", other_ports),
        improved("flushed_set_is_named_and_filled_again", flushed),
        improved("deleted_table_is_named_and_made_again", deleted),
        improved("ruleset_can_be_saved_and_loaded", saved),
        improved("goes_with_the_last_device", goes),
    ]
}

/// A frame from 02:…:66 to everyone, as the payload of a VXLAN packet with this number (RFC 7348, section 5).
fn packet(vni: u8) -> Vec<u8> {
    let header = [8, 0, 0, 0, 0, 0, vni, 0];
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 0x66], &[0x88, 0xb5], &[0; 46]].concat();
    [&header[..], &frame].concat()
}

fn send(from: &Netns, to: &str) {
    from.run(|| {
        let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        for _ in 0..3 {
            socket.send_to(&packet(42), (to, 4789)).unwrap();
        }
    });
}

/// True if the frame gets into the container `c1` of the first host.
fn gets_in(container: &Netns, from: &Host, to: &str) -> bool {
    let listener = capture::listen(container, "eth0", "ether src 02:00:00:00:00:66 or ether src 02:00:00:00:00:67");
    send(&from.ns, to);
    // Something that passes for certain, and after it.
    container.sh(&["sh", "-c", "true"]);
    capture::heard(listener, &[&["02:00:00:00:00:66"]]).contains("02:00:00:00:00:66")
}

fn stranger(sb: &Sandbox, v6: bool) {
    let hosts = hosts(sb, 2);
    list(&hosts, v6);
    let chain = hosts[0].chain(sb, &json!({}));
    let container = hosts[0].attach(sb, &chain, "c1");
    let stranger = host(sb, &Netns::existing("switch"), 9, 9);
    let to = hosts[0].underlay(v6);
    assert!(gets_in(&container.ns, &hosts[1], &to), "a peer's frame");
    assert!(!gets_in(&container.ns, &stranger, &to), "a stranger's frame");
    // It is the guard that keeps it out.
    hosts[0].ns.sh(&["nft", "delete", "table", "inet", "cni_vxlan"]);
    assert!(gets_in(&container.ns, &stranger, &to), "a stranger's frame without the guard");
}

fn other_ports(sb: &Sandbox) {
    let hosts = hosts(sb, 1);
    hosts[0].attach(sb, &hosts[0].chain(sb, &json!({})), "c1");
    let stranger = host(sb, &Netns::existing("switch"), 9, 9);
    let _server = cni_tests::packets::Server::start(&hosts[0].ns, "other", 4790);
    for proto in [cni_tests::packets::Proto::Udp, cni_tests::packets::Proto::Tcp] {
        for to in ["192.0.2.1", "2001:db8::1"] {
            assert!(cni_tests::packets::ask(&stranger.ns, proto, cni_tests::packets::at(to, 4790)).is_ok());
        }
    }
    // TCP with the number of the guarded port is another program's.
    let _server = cni_tests::packets::Server::start(&hosts[0].ns, "tcp", 14789);
    assert!(ping(&stranger.ns, "192.0.2.1"));
}

fn flushed(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let (host, chain) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let container = host.attach(sb, &chain, "c1");
    host.ns.sh(&["nft", "flush", "set", "inet", "cni_vxlan", "peers4"]);
    host.check_names(sb, &chain, &container, &["peer 192.0.2.2 of UDP port 4789"]);
    host.attach(sb, &chain, "c2");
    host.check(sb, &chain, &container);
    host.ns.sh(&["nft", "flush", "set", "inet", "cni_vxlan", "ports"]);
    host.check_names(sb, &chain, &container, &["guard of UDP port 4789"]);
    // A peer that nobody wants goes with the next change.
    host.ns.sh(&["nft", "add", "element", "inet", "cni_vxlan", "peers4", "{ 4789 . 192.0.2.77 }"]);
    host.attach(sb, &chain, "c3");
    host.check(sb, &chain, &container);
    assert_eq!(host.guarded("peers4"), ["4789 . 192.0.2.2"]);
}

fn deleted(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let (host, chain) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let container = host.attach(sb, &chain, "c1");
    host.ns.sh(&["nft", "flush", "chain", "inet", "cni_vxlan", "peers"]);
    host.check_names(sb, &chain, &container, &["cni_vxlan peers", "drop"]);
    host.ns.sh(&["nft", "flush", "ruleset"]);
    host.check_names(sb, &chain, &container, &["cni_vxlan"]);
    host.attach(sb, &chain, "c2");
    host.check(sb, &chain, &container);
}

fn saved(sb: &Sandbox) {
    let hosts = hosts(sb, 3);
    let (host, chain) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let container = host.attach(sb, &chain, "c1");
    host.ns.sh(&[
        "sh",
        "-c",
        "nft list table inet cni_vxlan > /run/saved && nft delete table inet cni_vxlan && nft -f /run/saved",
    ]);
    host.check(sb, &chain, &container);
    assert_eq!(host.guarded("peers4").len(), 2);
}

fn goes(sb: &Sandbox) {
    let hosts = hosts(sb, 2);
    let (host, chain) = (&hosts[0], hosts[0].chain(sb, &json!({})));
    let containers = ["c1", "c2"].map(|id| host.attach(sb, &chain, id));
    host.del(sb, &chain, &containers[0]);
    assert_eq!((host.guarded("ports").len(), host.guarded("peers4").len()), (1, 1));
    host.del(sb, &chain, &containers[1]);
    assert_eq!((host.guarded("ports").len(), host.guarded("peers4").len()), (0, 0));
}
