//! Routes, seen by `ip -d -j route`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cni_net::{NetError, Netlink, Route, RouteFilter, RouteKind, VethEnd, VethSpec};
use cni_plugin::Family;
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

    fn source_and_onlink_are_applied() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        run("ip addr add 10.5.0.1/32 dev veth0");
        let route = Route {
            source: Some(ip("10.5.0.1")),
            onlink: true,
            scope: Some(0),
            ..Route::new(net("192.0.2.0/24"), Some(ip("203.0.113.1")), index)
        };
        netlink.add_route(&route).unwrap();
        let seen = first("ip -d -j route show 192.0.2.0/24");
        assert_eq!((&seen["gateway"], &seen["prefsrc"]), (&"203.0.113.1".into(), &"10.5.0.1".into()));
        assert_eq!(seen["flags"], serde_json::json!(["onlink"]));
        let all = netlink.routes(&RouteFilter { family: Family::V4, device: Some(index), table: None }).unwrap();
        let listed = all.iter().find(|listed| listed.dst == route.dst).unwrap();
        assert!(route.is_met_by(listed), "{listed:?}");
    }

    fn an_ipv4_route_through_an_ipv6_gateway() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let route = Route::new(net("192.0.2.0/24"), Some(ip("fd00::1")), index);
        netlink.add_route(&route).unwrap();
        let seen = first("ip -d -j route show 192.0.2.0/24");
        assert_eq!(seen["via"], serde_json::json!({"family": "inet6", "host": "fd00::1"}));
        let all = netlink.routes(&RouteFilter { family: Family::V4, device: None, table: Some(254) }).unwrap();
        assert!(all.iter().any(|listed| route.is_met_by(listed)));
    }

    fn the_same_route_twice_is_an_error() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        for (dst, gateway) in [("192.0.2.0/24", "10.0.0.1"), ("2001:db8::/32", "fd00::1")] {
            let route = Route::new(net(dst), Some(ip(gateway)), index);
            netlink.add_route(&route).unwrap();
            let error = netlink.add_route(&route).unwrap_err();
            assert!(matches!(error, NetError::Exists { .. }), "{error}");
            let expected = format!("cannot add route {dst} via {gateway} on veth0: this route exists already");
            assert_eq!(error.to_string(), expected);
        }
        // Another gateway is another route; nothing is replaced.
        netlink.add_route(&Route::new(net("192.0.2.0/24"), Some(ip("10.0.0.2")), index)).unwrap();
        let seen = json("ip -j route show 192.0.2.0/24");
        let mut gateways: Vec<_> = seen.as_array().unwrap().iter().map(|route| route["gateway"].to_string()).collect();
        gateways.sort();
        assert_eq!(gateways, ["\"10.0.0.1\"", "\"10.0.0.2\""]);
        // IPv6 joins them into one.
        netlink.add_route(&Route::new(net("2001:db8::/32"), Some(ip("fd00::2")), index)).unwrap();
        let all = netlink.routes(&RouteFilter { family: Family::V6, device: Some(index), table: None }).unwrap();
        let mut gateways: Vec<_> =
            all.iter().filter(|route| route.dst == net("2001:db8::/32")).filter_map(|route| route.gateway).collect();
        gateways.sort();
        assert_eq!(gateways, [ip("fd00::1"), ip("fd00::2")]);
    }

    fn routes_are_deleted_once() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        for (dst, gateway) in [("192.0.2.0/24", Some("10.0.0.1")), ("198.51.100.0/24", None), ("2001:db8::/32", Some("fd00::1")), ("0.0.0.0/0", Some("10.0.0.1")), ("::/0", Some("fd00::1"))] {
            let route = Route { table: Some(1000), ..Route::new(net(dst), gateway.map(ip), index) };
            netlink.add_route(&route).unwrap();
            assert!(!netlink.delete_route(&Route { table: None, ..route.clone() }).unwrap(), "{dst}: other table");
            assert!(netlink.delete_route(&route).unwrap(), "{dst}");
            assert!(!netlink.delete_route(&route).unwrap(), "{dst}");
            assert!(!netlink.delete_route(&Route { device: 4711, ..route }).unwrap(), "{dst}: no link");
        }
        // The first one needs a table that has had a route.
        assert_eq!(run("ip -4 route show table 1000"), "");
        assert_eq!(run("ip -6 route show table 1000"), "");
    }

    fn routes_that_the_kernel_refuses() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let refused = |route: &Route| netlink.add_route(route).unwrap_err();
        // Sentences of net/ipv4/fib_trie.c and fib_semantics.c.
        let error = refused(&Route::new(net("192.0.2.7/24"), None, index));
        assert_eq!(
            error.to_string(),
            "cannot add route 192.0.2.7/24 on veth0: Invalid argument (Invalid prefix for given prefix length)"
        );
        let error = refused(&Route::new(net("192.0.2.0/24"), Some(ip("203.0.113.1")), index));
        assert_eq!(
            error.to_string(),
            "cannot add route 192.0.2.0/24 via 203.0.113.1 on veth0: Network is unreachable (Nexthop has invalid gateway)"
        );
        let error = refused(&Route::new(net("192.0.2.0/24"), None, 4711));
        assert!(matches!(error, NetError::NoSuchLink { .. }), "{error}");
        assert_eq!(json("ip -j route show 192.0.2.0/24"), serde_json::json!([]));
        // IPv6 clears the host's bits.
        let route = Route::new(net("2001:db8::7/32"), None, index);
        netlink.add_route(&route).unwrap();
        assert_eq!(first("ip -6 -j route show 2001:db8::/32")["dst"], "2001:db8::/32");
        let all = netlink.routes(&RouteFilter { family: Family::V6, device: Some(index), table: Some(254) }).unwrap();
        assert!(all.iter().any(|listed| route.is_met_by(listed)));
    }

    fn the_filter_is_the_kernels() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        run("ip route add 192.0.2.0/24 dev lo");
        run("ip route add 198.51.100.0/24 dev veth0 table 1000");
        run("ip route add blackhole 203.0.113.0/24");
        run("ip route add 100.64.0.0/16 nexthop via 10.0.0.7 dev veth0 nexthop dev lo");
        let list = |device, table| {
            let mut routes: Vec<String> = netlink
                .routes(&RouteFilter { family: Family::V4, device, table })
                .unwrap()
                .iter()
                .map(|route| format!("{} {}", route.dst, route.device))
                .collect();
            routes.sort();
            routes
        };
        let (lo, veth) = (1, index);
        assert_eq!(list(Some(veth), Some(254)), [format!("10.0.0.0/24 {veth}"), format!("100.64.0.0/16 {veth}")]);
        assert_eq!(list(None, Some(1000)), [format!("198.51.100.0/24 {veth}")]);
        assert_eq!(list(None, Some(4711)), [""; 0], "a table that never had a route");
        assert_eq!(list(Some(lo), Some(254)), [format!("100.64.0.0/16 {lo}"), format!("192.0.2.0/24 {lo}")]);
        assert_eq!(list(Some(veth), None).len(), 3);
        let error = netlink.routes(&RouteFilter { family: Family::V4, device: Some(4711), table: None }).unwrap_err();
        assert!(matches!(error, NetError::NoSuchLink { .. }), "{error}");
    }

    fn the_kernel_is_asked_for_the_way() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        assert_eq!(netlink.route_to(ip("192.0.2.1")).unwrap(), None);
        assert_eq!(netlink.route_to(ip("2001:db8::1")).unwrap(), None);
        netlink.add_route(&Route::new(net("0.0.0.0/0"), Some(ip("10.0.0.1")), index)).unwrap();
        netlink.add_route(&Route::new(net("::/0"), Some(ip("fd00::1")), index)).unwrap();
        for (to, gateway, source) in [("192.0.2.1", "10.0.0.1", "10.0.0.5"), ("2001:db8::1", "fd00::1", "fd00::5")] {
            let way = netlink.route_to(ip(to)).unwrap().unwrap();
            assert_eq!((way.device, way.gateway, way.source), (index, Some(ip(gateway)), Some(ip(source))));
            assert_eq!(way.kind, RouteKind::Unicast);
            let seen = first(&format!("ip -j route get {to}"));
            assert_eq!((&seen["gateway"], &seen["prefsrc"]), (&gateway.into(), &source.into()));
        }
        assert_eq!(netlink.route_to(ip("10.0.0.9")).unwrap().unwrap().gateway, None);
        assert_eq!(netlink.route_to(ip("10.0.0.5")).unwrap().unwrap().kind, RouteKind::Local);
        // IPv6 adds an address's own route from a work queue, also without duplicate address detection
        // (addrconf_dad_work in net/ipv6/addrconf.c).
        let kind = || netlink.route_to(ip("fd00::5")).unwrap().unwrap().kind;
        let end = Instant::now() + Duration::from_secs(30);
        while kind() != RouteKind::Local && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(kind(), RouteKind::Local);
        run("ip route add prohibit 203.0.113.0/24");
        let error = netlink.route_to(ip("203.0.113.1")).unwrap_err();
        assert_eq!(error.to_string(), "cannot look up the route to 203.0.113.1: Permission denied");
    }
}
