//! `reload`: the packet filter was flushed; everything works again, and a download that runs through it goes on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Netns, Sandbox, rules};
use serde_json::json;

use super::{address, call, cninet, network, printed};
use crate::case::{Case, improved};

/// All cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let nft: &[&str] = &["nft flush ruleset"];
    let iptables: &[&str] = &[
        "iptables -F",
        "iptables -t nat -F",
        "iptables -t nat -X",
        "iptables -X",
        "ip6tables -F",
        "ip6tables -t nat -F",
        "ip6tables -t nat -X",
    ];
    let mut cases = Vec::new();
    for (backend, name, flush) in [
        ("nftables", "after_nft_flush_ruleset", nft),
        ("iptables", "after_nft_flush_ruleset", nft),
        ("iptables", "after_iptables_flush", iptables),
        ("iptables", "after_iptables_flush_of_filter", &iptables[..1]),
    ] {
        cases.push(improved(format!("{backend}::{name}"), move |sb| flushed(sb, backend, flush)));
    }
    cases.push(improved("versions_without_check", without_check));
    cases.push(improved("one_that_fails_does_not_keep_the_others", goes_on));
    cases
}

fn publish(sb: &Sandbox, number: u8, backend: &str, id: &str, port: u16) -> Netns {
    let chained = [
        json!({"type": "portmap", "backend": backend, "capabilities": {"portMappings": true}}),
        json!({"type": "firewall", "backend": backend}),
    ];
    network("red", number, &json!({"ipMasq": true, "ipMasqBackend": backend}), &chained);
    let ns = sb.container(id);
    let args = json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]});
    call(sb, &["add", "red", &ns.path(), "--id", id]).env("CAP_ARGS", &args.to_string()).run().result();
    ns
}

/// Sends slowly, for about three seconds, to the first client; returns how much.
fn send_slowly(ns: &Netns, port: u16) -> thread::JoinHandle<usize> {
    let listener = ns.run(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        (0..60)
            .map(|_| {
                thread::sleep(Duration::from_millis(50));
                stream.write_all(&[7; 4096]).map_or(0, |()| 4096)
            })
            .sum()
    })
}

fn flushed(sb: &Sandbox, backend: &str, flush: &[&str]) {
    let outside = sb.outside();
    let ns = publish(sb, 91, backend, "c1", 8081);
    let other = publish(sb, 91, backend, "c2", 8082);
    let _server = Server::start(&other, "two", 80);
    let _world = Server::start(&outside.ns, "world", 7000);
    // As on many a node: what nobody has accepted is dropped.
    if backend == "iptables" {
        sb.node().sh(&["iptables", "-P", "FORWARD", "DROP"]);
    }
    let sender = send_slowly(&ns, 80);
    let mut stream =
        outside.ns.run(|| TcpStream::connect_timeout(&at(Outside::NODE_V4, 8081), Duration::from_secs(10)).unwrap());
    let reader = thread::spawn(move || {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).map(|_| text.len()).unwrap_or_default()
    });
    thread::sleep(Duration::from_millis(300));
    for line in flush {
        sb.node().sh(&line.split(' ').collect::<Vec<_>>());
    }
    if flush.len() > 1 || flush[0].starts_with("nft") {
        assert!(silent(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8082)), "nothing is published any more");
    }
    let said = cninet(sb, &["reload"]);
    assert!(said.ok() && said.stdout.ends_with("2 repaired, 0 were whole\n"), "{said}");
    assert_eq!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8082)).unwrap(), format!("two {}", Outside::V4));
    assert_eq!(ask(&ns, Proto::Tcp, at(Outside::V4, 7000)).unwrap(), format!("world {}", Outside::NODE_V4));
    assert_eq!((reader.join().unwrap(), sender.join().unwrap()), (60 * 4096, 60 * 4096), "the download goes on");
    for (ns, id) in [(&ns, "c1"), (&other, "c2")] {
        printed(sb, &["check", "red", &ns.path(), "--id", id]);
    }
    let whole = rules::all(&sb.node());
    assert_eq!(printed(sb, &["reload", "red"]), "0 repaired, 2 were whole\n");
    assert_eq!(rules::all(&sb.node()), whole, "what is whole is not touched");
    assert_eq!(address(sb, "red", "c1"), "10.91.0.2");
}

/// Podman's networks were at 0.3.1 once: portmap and firewall are run again without being asked.
fn without_check(sb: &Sandbox) {
    network(
        "red",
        92,
        &json!({"ipMasq": true, "ipMasqBackend": "nftables"}),
        &[json!({"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}})],
    );
    let path = std::path::Path::new(super::NETWORKS).join("red.conflist");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("1.1.0", "0.3.1")).unwrap();
    let ns = sb.container("c1");
    let args = json!({"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]});
    call(sb, &["add", "red", &ns.path(), "--id", "c1"]).env("CAP_ARGS", &args.to_string()).run().result();
    let _server = Server::start(&ns, "one", 80);
    sb.node().sh(&["nft", "flush", "ruleset"]);
    assert!(cninet(sb, &["reload"]).ok());
    let outside = sb.outside();
    assert_eq!(ask(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8081)).unwrap(), format!("one {}", Outside::V4));
}

fn goes_on(sb: &Sandbox) {
    let ns = publish(sb, 93, "nftables", "c1", 8081);
    let other = publish(sb, 93, "nftables", "c2", 8082);
    sb.node().sh(&["nft", "flush", "ruleset"]);
    // Its cached configuration names a plugin that isn't there any more.
    let file = std::path::Path::new(super::CACHE).join("red-c1-eth0");
    let text = std::fs::read_to_string(&file).unwrap().replace("\"config\":\"", "\"config\":\"!");
    std::fs::write(&file, text).unwrap();
    std::fs::remove_file(std::path::Path::new(super::NETWORKS).join("red.conflist")).unwrap();
    let said = cninet(sb, &["reload"]);
    assert!(
        said.code == Some(1) && said.stdout.contains("1 repaired") && said.stderr.contains("container c1"),
        "{said}"
    );
    drop((ns, other));
}
