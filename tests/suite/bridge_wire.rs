//! bridge: what is seen on the wire: announcements of a new container's addresses, and what router advertisements do not do.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cni_tests::kernel::{addresses, routes, sysctl};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Netns, Sandbox};
use serde_json::Value;

use crate::bridge::alone;
use crate::case::{Case, common, improved};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("bridge::announces_its_addresses", announced),
        improved("bridge::announces_its_addresses_after_a_slow_ipam", announced_late),
        improved("bridge::a_new_gateway_answers_at_once", new_gateway),
        improved("bridge::reused_address_works_at_once", reused),
        improved("bridge::router_advertisements_during_add_change_nothing", flood),
        improved("bridge::accept_ra_is_off_on_both_sides", accept_ra),
        improved("bridge::key_enabledad_detects_a_duplicate", duplicate),
        common("bridge::key_enabledad_waits", dad),
    ]
}

/// `tcpdump` in a namespace, until it has seen `count` packets of a kind.
fn listen(ns: &Netns, link: &str, filter: &str) -> Child {
    let words = ["-n", "-l", "-e", "-i", link, "--immediate-mode", "-Z", "root", filter];
    let mut child = ns
        .run(|| Command::new("tcpdump").args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
        .expect("tcpdump");
    // It says when it listens.
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    while !said.contains("listening") {
        let mut byte = [0];
        if stderr.read(&mut byte).unwrap_or(0) == 0 {
            panic!("tcpdump: {said}");
        }
        said.push(char::from(byte[0]));
    }
    // It has more to say, and a closed pipe would end it.
    child.stderr = Some(stderr);
    child
}

/// What has been heard once all of `wanted` was, each of them a line's words; or after some seconds.
fn heard(mut child: Child, wanted: &[&[&str]]) -> String {
    let stdout = child.stdout.take().unwrap();
    let (lines, received) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    let mut text = String::new();
    let is_in = |text: &str, words: &&[&str]| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    while !wanted.iter().all(|words| is_in(&text, words)) {
        let Ok(line) = received.recv_timeout(Duration::from_secs(5)) else { break };
        text += &(line + "\n");
    }
    drop(received);
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    text
}

/// Attaches `c1` beside a neighbour, which must hear a gratuitous ARP and an unsolicited neighbour advertisement.
fn announced_by(sb: &Sandbox, chain: &Chain) {
    let neighbour = sb.container("n");
    chain.add(sb, &mut Attachment::new("n", &neighbour));
    let ears = listen(&neighbour, "eth0", "arp or (icmp6 and ip6[40] == 136)");
    let mut at = Attachment::new("c1", &sb.container("c1"));
    let result = chain.add(sb, &mut at);
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    let (v4, v6) = (at.ip(false), at.ip(true));
    let arp = [mac, "ff:ff:ff:ff:ff:ff", "ARP", &v4];
    let advertisement = [mac, "advertisement", &v6];
    let text = heard(ears, &[&arp, &advertisement]);
    for words in [&arp[..], &advertisement] {
        let said = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(said, "nobody heard {words:?}: {text}");
    }
}

fn announced(sb: &Sandbox) {
    announced_by(sb, &alone(sb, |_| ()));
}

/// The kernel looks at new links' carriers once a second: by then the new port has been found without one, and drops
/// what the container sends as its end goes up.
fn announced_late(sb: &Sandbox) {
    announced_by(sb, &slow(sb));
}

fn slow(sb: &Sandbox) -> Chain {
    let host_local = sb.dir().join("host-local").display().to_string();
    sb.fake("slow", &format!("[ $CNI_COMMAND != ADD ] || sleep 1.5; exec {host_local}"));
    alone(sb, |conf| conf["ipam"]["type"] = "slow".into())
}

/// The first packet after the first ADD, both ways: the kernel notices a new bridge's carrier late.
fn new_gateway(sb: &Sandbox) {
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    slow(sb).add(sb, &mut at);
    let local = sb.node().sh(&["ip", "-6", "route", "show", "table", "local"]);
    assert!(local.contains("local fd00:77::1 "), "{local}");
    let first = ["ping", "-n", "-q", "-c", "1", "-W", "1"];
    assert!(ns.holds(&[&first[..], &["fd00:77::1"]].concat()), "from the container");
    assert!(sb.node().holds(&[&first[..], &[&at.ip(true)]].concat()), "from the node");
}

/// A neighbour that knows an address's old owner reaches the new one with its next packet.
fn reused(sb: &Sandbox) {
    let one_address = |conf: &mut Value| {
        conf["ipam"]["ranges"] = serde_json::json!([
            [{"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.2", "rangeEnd": "10.77.0.3"}],
            [{"subnet": "fd00:77::/64", "rangeStart": "fd00:77::2", "rangeEnd": "fd00:77::3"}]
        ]);
    };
    let chain = alone(sb, one_address);
    let neighbour = sb.container("n");
    chain.add(sb, &mut Attachment::new("n", &neighbour));
    let mut old = Attachment::new("old", &sb.container("old"));
    chain.add(sb, &mut old);
    let (v4, v6) = (old.ip(false), old.ip(true));
    assert!(ping(&neighbour, &v4) && ping(&neighbour, &v6));
    chain.del(sb, &old);
    let mut new = Attachment::new("new", &sb.container("new"));
    chain.add(sb, &mut new);
    assert_eq!((new.ip(false), new.ip(true)), (v4.clone(), v6.clone()));
    for to in [v4, v6] {
        assert!(neighbour.holds(&["ping", "-n", "-q", "-c", "1", "-W", "1", &to]), "{to} with the first packet");
    }
}

/// A router advertisement for 2001:db8:bad::/64, default route and all, with its checksum (RFC 4861, 4.2 and 4.6).
fn advertisement() -> Vec<u8> {
    let mut body = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // Source link-layer address 0a:00:00:00:00:66.
    body.extend([1, 1, 0x0a, 0, 0, 0, 0, 0x66]);
    body.extend([3, 4, 64, 0xc0, 0, 0x27, 0x8d, 0, 0, 0x09, 0x3a, 0x80, 0, 0, 0, 0]);
    body.extend([0x20, 1, 0x0d, 0xb8, 0x0b, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    body
}

/// Sends advertisements from the attacker's interface until told to stop: the kernel computes their checksum.
pub(crate) fn send_advertisements(attacker: &Netns, stop: &AtomicBool) {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn6, sendto, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd as _;
    attacker.run(|| {
        let fd = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), nix::sys::socket::SockProtocol::IcmpV6)
            .expect("raw socket");
        // RFC 4861, 6.1.2: others drop what came over a router.
        setsockopt(&fd, sockopt::Ipv6MulticastHops, &255).expect("hop limit");
        let index = nix::net::if_::if_nametoindex("eth0").expect("eth0");
        let to = SockaddrIn6::from(std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index));
        while !stop.load(Ordering::Relaxed) {
            let _ = sendto(fd.as_raw_fd(), &advertisement(), &to, MsgFlags::empty());
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn flood(sb: &Sandbox) {
    let (node, chain) = (sb.node(), alone(sb, |_| ()));
    let attacker = sb.container("attacker");
    chain.add(sb, &mut Attachment::new("attacker", &attacker));
    // Raw sockets need a link-local address as the source; nothing else is special about the attacker.
    let node_before = addresses(&node, "br-test");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| send_advertisements(&attacker, &stop));
        // The sender ends with the case, however that ends.
        let _ended = Ends(&stop);
        for n in 0..5 {
            let ns = sb.container(&format!("c{n}"));
            let v4_only = n == 4;
            let chain = alone(sb, |conf| {
                if v4_only {
                    conf["ipam"] = serde_json::json!({"type": "host-local", "subnet": "10.77.0.0/24"});
                }
            });
            chain.add(sb, &mut Attachment::new(&ns.name, &ns));
            std::thread::sleep(Duration::from_millis(60));
            let found = addresses(&ns, "eth0");
            assert!(found.iter().all(|address| !address.contains("bad")), "{found:?}");
            let via: Vec<_> = routes(&ns, "-6").iter().filter(|r| r["protocol"] == "ra").cloned().collect();
            assert!(via.is_empty(), "{via:?}");
        }
    });
    assert_eq!(addresses(&node, "br-test"), node_before);
    assert!(routes(&node, "-6").iter().all(|route| route["protocol"] != "ra"));
}

fn accept_ra(sb: &Sandbox) {
    let ns = sb.container("c1");
    let result = alone(sb, |_| ()).add(sb, &mut Attachment::new("c1", &ns));
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    for (place, name) in [(&sb.node(), "br-test"), (&sb.node(), port), (&ns, "eth0")] {
        assert_eq!(sysctl(place, &format!("ipv6/conf/{name}/accept_ra")).as_deref(), Some("0"), "{name}");
    }
}

fn with_dad(conf: &mut Value) {
    conf["enabledad"] = true.into();
}

fn dad(sb: &Sandbox) {
    let ns = sb.container("c1");
    alone(sb, with_dad).add(sb, &mut Attachment::new("c1", &ns));
    assert_eq!(sysctl(&ns, "ipv6/conf/eth0/accept_dad").as_deref(), Some("1"));
    let shown = ns.sh(&["ip", "-6", "addr", "show", "dev", "eth0", "scope", "global"]);
    assert!(shown.contains("fd00:77::2") && !shown.contains("tentative"), "{shown}");
}

/// Somebody on the bridge has the address that IPAM gives.
fn duplicate(sb: &Sandbox) {
    let thief = sb.container("thief");
    alone(sb, |_| ()).add(sb, &mut Attachment::new("thief", &thief));
    thief.sh(&["ip", "addr", "add", "fd00:77::3/64", "dev", "eth0", "nodad"]);
    let ns = sb.container("c1");
    let failed = alone(sb, with_dad).try_add(sb, &mut Attachment::new("c1", &ns));
    failed.expect_err("a duplicate").error();
}
