//! Containers with a link of the node, or with one that leads nowhere.

use std::fs;

use cni_tests::dhcp::{LEASED, Processes};
use cni_tests::kernel::{addresses, has_flag, link};
use cni_tests::packets::{Outside, ping};
use cni_tests::{Attachment, Chain, Netns, Sandbox, verdict};

use super::between;

/// A container alone on a network.
fn one(sb: &Sandbox, chain: &Chain, story: impl Fn(&Netns, &Attachment)) {
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    story(&ns, &at);
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
    assert!(link(&ns, "eth0").is_none());
}

/// Skips the case unless a link can be made by `ip link add` with these words.
pub(crate) fn needs(sb: &Sandbox, file: &str) {
    let node = sb.node();
    let words = match file {
        "21-vlan-100.conflist" | "22-vlan-200.conflist" => return sb.needs_vlan_filtering(),
        "42-ipvlan.conflist" => "link probe name probe1 type ipvlan",
        "43-vlan.conflist" => "link probe name probe1 type vlan id 1",
        "44-dummy.conflist" => "name probe1 type dummy",
        "47-vrf.conflist" => "name probe1 type vrf table 9",
        _ => return,
    };
    node.sh(&["ip", "link", "add", "probe", "type", "bridge"]);
    let made = node.holds(&["ip", "link", "add"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());
    for name in ["probe1", "probe"] {
        node.holds(&["ip", "link", "del", name]);
    }
    if !made {
        verdict::skip(format!("this kernel has not what {file} needs: ip link add {words}"));
    }
}

/// Containers with addresses of the network outside and the MAC address of the node's link.
pub(crate) fn ipvlan(sb: &Sandbox, chain: &Chain) {
    needs(sb, "42-ipvlan.conflist");
    let outside = sb.outside();
    between(sb, chain, |[(one, at_one), (_, at_two)]| {
        let mac = |ns: &Netns, name: &str| link(ns, name).unwrap()["address"].clone();
        assert_eq!(mac(one, "eth0"), mac(&sb.node(), "up0"));
        for (v6, world) in [(false, Outside::V4), (true, Outside::V6)] {
            assert!(ping(one, world) && ping(&outside.ns, &at_one.ip(v6)), "outside");
            assert!(ping(one, &at_two.ip(v6)), "one to two");
        }
    });
}

/// The container is the node's only host in VLAN 100 of the network outside.
pub(crate) fn vlan(sb: &Sandbox, chain: &Chain) {
    needs(sb, "43-vlan.conflist");
    let outside = sb.outside();
    for words in [
        "link add link eth0 name tagged type vlan id 100",
        "addr add 198.51.100.1/24 dev tagged",
        "addr add fd00:143::1/64 dev tagged nodad",
        "link set tagged up",
    ] {
        outside.ns.sh(&["ip"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());
    }
    one(sb, chain, |ns, at| {
        assert!(ping(ns, "198.51.100.1") && ping(&outside.ns, &at.ip(true)), "in the VLAN");
        assert!(ping(ns, Outside::V4), "through its gateway");
    });
}

/// Addresses of the container's own, for which nothing needs to be reached.
pub(crate) fn dummy(sb: &Sandbox, chain: &Chain) {
    needs(sb, "44-dummy.conflist");
    one(sb, chain, |ns, _| {
        let eth0 = link(ns, "eth0").unwrap();
        assert_eq!((&eth0["linkinfo"]["info_kind"], has_flag(&eth0, "UP")), (&"dummy".into(), true));
        assert_eq!(addresses(ns, "eth0"), ["10.194.0.5/32", "fd00:194::5/128"]);
    });
}

/// The node's link `storage0`, and at its other end a host with disks.
pub(crate) fn storage(sb: &Sandbox) -> Netns {
    let disks = sb.container("disks");
    for words in ["addr add 10.195.0.1/24 dev eth0", "addr add fd00:195::1/64 dev eth0 nodad", "link set eth0 up"] {
        if words.starts_with("addr add 10") {
            sb.node().sh(&["ip", "link", "add", "storage0", "type", "veth", "peer", "name", "eth0", "netns", "disks"]);
        }
        disks.sh(&["ip"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());
    }
    disks
}

/// The container has the link for itself, and the node has it back afterwards.
pub(crate) fn host_device(sb: &Sandbox, chain: &Chain) {
    let disks = storage(sb);
    let mac = link(&sb.node(), "storage0").unwrap()["address"].clone();
    one(sb, chain, |ns, _| {
        assert!(link(&sb.node(), "storage0").is_none());
        assert_eq!(link(ns, "eth0").unwrap()["address"], mac);
        assert!(ping(ns, "10.195.0.1") && ping(&disks, "fd00:195::5"));
    });
    assert_eq!(link(&sb.node(), "storage0").unwrap()["address"], mac);
}

/// A device that a program of user 107 opens, such as a virtual machine's.
pub(crate) fn tap(sb: &Sandbox, chain: &Chain) {
    between(sb, chain, |[(one, at_one), _]| {
        let eth0 = link(one, "eth0").unwrap();
        let data = &eth0["linkinfo"]["info_data"];
        assert_eq!((&data["type"], &data["multi_queue"]), (&"tap".into(), &true.into()), "{eth0}");
        assert_eq!(eth0["mtu"], 1400);
        assert!(data["user"] != serde_json::Value::Null && data["group"] != serde_json::Value::Null, "{eth0}");
        let [v4, v6] = [false, true].map(|v6| at_one.ip(v6));
        assert_eq!(addresses(one, "eth0"), [format!("{v4}/24"), format!("{v6}/64")]);
    });
}

/// Only a socket in the VRF uses the network.
pub(crate) fn vrf(sb: &Sandbox, chain: &Chain) {
    needs(sb, "47-vrf.conflist");
    one_in_vrf(sb, chain);
}

fn one_in_vrf(sb: &Sandbox, chain: &Chain) {
    one(sb, chain, |ns, _| {
        assert_eq!(link(ns, "eth0").unwrap()["master"], "blue");
        for gateway in ["10.197.0.1", "fd00:197::1"] {
            let reaches =
                |options: &[&str]| ns.holds(&[&["ping", "-n", "-q", "-c1", "-w2"], options, &[gateway]].concat());
            assert!(reaches(&["-I", "blue"]) && !reaches(&[]), "{gateway}");
        }
    });
}

/// A DHCP server on the bridge gives the address, and has it back after DEL.
pub(crate) fn dhcp(sb: &Sandbox, chain: &Chain) {
    let mut servers = Processes::new();
    servers.dnsmasq(&[]);
    let leased = || fs::read_to_string(LEASED).unwrap_or_default();
    one(sb, chain, |ns, at| {
        assert!(leased().contains(&at.ip(false)), "{}", leased());
        assert!(ping(ns, "10.9.0.1"));
    });
    assert!(!leased().contains("10.9.0.1"), "{}", leased());
}
