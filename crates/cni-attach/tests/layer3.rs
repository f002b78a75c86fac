//! A container's addresses and routes: what ADD applies, CHECK finds, and CHECK misses what is taken away.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

#[path = "../../cni-net/tests/common/mod.rs"]
mod common;

use std::rc::Rc;

use cni_attach::{ContainerSide, Layer3};
use cni_net::{Netlink, VethEnd, VethSpec};
use cni_plugin::Route;
use common::{namespace, run};

fn route(dst: &str, gateway: Option<&str>) -> Route {
    Route::new(dst.parse().unwrap(), gateway.map(|gateway| gateway.parse().unwrap()))
}

private_tests! {
    fn what_is_applied_is_found_and_what_is_taken_away_is_missed() {
        let blue = namespace("blue");
        let host = Netlink::open().unwrap();
        let end = |name: &str| VethEnd::named(name.parse().unwrap());
        let index = host.create_veth(&VethSpec::new(end("veth0"), end("eth0"), &blue)).unwrap().peer;
        let inside = Rc::new(Netlink::open_in(&blue).unwrap());
        run("ip netns exec blue sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
        let layer3 = Layer3 {
            addresses: vec!["10.0.0.5/24".parse().unwrap(), "fd00::5/64".parse().unwrap()],
            routes: vec![
                route("0.0.0.0/0", Some("10.0.0.1")),
                route("::/0", Some("fd00::1")),
                Route { mtu: 1400, table: Some(1000), priority: 7, ..route("192.0.2.0/24", Some("10.0.0.1")) },
                Route { scope: Some(253), ..route("198.51.100.0/24", None) },
            ],
            ..Layer3::new(&"eth0".parse().unwrap())
        };
        let container = ContainerSide { namespace: blue, netlink: Rc::clone(&inside) };
        layer3.apply(&container, index, || Ok(()), &mut cni_plugin::Undo::new()).unwrap();
        let addresses = run("ip -n blue -o addr show dev eth0");
        assert!(addresses.contains("10.0.0.5/24 brd 10.0.0.255") && addresses.contains("fd00::5/64"), "{addresses}");
        assert!(!run("ip -n blue -6 addr show dev eth0 tentative").contains("fd00::5"));
        assert!(run("ip -n blue route show table 1000").contains("192.0.2.0/24 via 10.0.0.1 dev eth0 metric 7 mtu 1400"));
        assert_eq!(run("ip netns exec blue sysctl -n net.ipv4.conf.eth0.arp_notify").trim(), "1");
        assert_eq!(layer3.check(&inside, index).unwrap(), []);

        let changes = [
            "ip -n blue addr del fd00::5/64 dev eth0",
            "ip -n blue route del default",
            "ip -n blue -6 route del default",
            "ip -n blue route change 192.0.2.0/24 via 10.0.0.1 dev eth0 metric 7 mtu 1300 table 1000",
            "ip -n blue route del 198.51.100.0/24",
        ];
        for (number, change) in changes.iter().enumerate() {
            run(change);
            let differences = layer3.check(&inside, index).unwrap();
            assert_eq!(differences.len(), number + 1, "{change}: {differences:?}");
        }
    }
}
