//! Routes, seen by `ip -d -j route`.

mod common;

use std::net::IpAddr;

use cni_net::{Family, NetError, Netlink, Route, RouteFilter, RouteKind, VethEnd, VethSpec};
use common::{first, json, namespace, run};
use ipnetwork::IpNetwork;

/// veth0, raised, with 10.0.0.5/24 and fd00::5/64; its index.
fn link(netlink: &Netlink) -> u32 {
    let blue = namespace("blue");
    let end = |name: &str| VethEnd::named(name.parse().unwrap());
    let made = netlink.create_veth(&VethSpec::new(end("veth0"), end("eth0"), &blue)).unwrap();
    run("ip -n blue link set eth0 up");
    run("ip addr add 10.0.0.5/24 dev veth0");
    run("ip addr add fd00::5/64 dev veth0 nodad");
    made.host
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

private_tests! {
    fn a_default_route_of_each_family() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        netlink.add_route(&Route::new(net("0.0.0.0/0"), Some(ip("10.0.0.1")), index)).unwrap();
        netlink.add_route(&Route::new(net("::/0"), Some(ip("fd00::1")), index)).unwrap();
        for (seen, gateway) in [(first("ip -d -j -4 route show default"), "10.0.0.1"), (first("ip -d -j -6 route show default"), "fd00::1")] {
            assert_eq!(seen["gateway"], gateway);
            assert_eq!(seen["dev"], "veth0");
            assert_eq!(seen["protocol"], "boot");
            assert_eq!(seen["type"], "unicast");
        }
    }

    fn mtu_and_advmss_are_applied() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let route = |dst| Route {
            mtu: Some(1400),
            advmss: Some(1300),
            priority: Some(77),
            table: Some(1000),
            ..Route::new(net(dst), None, index)
        };
        for (dst, show) in [("192.0.2.0/24", "ip -d -j -4 route show table 1000"), ("2001:db8::/32", "ip -d -j -6 route show table 1000")] {
            netlink.add_route(&route(dst)).unwrap();
            let seen = first(show);
            assert_eq!(seen["dst"], dst);
            assert_eq!(seen["metric"], 77);
            assert_eq!(seen["metrics"][0]["mtu"], 1400);
            assert_eq!(seen["metrics"][0]["advmss"], 1300);
            let family = Family::of(net(dst).ip());
            let listed = netlink.routes(&RouteFilter { family, device: None, table: Some(1000) }).unwrap();
            let scope = listed[0].scope;
            assert_eq!(listed, [Route { scope, ..route(dst) }]);
        }
        assert_eq!(first("ip -d -j -4 route show table 1000")["scope"], "link");
    }
}
