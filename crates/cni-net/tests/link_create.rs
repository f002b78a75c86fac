//! Bridges and veth pairs being created, seen by `ip -d -j link`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use cni_net::{Bridge, LinkSpec, MacVlan, MacVlanMode, NetError, Netlink, VethEnd, VethSpec};
use cni_plugin::MacAddr;
use common::{bridge, first, json, namespace, veth};

private_tests! {
    fn a_bridge_is_created_once() {
        let netlink = Netlink::open().unwrap();
        let spec = LinkSpec { mtu: Some(1400), ..LinkSpec::new("cni0".parse().unwrap(), &Bridge { vlan_filtering: false }) };
        assert_eq!(spec.to_string(), "add cni0 mtu 1400 type bridge");
        let created = netlink.create_link(&spec).unwrap();
        assert!(matches!(netlink.create_link(&spec), Err(NetError::Exists { name, .. }) if name == "cni0"));
        let seen = first("ip -d -j link show dev cni0");
        assert_eq!(seen["linkinfo"]["info_kind"], "bridge");
        assert_eq!(seen["mtu"], 1400);
        assert_eq!(seen["operstate"], "DOWN");

        let link = netlink.link_by_name("cni0").unwrap().unwrap();
        assert_eq!(link.kind.as_deref(), Some("bridge"));
        assert_eq!(link.mtu, 1400);
        // The kernel's echo says as much as a question.
        assert_eq!(created, link);
        assert!(!link.up && !link.bridge.unwrap().vlan_filtering);
    }

    fn a_bridge_keeps_an_address_that_was_chosen() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let mac = MacAddr([0x0a, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let spec = LinkSpec { mac: Some(mac), ..LinkSpec::new("cni0".parse().unwrap(), &Bridge { vlan_filtering: false }) };
        netlink.create_link(&spec).unwrap();
        let mut spec = veth("veth0", "eth0", &blue);
        spec.master = Some(netlink.link_by_name("cni0").unwrap().unwrap().index);
        // Lower than the bridge's, so that a bridge without a chosen address would take it.
        spec.host.mac = Some(MacAddr([0x02, 0, 0, 0, 0, 1]));
        netlink.create_veth(&spec).unwrap();
        assert_eq!(first("ip -j link show dev cni0")["address"], "0a:ff:ff:ff:ff:ff");
    }

    fn a_veth_pair_is_born_in_place() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let master = bridge(&netlink, "cni0");
        let mac = |last| MacAddr([0x0a, 0, 0, 0, 0, last]);
        let spec = VethSpec {
            host: VethEnd { name: "veth0".parse().unwrap(), mtu: Some(1390), mac: Some(mac(1)) },
            host_up: true,
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

    fn a_veth_pair_without_wishes() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let made = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap();
        let host = first("ip -j link show dev veth0");
        assert_eq!((&host["mtu"], &host["master"]), (&1500.into(), &serde_json::Value::Null));
        assert_eq!(host["address"], made.host_mac.to_string());
    }

    fn a_taken_name_is_named_on_either_side() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap();
        let taken = |spec: &VethSpec<'_>| match netlink.create_veth(spec) {
            Err(NetError::Exists { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(taken(&veth("veth0", "eth1", &blue)), "veth0");
        assert_eq!(taken(&veth("veth1", "eth0", &blue)), "eth0");
        let error = netlink.create_veth(&veth("veth1", "eth0", &blue)).unwrap_err();
        assert_eq!(error.to_string(), "cannot create veth pair veth1 and eth0: eth0 exists already");
        // All or nothing.
        assert!(netlink.link_by_name("veth1").unwrap().is_none());
        assert_eq!(json("ip -n blue -j link show type veth").as_array().unwrap().len(), 1);
    }

    fn a_veth_pair_with_a_missing_bridge_or_a_bad_mtu_leaves_nothing() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let mut spec = veth("veth0", "eth0", &blue);
        spec.master = Some(4711);
        let error = netlink.create_veth(&spec).unwrap_err();
        assert!(error.to_string().starts_with("cannot create veth pair veth0 and eth0: "), "{error}");
        spec.master = None;
        spec.peer.mtu = Some(70000);
        let error = netlink.create_veth(&spec).unwrap_err();
        assert_eq!(error.to_string(), "cannot create veth pair veth0 and eth0: Invalid argument");
        assert_eq!(error.errno(), Some(22));
        assert_eq!(json("ip -j link show type veth"), json("ip -n blue -j link show type veth"));
        assert_eq!(json("ip -j link show type veth").as_array().unwrap().len(), 0);
    }

    fn a_bridge_name_that_another_link_has() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap();
        let spec = LinkSpec::new("veth0".parse().unwrap(), &Bridge { vlan_filtering: false });
        assert!(matches!(netlink.create_link(&spec), Err(NetError::Exists { .. })));
        assert_eq!(netlink.link_by_name("veth0").unwrap().unwrap().kind.as_deref(), Some("veth"));
    }

    fn vlan_filtering_is_given_or_refused_never_ignored() {
        let netlink = Netlink::open().unwrap();
        let kind = Bridge { vlan_filtering: true };
        let spec = LinkSpec::new("cni0".parse().unwrap(), &kind);
        assert_eq!(spec.to_string(), "add cni0 type bridge vlan_filtering 1");
        let probed = netlink.probe_bridge(&spec.name, &kind);
        match netlink.create_link(&spec) {
            Ok(created) => {
                assert!(probed.is_ok() && created.bridge.unwrap().vlan_filtering);
                assert_eq!(first("ip -d -j link show dev cni0")["linkinfo"]["info_data"]["vlan_filtering"], 1);
            }
            Err(error) => {
                assert!(matches!(error, NetError::Unsupported { .. }), "{error}");
                assert!(matches!(probed, Err(NetError::Unsupported { .. })), "{probed:?}");
                assert_eq!(json("ip -j link show type bridge").as_array().unwrap().len(), 0);
            }
        }
    }

    fn a_link_of_another_namespace_keeps_its_parent_here() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let inside = Netlink::open_in(&blue).unwrap();
        let parent = bridge(&netlink, "cni0");
        let kind = MacVlan::new(parent, MacVlanMode::Bridge);
        let spec = LinkSpec { mtu: Some(1400), ..LinkSpec::new("eth0".parse().unwrap(), &kind) };
        let created = netlink.create_link_in(&spec, &blue, &inside).unwrap();
        assert_eq!((created.kind.as_deref(), created.mtu, created.up), (Some("macvlan"), 1400, false));
        assert_eq!(created.peer_index, Some(parent));
        assert!(created.peer_netnsid.is_some());
        assert_eq!(first("ip -n blue -d -j link show dev eth0")["linkinfo"]["info_data"]["mode"], "bridge");
        let again = netlink.create_link_in(&spec, &blue, &inside);
        assert!(matches!(again, Err(NetError::Exists { name, .. }) if name == "eth0"));
        assert!(netlink.link_by_name("eth0").unwrap().is_none());
    }
}
