//! Addresses in whatever namespace of the node.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use std::process::Command;

use cni_net::{Netlink, addresses_in_all_namespaces};
use common::{namespace, run, veth};

private_tests! {
    fn addresses_are_found_here_behind_links_and_where_processes_live() {
        let netlink = Netlink::open().unwrap();
        let has = |ip: &str| addresses_in_all_namespaces(&netlink).unwrap().contains(&ip.parse().unwrap());
        run("ip addr add 198.18.77.1/32 dev lo");
        assert!(has("198.18.77.1"));

        // Only the link's other end tells of it: no name, no process.
        let blue = namespace("blue");
        netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap();
        run("ip -n blue addr add 198.18.77.2/24 dev eth0");
        run("ip -n blue addr add 2001:db8:77::2/64 dev eth0");
        run("ip netns del blue");
        assert!(has("198.18.77.2") && has("2001:db8:77::2"));

        // Only a process tells of it.
        namespace("red");
        run("ip -n red addr add 198.18.77.3/32 dev lo");
        let mut process = Command::new("ip").args(["netns", "exec", "red", "sleep", "1000"]).spawn().unwrap();
        let is_inside = || std::fs::read(format!("/proc/{}/comm", process.id())).is_ok_and(|name| name == b"sleep\n");
        while !is_inside() {
            std::thread::yield_now();
        }
        run("ip netns del red");
        let found = has("198.18.77.3");
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(found);
        assert!(!has("198.18.77.3") && !has("198.18.77.9"));
    }
}
