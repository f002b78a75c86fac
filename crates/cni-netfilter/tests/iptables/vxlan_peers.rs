//! Who may send VXLAN packets, by iptables alone, in both variants of the tools.

use std::net::UdpSocket;
use std::time::Duration;

use crate::inside::*;
use cni_netfilter::VxlanPeers;
use cni_netfilter::iptables::Iptables;

fn peers(port: u16, peers: &[&str]) -> VxlanPeers {
    VxlanPeers { port, peers: peers.iter().map(|peer| peer.parse().unwrap()).collect() }
}

/// True if a datagram from `from` to the port of `to` arrives.
fn arrives(from: &str, to: &str, port: u16) -> bool {
    let server = UdpSocket::bind((to, port)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client = UdpSocket::bind((from, 0)).unwrap();
    client.send_to(b"x", (to, port)).unwrap();
    server.recv_from(&mut [0; 8]).is_ok()
}

#[test]
fn only_peers_get_in() {
    in_either_variant("vxlan_peers::only_peers_get_in", || {
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["-6", "addr", "add", "2001:db8::2/128", "dev", "lo", "nodad"]);
        let iptables = Iptables::find().unwrap();
        let wanted = [peers(4789, &["127.0.0.2"]), peers(4789, &["127.0.0.2", "127.0.0.3"]), peers(4790, &["::1"])];
        for _ in 0..2 {
            iptables.set_vxlan_peers(&wanted).unwrap();
            for wanted in &wanted {
                assert_eq!(iptables.check_vxlan_peers(wanted).unwrap(), []);
            }
        }
        for (from, port, expected) in [
            ("127.0.0.2", 4789, true),
            ("127.0.0.3", 4789, true),
            ("127.0.0.4", 4789, false),
            ("127.0.0.2", 4790, false),
            ("127.0.0.4", 4791, true),
        ] {
            assert_eq!(arrives(from, "127.0.0.1", port), expected, "{from} to {port}");
        }
        assert!(arrives("::1", "::1", 4790) && !arrives("2001:db8::2", "::1", 4790));
        let missing = iptables.check_vxlan_peers(&peers(4789, &["127.0.0.9"])).unwrap();
        assert!(missing[0].to_string().contains("127.0.0.9"), "{missing:?}");
        // One is gone, and with the last port everything.
        iptables.set_vxlan_peers(&[peers(4789, &["127.0.0.3"])]).unwrap();
        assert!(!arrives("127.0.0.2", "127.0.0.1", 4789) && arrives("127.0.0.3", "127.0.0.1", 4789));
        iptables.set_vxlan_peers(&[]).unwrap();
        assert!(arrives("127.0.0.4", "127.0.0.1", 4789));
        assert!(!run("iptables-save", &["-t", "raw"]).contains("CNI-VXLAN"));
    });
}
