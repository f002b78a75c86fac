//! Links, seen by `ip -d -j link` and `bridge -d -j link`.

mod common;

use cni_net::{BridgeSpec, LinkChange, NetError, NetNs, Netlink, PortChange, PortForwarding, VethEnd, VethSpec};
use cni_plugin::MacAddr;
use common::{first, json, namespace, run};

fn bridge(netlink: &Netlink, name: &str) -> u32 {
    let spec = BridgeSpec { name: name.parse().unwrap(), mtu: None, mac: None, vlan_filtering: false };
    assert!(netlink.create_bridge(&spec).unwrap());
    netlink.link_by_name(name).unwrap().unwrap().index
}

fn veth<'a>(host: &str, peer: &str, blue: &'a NetNs) -> VethSpec<'a> {
    VethSpec::new(VethEnd::named(host.parse().unwrap()), VethEnd::named(peer.parse().unwrap()), blue)
}

private_tests! {
    fn a_bridge_is_created_once() {
        let netlink = Netlink::open().unwrap();
        let spec = BridgeSpec { name: "cni0".parse().unwrap(), mtu: Some(1400), mac: None, vlan_filtering: false };
        assert!(netlink.create_bridge(&spec).unwrap());
        assert!(!netlink.create_bridge(&spec).unwrap());
        let seen = first("ip -d -j link show dev cni0");
        assert_eq!(seen["linkinfo"]["info_kind"], "bridge");
        assert_eq!(seen["mtu"], 1400);
        assert_eq!(seen["operstate"], "DOWN");

        let link = netlink.link_by_name("cni0").unwrap().unwrap();
        assert_eq!(link.kind.as_deref(), Some("bridge"));
        assert!(!link.up && !link.bridge.unwrap().vlan_filtering);
        assert_eq!(link.mtu, 1400);
    }

    fn a_veth_pair_is_born_in_place() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let master = bridge(&netlink, "cni0");
        let mac = |last| MacAddr([0x0a, 0, 0, 0, 0, last]);
        let spec = VethSpec {
            host: VethEnd { name: "veth0".parse().unwrap(), mtu: Some(1390), mac: Some(mac(1)) },
            master: Some(master),
            peer: VethEnd { name: "eth0".parse().unwrap(), mtu: Some(1380), mac: Some(mac(2)) },
            peer_namespace: &blue,
        };
        let made = netlink.create_veth(&spec).unwrap();

        let host = first("ip -d -j link show dev veth0");
        assert_eq!(host["ifindex"], made.host);
        assert_eq!(host["address"], made.host_mac.to_string());
        assert_eq!(host["address"], "0a:00:00:00:00:01");
        assert_eq!(host["mtu"], 1390);
        assert_eq!(host["master"], "cni0");
        assert!(host["flags"].as_array().unwrap().contains(&"UP".into()));
        let peer = first("ip -n blue -d -j link show dev eth0");
        assert_eq!(peer["ifindex"], made.peer);
        assert_eq!(peer["address"], "0a:00:00:00:00:02");
        assert_eq!(peer["mtu"], 1380);
        assert_eq!(peer["link_index"], made.host);
        assert!(!peer["flags"].as_array().unwrap().contains(&"UP".into()));

        let link = netlink.link_by_index(made.host).unwrap().unwrap();
        assert_eq!((link.name.as_str(), link.kind.as_deref()), ("veth0", Some("veth")));
        assert_eq!((link.master, link.peer_index, link.mtu, link.up), (Some(master), Some(made.peer), 1390, true));
        assert_eq!(link.mac, Some(mac(1)));
        assert!(link.peer_netnsid.is_some());
        let inside = Netlink::open_in(&blue).unwrap();
        let link = inside.link_by_name("eth0").unwrap().unwrap();
        assert_eq!((link.index, link.peer_index, link.up), (made.peer, Some(made.host), false));
    }
}
