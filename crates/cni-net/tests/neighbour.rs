//! Neighbours that are set by hand, routes by their protocol, and what is reported of changes, seen by `ip`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use std::net::IpAddr;

use cni_net::{Events, Neighbour, Netlink, Route};
use cni_plugin::{Family, MacAddr};
use common::{json, namespace, run, veth};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A link `veth0` that is up, with 192.0.2.1/24 and 2001:db8::1/64; its index.
fn link(netlink: &Netlink) -> u32 {
    let blue = namespace("blue");
    let index = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
    run("ip addr add 192.0.2.1/24 dev veth0");
    run("ip addr add 2001:db8::1/64 dev veth0 nodad");
    run("ip link set veth0 up");
    index
}

private_tests! {
    fn permanent_neighbours_are_set_replaced_listed_and_deleted() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        for (address, family) in [(ip("192.0.2.7"), Family::V4), (ip("2001:db8::7"), Family::V6)] {
            for last in [1, 2] {
                let neighbour = Neighbour { address, mac: MacAddr([2, 0, 0, 0, 0, last]) };
                netlink.set_neighbour(index, &neighbour).unwrap();
                assert_eq!(netlink.neighbours(index, family).unwrap(), [neighbour]);
                let shown = json(&format!("ip -j neigh show {address} dev veth0"));
                assert_eq!((&shown[0]["lladdr"], &shown[0]["state"][0]), (&format!("02:00:00:00:00:0{last}").into(), &"PERMANENT".into()));
            }
        }
        // Of another kind and of another link.
        run("ip neigh add 192.0.2.8 lladdr 02:00:00:00:00:08 dev veth0 nud stale");
        run("ip link add other type bridge");
        run("ip link set other up");
        run("ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev other nud permanent");
        assert_eq!(netlink.neighbours(index, Family::V4).unwrap().len(), 1);
        for _ in 0..2 {
            netlink.delete_neighbour(index, ip("192.0.2.7")).unwrap();
        }
        assert_eq!(netlink.neighbours(index, Family::V4).unwrap(), []);
        assert_eq!(netlink.neighbours(index, Family::V6).unwrap().len(), 1);
        let refused = netlink.set_neighbour(4711, &Neighbour { address: ip("192.0.2.7"), mac: MacAddr([2; 6]) }).unwrap_err();
        assert!(refused.to_string().contains("neighbour 192.0.2.7"), "{refused}");
    }

    fn routes_have_a_protocol_of_their_own() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        for (dst, gateway, family) in
            [("10.1.0.0/24", "192.0.2.2", Family::V4), ("fd00:1::/64", "2001:db8::2", Family::V6)]
        {
            let plain = Route::new(dst.parse().unwrap(), Some(ip(gateway)), index);
            let own = Route { protocol: Some(115), ..plain.clone() };
            netlink.add_route(&own).unwrap();
            let listed = netlink.routes_of_protocol(family, 115).unwrap();
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert!(own.is_met_by(&listed[0]) && listed[0].protocol == Some(115));
            assert_eq!(netlink.routes_of_protocol(family, 116).unwrap(), []);
            // Another one's is not deleted in its place.
            assert!(!netlink.delete_route(&Route { protocol: Some(116), ..plain.clone() }).unwrap());
            assert!(netlink.delete_route(&listed[0]).unwrap());
            assert!(!netlink.delete_route(&plain).unwrap());
        }
        // A next hop that nothing leads to, as the kernel takes it on a link.
        let far = Route { onlink: true, protocol: Some(115), ..Route::new("10.2.0.0/24".parse().unwrap(), Some(ip("10.2.0.0")), index) };
        netlink.add_route(&far).unwrap();
        let shown = json("ip -j route show proto 115");
        assert_eq!((&shown[0]["gateway"], &shown[0]["flags"][0]), (&"10.2.0.0".into(), &"onlink".into()));
    }

    fn changes_are_reported_by_their_kind() {
        let netlink = Netlink::open().unwrap();
        link(&netlink);
        for (command, links, routes, neighbours) in [
            ("ip route add 10.1.0.0/24 via 192.0.2.2", false, true, false),
            ("ip -6 route add fd00:1::/64 via 2001:db8::2", false, true, false),
            ("ip link set veth0 mtu 1400", true, false, false),
        ] {
            let events = Events::open().unwrap();
            run(command);
            let changes = events.wait().unwrap();
            assert_eq!((changes.links, changes.routes, changes.neighbours), (links, routes, neighbours), "{command}");
        }
        run("ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev veth0 nud permanent");
        let events = Events::open().unwrap();
        run("ip neigh del 192.0.2.7 dev veth0");
        while !events.wait().unwrap().neighbours {}
    }
}
