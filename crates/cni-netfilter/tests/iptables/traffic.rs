//! What the iptables backend's rules do to packets, in both variants of the tools.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::inside::*;
use cni_netfilter::iptables::Iptables;
use cni_plugin::Protocol;

/// A container `c1` behind `veth1`, with 10.9.0.2/24 and the node's 10.9.0.1 as its gateway, and a server in it that
/// answers each connection to port 80 with the address it came from.
fn container() {
    std::fs::create_dir_all("/run/netns").unwrap();
    for command in [
        "ip netns add c1",
        "ip link add veth1 type veth peer name eth0 netns c1",
        "ip addr add 10.9.0.1/24 dev veth1",
        "ip link set veth1 up",
        "ip -n c1 addr add 10.9.0.2/24 dev eth0",
        "ip -n c1 link set eth0 up",
        "ip -n c1 link set lo up",
        "ip -n c1 route add default via 10.9.0.1",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.veth1.route_localnet=1 net.ipv4.conf.veth1.rp_filter=0",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        run(words[0], &words[1..]);
    }
    run(
        "sh",
        &["-c", "ip netns exec c1 socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:'echo $SOCAT_PEERADDR' >/dev/null 2>&1 &"],
    );
    for _ in 0..100 {
        if TcpStream::connect("10.9.0.2:80").is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the server in the container doesn't answer");
}

fn answer(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(700)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// True if the container can connect to `address`.
fn reaches(address: &str, port: &str) -> bool {
    let args = ["netns", "exec", "c1", "nc", "-z", "-w", "1", address, port];
    std::process::Command::new("ip").args(args).status().unwrap().success()
}

fn stop() {
    run("sh", &["-c", "ip netns pids c1 | xargs -r kill"]);
}

#[test]
fn published_ports_answer_and_the_loopback_stays_closed() {
    in_either_variant("traffic::published_ports_answer_and_the_loopback_stays_closed", || {
        container();
        let (tools, me) = (Iptables::find().unwrap(), owner("c1", "eth0"));
        let listener = TcpListener::bind("127.0.0.1:9100").unwrap();
        thread::spawn(move || listener.incoming().for_each(|stream| drop(stream.unwrap().write(b"x"))));
        // A container that sends what is for the loopback to the node.
        for command in [
            "ip -n c1 rule add pref 1 to 127.0.0.0/8 lookup 99",
            "ip -n c1 rule add pref 100 lookup local",
            "ip -n c1 rule del pref 0",
            "ip -n c1 route add 127.0.0.1 via 10.9.0.1 dev eth0 src 10.9.0.2 table 99",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            run(words[0], &words[1..]);
        }
        run(
            "ip",
            &[
                "netns",
                "exec",
                "c1",
                "sysctl",
                "-qw",
                "net.ipv4.conf.eth0.route_localnet=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.eth0.rp_filter=0",
            ],
        );
        assert!(reaches("127.0.0.1", "9100"), "route_localnet alone opens the loopback");

        let intent = ports(&me, "10.9.0.2/24", vec![port(Protocol::Tcp, 8080, "10.9.0.2:80")]);
        tools.add_localnet_guard().unwrap();
        assert!(answer("127.0.0.1:8080").is_none());
        tools.add_ports(std::slice::from_ref(&intent)).unwrap();
        assert!(!reaches("127.0.0.1", "9100"), "the guard closes it");
        assert_eq!(answer("127.0.0.1:8080").as_deref(), Some("10.9.0.1"), "with the node's address as its source");
        assert_eq!(answer("10.9.0.1:8080").as_deref(), Some("10.9.0.1"));
        assert!(reaches("10.9.0.1", "8080"), "the container reaches itself");

        tools.remove_ports(&me, &[intent]).unwrap();
        assert!(answer("10.9.0.1:8080").is_none());
        assert!(!reaches("127.0.0.1", "9100"), "the guard stays");
        stop();
    });
}

#[test]
fn what_leaves_the_subnet_is_masqueraded() {
    in_either_variant("traffic::what_leaves_the_subnet_is_masqueraded", || {
        container();
        std::fs::create_dir_all("/run/netns").unwrap();
        for command in [
            "ip netns add out",
            "ip link add veth2 type veth peer name eth0 netns out",
            "ip addr add 192.0.2.1/24 dev veth2",
            "ip link set veth2 up",
            "ip -n out addr add 192.0.2.2/24 dev eth0",
            "ip -n out link set eth0 up",
            "ip -n out route add default via 192.0.2.1",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            run(words[0], &words[1..]);
        }
        run(
            "sh",
            &[
                "-c",
                "ip netns exec out socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:'echo $SOCAT_PEERADDR' >/dev/null 2>&1 &",
            ],
        );
        while answer("192.0.2.2:80").is_none() {
            thread::sleep(Duration::from_millis(20));
        }
        let source =
            || run("ip", &["netns", "exec", "c1", "socat", "-t2", "-u", "TCP:192.0.2.2:80", "-"]).trim().to_owned();
        assert_eq!(source(), "10.9.0.2");
        let (tools, me) = (Iptables::find().unwrap(), owner("c1", "eth0"));
        tools.add_masquerade(&[masquerade(&me, "10.9.0.2/24")]).unwrap();
        assert_eq!(source(), "192.0.2.1");
        tools.remove_masquerade(&me, &["10.9.0.2/24".parse().unwrap()]).unwrap();
        assert_eq!(source(), "10.9.0.2");
        stop();
        run("sh", &["-c", "ip netns pids out | xargs -r kill"]);
    });
}
