//! Links, seen by `ip -d -j link` and `bridge -d -j link`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use cni_net::{LinkChange, NetError, Netlink, PortChange, StpState, Vlan, mac_was_set};
use cni_plugin::MacAddr;
use common::{bridge, first, json, namespace, run, veth};

private_tests! {
    fn links_are_changed() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let master = bridge(&netlink, "cni0");
        let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        let change = LinkChange {
            up: Some(false),
            mtu: Some(1300),
            mac: Some(MacAddr([0x0a, 0, 0, 0, 0, 9])),
            master: Some(Some(master)),
            promisc: Some(true),
            allmulti: Some(true),
            alias: Some("cni: blue/eth0".to_owned()),
            txqlen: Some(77),
            name: Some("veth9".parse().unwrap()),
        };
        for _ in 0..2 {
            netlink.change_link(index, &change).unwrap();
            let seen = first("ip -d -j link show dev veth9");
            assert_eq!(seen["ifindex"], index);
            assert_eq!((&seen["mtu"], &seen["txqlen"]), (&1300.into(), &77.into()));
            assert_eq!((&seen["address"], &seen["master"]), (&"0a:00:00:00:00:09".into(), &"cni0".into()));
            assert_eq!(seen["ifalias"], "cni: blue/eth0");
            let flags = seen["flags"].as_array().unwrap();
            assert!(!flags.contains(&"UP".into()));
            assert!(flags.contains(&"PROMISC".into()) && flags.contains(&"ALLMULTI".into()));
        }
        let link = netlink.link_by_index(index).unwrap().unwrap();
        assert_eq!((link.alias.as_deref(), link.txqlen, link.up), (Some("cni: blue/eth0"), 77, false));
        let seen = first("ip -d -j link show dev veth9");
        assert_eq!((seen["promiscuity"].clone(), seen["allmulti"].clone()), (link.promiscuity.into(), link.allmulti.into()));
        assert!(link.promiscuity > 0);

        let back = LinkChange { up: Some(true), promisc: Some(false), master: Some(None), ..LinkChange::default() };
        netlink.change_link(index, &back).unwrap();
        let seen = first("ip -d -j link show dev veth9");
        assert_eq!((&seen["master"], &seen["mtu"]), (&serde_json::Value::Null, &1300.into()));
        let flags = seen["flags"].as_array().unwrap();
        assert!(flags.contains(&"UP".into()) && !flags.contains(&"PROMISC".into()));
        assert!(flags.contains(&"ALLMULTI".into()), "what was not mentioned stays");
        assert_eq!(seen["promiscuity"], 0);
    }

    fn changes_that_fail() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        bridge(&netlink, "cni0");
        let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        let error = netlink.change_link(4711, &LinkChange::default()).unwrap_err();
        assert_eq!(error.to_string(), "cannot change link 4711: there is no such link");
        let rename = LinkChange { name: Some("cni0".parse().unwrap()), ..LinkChange::default() };
        let error = netlink.change_link(index, &rename).unwrap_err();
        assert!(matches!(&error, NetError::Exists { name, .. } if name == "cni0"), "{error}");
        let small = LinkChange { mtu: Some(1), ..LinkChange::default() };
        let error = netlink.change_link(index, &small).unwrap_err().to_string();
        assert_eq!(error, "cannot change veth0: Invalid argument (mtu less than device minimum)");
    }

    fn links_are_found_by_alternative_names() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        let other = netlink.create_veth(&veth("veth1", "eth1", &blue)).unwrap().host;
        let long = "cni-".repeat(31);
        netlink.add_altname(index, &long).unwrap();
        netlink.add_altname(index, "short").unwrap();
        assert_eq!(first("ip -j link show dev veth0")["altnames"], serde_json::json!([long, "short"]));
        assert_eq!(netlink.link_by_altname(&long).unwrap().unwrap().index, index);
        assert_eq!(netlink.link_by_altname("short").unwrap().unwrap().altnames, [long.as_str(), "short"]);
        assert!(netlink.link_by_altname("veth0").unwrap().is_none(), "an ordinary name");
        assert!(netlink.link_by_altname("unused").unwrap().is_none());
        assert_eq!(netlink.link_by_name("short").unwrap().unwrap().index, index, "one table");

        for taken in ["short", "veth1"] {
            let error = netlink.add_altname(other, taken).unwrap_err();
            assert!(matches!(&error, NetError::Exists { name, .. } if name == taken), "{error}");
        }
        assert!(matches!(netlink.add_altname(4711, "x"), Err(NetError::NoSuchLink { .. })));
        assert!(netlink.add_altname(index, &"x".repeat(200)).is_err());
        netlink.delete_link(index).unwrap();
        assert!(netlink.link_by_altname(&long).unwrap().is_none());
    }

    fn alternative_names_are_taken_away_once() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        let other = netlink.create_veth(&veth("veth1", "eth1", &blue)).unwrap().host;
        netlink.add_altname(index, "first").unwrap();
        netlink.add_altname(index, "second").unwrap();
        assert!(!netlink.delete_altname(other, "first").unwrap(), "another link's");
        assert!(netlink.delete_altname(index, "first").unwrap());
        assert!(!netlink.delete_altname(index, "first").unwrap());
        assert!(!netlink.delete_altname(4711, "second").unwrap());
        assert!(!netlink.delete_altname(index, "veth0").unwrap(), "its ordinary name");
        assert_eq!(first("ip -j link show dev veth0")["altnames"], serde_json::json!(["second"]));
    }

    /// The sysfs that is mounted is the machine's, in which the bridge isn't.
    fn sysfs_tells_whether_a_hardware_address_was_set() {
        let netlink = Netlink::open().unwrap();
        run("ip link add cni0 type bridge");
        let found = || mac_was_set(&netlink.link_by_name("cni0").unwrap().unwrap());
        assert_eq!(found(), Some(false));
        run("mount -t sysfs sysfs /sys");
        assert_eq!(found(), Some(false));
        let link = netlink.link_by_name("cni0").unwrap().unwrap();
        netlink.change_link(link.index, &LinkChange { mac: link.mac, ..LinkChange::default() }).unwrap();
        assert_eq!(found(), Some(true));
        // Another link of that name.
        let mut other = link;
        other.index += 1;
        assert_eq!(mac_was_set(&other), None);
    }

    fn a_port_is_changed() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let mut spec = veth("veth0", "eth0", &blue);
        spec.master = Some(bridge(&netlink, "cni0"));
        let index = netlink.create_veth(&spec).unwrap().host;
        let port = || netlink.link_by_index(index).unwrap().unwrap().port.unwrap();
        assert!(!port().hairpin && !port().isolated);
        netlink.set_port(index, &PortChange { hairpin: Some(true), isolated: None }).unwrap();
        let seen = || first("bridge -d -j link show dev veth0");
        assert_eq!((&seen()["hairpin"], &seen()["isolated"]), (&true.into(), &false.into()));
        assert!(port().hairpin && !port().isolated);
        netlink.set_port(index, &PortChange { hairpin: None, isolated: Some(true) }).unwrap();
        assert_eq!((&seen()["hairpin"], &seen()["isolated"]), (&true.into(), &true.into()));
        netlink.set_port(index, &PortChange { hairpin: Some(false), isolated: Some(false) }).unwrap();
        assert_eq!((&seen()["hairpin"], &seen()["isolated"]), (&false.into(), &false.into()));

        run("ip link set cni0 up");
        run("ip -n blue link set eth0 up");
        assert_eq!(port().state, StpState::Forwarding);
        assert_eq!(seen()["state"], "forwarding");
    }

    fn only_a_port_can_be_changed_as_one() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        let change = PortChange { hairpin: Some(true), isolated: None };
        let error = netlink.set_port(index, &change).unwrap_err().to_string();
        assert!(error.starts_with("cannot change bridge port veth0: "), "{error}");
        assert!(matches!(netlink.set_port(4711, &change), Err(NetError::NoSuchLink { .. })));
        assert!(netlink.link_by_index(index).unwrap().unwrap().port.is_none());
    }

    fn links_are_deleted_once() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        assert!(netlink.delete_link(index).unwrap());
        assert!(!netlink.delete_link(index).unwrap());
        assert_eq!(json("ip -n blue -j link show type veth").as_array().unwrap().len(), 0);
        let error = netlink.delete_link(1).unwrap_err();
        assert_eq!(error.to_string(), "cannot delete lo: Operation not supported");
    }

    fn links_that_are_not_there() {
        let netlink = Netlink::open().unwrap();
        assert!(netlink.link_by_name("eth0").unwrap().is_none());
        assert!(netlink.link_by_index(4711).unwrap().is_none());
        assert!(netlink.link_by_index(0).unwrap().is_none());
        assert!(netlink.link_by_altname("eth0").unwrap().is_none());
        let error = netlink.link_by_name("a-name-of-20-bytes__").unwrap_err();
        assert!(error.to_string().starts_with("cannot find link a-name-of-20-bytes__: "), "{error}");
        assert_eq!(netlink.links().unwrap().iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo"]);
        let lo = netlink.link_by_name("lo").unwrap().unwrap();
        assert!(lo.loopback && lo.up && lo.kind.is_none());
    }

    fn all_links_are_listed_however_many() {
        let blue = namespace("blue");
        run("ip netns exec blue sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        let netlink = Netlink::open().unwrap();
        let master = bridge(&netlink, "cni0");
        // More than fit into one part of a dump.
        for number in 0..120 {
            let mut spec = veth(&format!("veth{number}"), &format!("eth{number}"), &blue);
            spec.master = (number % 2 == 0).then_some(master);
            netlink.create_veth(&spec).unwrap();
        }
        let all = netlink.links().unwrap();
        assert_eq!(all.len(), json("ip -j link").as_array().unwrap().len());
        assert_eq!(all.len(), 122);
        let ports = netlink.links_with_master(master).unwrap();
        assert_eq!(ports.len(), 60);
        assert!(ports.iter().all(|link| link.port.is_some()));
        assert_eq!(netlink.links_with_master(1).unwrap(), []);
    }

    fn vlans_need_a_kernel_that_has_them() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let mut spec = veth("veth0", "eth0", &blue);
        spec.master = Some(bridge(&netlink, "cni0"));
        let index = netlink.create_veth(&spec).unwrap().host;
        let vlan = Vlan { id: 100, pvid: true, untagged: true };
        match netlink.add_port_vlan(index, vlan) {
            Ok(()) => {
                assert!(netlink.port_vlans(index).unwrap().contains(&vlan));
                let seen = first("bridge -j vlan show dev veth0");
                assert!(seen["vlans"].as_array().unwrap().iter().any(|vlan| vlan["vlan"] == 100));
                netlink.delete_port_vlan(index, 100).unwrap();
                assert!(!netlink.port_vlans(index).unwrap().iter().any(|vlan| vlan.id == 100));
            }
            Err(error) => {
                assert!(error.to_string().starts_with("cannot add VLAN 100 to bridge port veth0: "), "{error}");
                assert_eq!(netlink.port_vlans(index).unwrap(), []);
            }
        }
        assert!(matches!(netlink.add_port_vlan(4711, vlan), Err(NetError::NoSuchLink { .. })));
    }
}
