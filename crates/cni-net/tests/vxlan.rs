//! VXLAN devices, their forwarding entries, and whose address an address is, seen by `ip` and `bridge`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use std::net::IpAddr;

use cni_net::{LinkSpec, NetError, Netlink, VxLan, VxlanFdbEntry};
use cni_plugin::MacAddr;
use common::{bridge, first, json, namespace, run, veth};

/// A link `veth0` with 192.0.2.1 and 2001:db8::1; its index.
fn underlay(netlink: &Netlink) -> u32 {
    let blue = namespace("blue");
    let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
    run("ip addr add 192.0.2.1/24 dev veth0");
    run("ip addr add 2001:db8::1/64 dev veth0 nodad");
    index
}

fn device(netlink: &Netlink, name: &str, kind: VxLan) -> u32 {
    netlink.create_link(&LinkSpec::new(name.parse().unwrap(), &kind)).unwrap().index
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

private_tests! {
    fn a_device_is_what_ip_shows() {
        let netlink = Netlink::open().unwrap();
        let link = Some(underlay(&netlink));
        let v4 = VxLan { vni: 42, port: 4789, link, local: None, learning: true };
        let v6 = VxLan { vni: 0xff_ffff, port: 14_789, link: None, local: Some(ip("2001:db8::1")), learning: false };
        for (name, kind) in [("vx4", v4), ("vx6", v6)] {
            let index = device(&netlink, name, kind);
            assert_eq!(netlink.link_by_index(index).unwrap().unwrap().vxlan, Some(kind));
        }
        let data = |name: &str| first(&format!("ip -d -j link show dev {name}"))["linkinfo"]["info_data"].clone();
        let shown = data("vx4");
        assert_eq!((&shown["id"], &shown["port"], &shown["link"]), (&42.into(), &4789.into(), &"veth0".into()));
        let shown = data("vx6");
        assert_eq!((&shown["id"], &shown["port"], &shown["local6"]), (&0xff_ffff.into(), &14_789.into(), &"2001:db8::1".into()));
        assert_eq!(v6.to_string(), "vxlan id 16777215 dstport 14789 local 2001:db8::1 nolearning");
        // One device a number and port, whatever its name.
        let again = netlink.create_link(&LinkSpec::new("other".parse().unwrap(), &v4)).unwrap_err();
        assert!(matches!(again, NetError::Exists { .. }), "{again}");
    }

    fn flood_entries_are_several_and_others_are_one() {
        let netlink = Netlink::open().unwrap();
        let link = Some(underlay(&netlink));
        let index = device(&netlink, "vx4", VxLan { vni: 42, port: 4789, link, local: None, learning: true });
        run(&format!("ip link set vx4 master {}", { bridge(&netlink, "br0"); "br0" }));
        let known = VxlanFdbEntry::new(MacAddr([2, 0, 0, 0, 0, 7]), ip("192.0.2.7"));
        let flood = [VxlanFdbEntry::flood(ip("192.0.2.2")), VxlanFdbEntry::flood(ip("192.0.2.3"))];
        for entry in flood.iter().chain([&known, &known, &flood[0]]) {
            netlink.add_fdb_entry(index, entry).unwrap();
        }
        assert_eq!(netlink.fdb_entries(index).unwrap(), [flood[0], flood[1], known]);
        let shown = json("bridge -j fdb show dev vx4");
        let hosts = |mac: &str| {
            let of = |entry: &&serde_json::Value| entry["mac"] == mac && entry["dst"].is_string();
            shown.as_array().unwrap().iter().filter(of).count()
        };
        assert_eq!((hosts("00:00:00:00:00:00"), hosts("02:00:00:00:00:07")), (2, 1));
        for _ in 0..2 {
            netlink.delete_fdb_entry(index, &flood[0]).unwrap();
        }
        assert_eq!(netlink.fdb_entries(index).unwrap(), [flood[1], known]);
        // As `bridge fdb` makes them, with NUD_NOARP, and learnt ones.
        run("bridge fdb add 02:00:00:00:00:08 dev vx4 dst 192.0.2.8");
        run("bridge fdb add 02:00:00:00:00:09 dev vx4 dst 192.0.2.9 dynamic");
        let permanent = |last| netlink.fdb_entries(index).unwrap().into_iter().find(|entry| entry.mac.0[5] == last).unwrap().permanent;
        assert!(permanent(8) && !permanent(9));
        // The other family, and no such device.
        assert!(netlink.add_fdb_entry(index, &VxlanFdbEntry::flood(ip("2001:db8::2"))).unwrap_err().to_string().contains("2001:db8::2"));
        assert!(netlink.add_fdb_entry(99, &flood[0]).is_err());
        netlink.delete_fdb_entry(99, &flood[0]).unwrap();
    }

    fn an_ipv6_device_has_ipv6_entries() {
        let netlink = Netlink::open().unwrap();
        let link = Some(underlay(&netlink));
        let index = device(&netlink, "vx6", VxLan { vni: 42, port: 4789, link, local: Some(ip("2001:db8::1")), learning: true });
        let entry = VxlanFdbEntry::flood(ip("2001:db8::2"));
        netlink.add_fdb_entry(index, &entry).unwrap();
        assert_eq!(netlink.fdb_entries(index).unwrap(), [entry]);
    }

    fn an_address_is_on_one_link() {
        let netlink = Netlink::open().unwrap();
        let index = underlay(&netlink);
        run("ip link set veth0 up");
        run("ip addr add 198.51.100.1/32 dev lo");
        for address in ["192.0.2.1", "2001:db8::1"] {
            assert_eq!(netlink.link_of_address(ip(address)).unwrap(), Some(index), "{address}");
        }
        assert_eq!(netlink.link_of_address(ip("198.51.100.1")).unwrap(), Some(1));
        for address in ["192.0.2.2", "2001:db8::2", "203.0.113.1", "2001:db8:1::1"] {
            assert_eq!(netlink.link_of_address(ip(address)).unwrap(), None, "{address}");
        }
    }
}
