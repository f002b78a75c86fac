//! Addresses, seen by `ip -j addr`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use std::time::{Duration, Instant};

use cni_net::{AddressOptions, LinkChange, NetError, Netlink, VethEnd, VethSpec, sysctl};
use common::{first, namespace, run};
use ipnetwork::IpNetwork;
use serde_json::Value;

/// A raised veth pair's host end; its index. The peer is in the namespace `blue`, raised too.
fn link(netlink: &Netlink) -> u32 {
    let blue = namespace("blue");
    let end = |name: &str| VethEnd::named(name.parse().unwrap());
    let made = netlink.create_veth(&VethSpec::new(end("veth0"), end("eth0"), &blue)).unwrap();
    run("ip -n blue link set eth0 up");
    made.host
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// What `ip` says about one address of veth0.
fn seen(ip: &str) -> Option<Value> {
    let link = first("ip -j addr show dev veth0");
    link["addr_info"].as_array()?.iter().find(|address| address["local"] == ip).cloned()
}

private_tests! {
    fn an_ipv4_address_has_its_broadcast_address() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let options = AddressOptions::default();
        assert!(netlink.add_address(index, net("10.0.0.5/24"), &options).unwrap());
        assert!(!netlink.add_address(index, net("10.0.0.5/24"), &options).unwrap());
        assert!(netlink.add_address(index, net("10.9.0.1/32"), &options).unwrap());
        let address = seen("10.0.0.5").unwrap();
        assert_eq!((&address["prefixlen"], &address["broadcast"]), (&24.into(), &"10.0.0.255".into()));
        assert_eq!(seen("10.9.0.1").unwrap()["broadcast"], Value::Null);

        let own: Vec<_> = netlink.addresses(index).unwrap().into_iter().filter(|a| a.network.is_ipv4()).collect();
        assert_eq!(own.iter().map(|a| a.network).collect::<Vec<_>>(), [net("10.0.0.5/24"), net("10.9.0.1/32")]);
        assert!(own.iter().all(|a| a.permanent && !a.tentative && !a.link_local && a.peer.is_none()));

        assert!(netlink.delete_address(index, net("10.0.0.5/24")).unwrap());
        assert!(!netlink.delete_address(index, net("10.0.0.5/24")).unwrap());
        assert_eq!(seen("10.0.0.5"), None);
        assert!(!netlink.delete_address(4711, net("10.0.0.5/24")).unwrap());
    }

    fn one_ipv4_address_can_have_two_prefix_lengths() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let options = AddressOptions::default();
        assert!(netlink.add_address(index, net("10.0.0.5/24"), &options).unwrap());
        assert!(netlink.add_address(index, net("10.0.0.5/16"), &options).unwrap());
        assert!(netlink.add_address(index, net("10.0.0.6/24"), &options).unwrap());
        let secondary: Vec<_> = netlink.addresses(index).unwrap().into_iter().filter(|a| a.secondary).collect();
        assert_eq!(secondary.iter().map(|a| a.network).collect::<Vec<_>>(), [net("10.0.0.6/24")]);
        assert_eq!(seen("10.0.0.6").unwrap()["secondary"], true);
    }

    fn duplicate_address_detection_is_optional() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        // The link-local address comes with the carrier; then without carrier detection does not end, however slow we are.
        let end = Instant::now() + Duration::from_secs(30);
        while !netlink.addresses(index).unwrap().iter().any(|a| a.link_local) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        run("ip -n blue link set eth0 down");
        assert!(netlink.add_address(index, net("fd00::5/64"), &AddressOptions::default()).unwrap());
        let at_once = AddressOptions { no_dad: true, ..AddressOptions::default() };
        assert!(netlink.add_address(index, net("fd00::6/64"), &at_once).unwrap());
        assert_eq!(seen("fd00::5").unwrap()["tentative"], true);
        assert_eq!(seen("fd00::6").unwrap()["tentative"], Value::Null);
        let own = netlink.addresses(index).unwrap();
        let of = |text| own.iter().find(|a| a.network == net(text)).unwrap();
        assert!(of("fd00::5/64").tentative && !of("fd00::5/64").dad_failed);
        assert!(!of("fd00::6/64").tentative && !of("fd00::6/64").link_local);
        assert!(own.iter().any(|a| a.link_local && a.network.ip().to_string().starts_with("fe80:")));
    }

    fn a_taken_address_fails_duplicate_address_detection() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        run("ip -n blue addr add fd00::5/64 dev eth0 nodad");
        assert!(netlink.add_address(index, net("fd00::5/64"), &AddressOptions::default()).unwrap());
        let settled = netlink.settle_addresses(index, Duration::from_secs(10)).unwrap();
        let ours = settled.iter().find(|a| a.network == net("fd00::5/64")).unwrap();
        assert!(ours.dad_failed);
        assert_eq!(seen("fd00::5").unwrap()["dadfailed"], true);
    }

    fn an_ipv6_address_exists_once_whatever_its_prefix_length() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let options = AddressOptions { no_dad: true, ..AddressOptions::default() };
        assert!(netlink.add_address(index, net("fd00::5/64"), &options).unwrap());
        assert!(!netlink.add_address(index, net("fd00::5/64"), &options).unwrap());
        let error = netlink.add_address(index, net("fd00::5/48"), &options).unwrap_err();
        assert!(matches!(&error, NetError::Exists { name, .. } if name == "fd00::5/64"), "{error}");
        assert!(netlink.delete_address(index, net("fd00::5/64")).unwrap());
        assert!(!netlink.delete_address(index, net("fd00::5/64")).unwrap());
    }

    fn a_prefix_route_is_optional() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let options = AddressOptions { no_dad: true, no_prefix_route: true };
        assert!(netlink.add_address(index, net("10.0.0.5/24"), &options).unwrap());
        assert!(netlink.add_address(index, net("fd00::5/64"), &options).unwrap());
        assert_eq!(run("ip route show 10.0.0.0/24"), "");
        assert_eq!(run("ip -6 route show fd00::/64"), "");
    }

    fn errors_name_the_address_and_the_link() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        let options = AddressOptions::default();
        let error = netlink.add_address(4711, net("10.0.0.5/24"), &options).unwrap_err();
        assert!(matches!(error, NetError::NoSuchLink { .. }));
        assert_eq!(error.to_string(), "cannot add address 10.0.0.5/24 to link 4711: there is no such link");
        let error = netlink.addresses(4711).unwrap_err();
        assert_eq!(error.to_string(), "cannot list the addresses of link 4711: there is no such link");
        sysctl::write("net/ipv6/conf/veth0/disable_ipv6", "1").unwrap();
        let error = netlink.add_address(index, net("fd00::5/64"), &options).unwrap_err().to_string();
        assert!(error.starts_with("cannot add address fd00::5/64 to veth0: IPv6 is disabled"), "{error}");
        assert!(error.contains("net.ipv6.conf.veth0.disable_ipv6=0"), "{error}");
        run("ip link set veth0 mtu 1279");
        let error = netlink.add_address(index, net("fd00::5/64"), &options).unwrap_err().to_string();
        assert!(["veth0", "1279", "1280"].iter().all(|named| error.contains(named)), "{error}");
    }

    fn only_this_links_addresses_are_listed() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        run("ip addr add 10.0.0.5/24 dev veth0");
        run("ip addr add 10.1.0.1 peer 10.1.0.2/32 dev veth0");
        run("ip addr add 10.0.0.6/24 dev lo");
        netlink.change_link(index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
        let own = netlink.addresses(index).unwrap();
        assert_eq!(own.iter().map(|a| a.network).collect::<Vec<_>>(), [net("10.0.0.5/24"), net("10.1.0.1/32")]);
        assert_eq!(own[1].peer, Some("10.1.0.2".parse().unwrap()));
    }

    fn free_addresses_settle() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        assert!(netlink.add_address(index, net("fd00::5/64"), &AddressOptions::default()).unwrap());
        let settled = netlink.settle_addresses(index, Duration::from_secs(30)).unwrap();
        assert!(settled.iter().all(|a| !a.tentative && !a.dad_failed));
        assert!(settled.iter().any(|a| a.network == net("fd00::5/64")));
        assert_eq!(seen("fd00::5").unwrap()["tentative"], Value::Null);
    }

    fn settling_ends_where_detection_cannot() {
        let netlink = Netlink::open().unwrap();
        let index = link(&netlink);
        run("ip -n blue link set eth0 down");
        assert!(netlink.add_address(index, net("fd00::5/64"), &AddressOptions::default()).unwrap());
        let settled = netlink.settle_addresses(index, Duration::from_millis(30)).unwrap();
        assert!(settled.iter().any(|a| a.network == net("fd00::5/64") && a.tentative));
    }
}
