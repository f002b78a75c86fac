//! Names that other servers know.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use cni_tests::packets::at;
use cni_tests::{Sandbox, conf};
use serde_json::json;

use super::*;
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("another_server_answers", answers),
        improved("over_tcp_too", over_tcp),
        improved("a_dead_server_is_passed_over", dead),
        improved("a_slow_server_holds_up_nobody_else", slow),
        improved("no_server_is_an_error_in_time", none),
        improved("a_truncated_answer_is_asked_again_over_tcp", truncating),
        improved("numbers_ports_and_capitals_change", entropy),
        improved("spoofed_answers_are_ignored", spoofed),
        improved("a_server_without_capitals", no_capitals),
        improved("no_question_leaves_a_network_without_a_way_out", closed),
        improved("an_empty_list_is_no_server", empty),
        improved("the_nodes_servers", of_node),
        improved("limits_for_each_client", limits),
    ]
}

/// A question, and from where it came.
type Asked = (SocketAddr, Vec<u8>);
type Respond = fn(&[u8]) -> Option<Vec<u8>>;

/// A server on the node, with what it was asked.
struct Fake {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    over_tcp: Arc<AtomicUsize>,
}

impl Fake {
    fn start(ns: &Netns, address: &str, udp: Respond, tcp: Respond) -> Self {
        let (socket, listener) = ns.run(|| (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap()));
        let (end, asked, over_tcp) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::new(AtomicUsize::new(0)));
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (ends, log) = (Arc::clone(&end), Arc::clone(&asked));
        let datagrams = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
                let log: &Mutex<Vec<Asked>> = &log;
                log.lock().unwrap().push((peer, buffer[..length].to_vec()));
                if let Some(answer) = udp(&buffer[..length]) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        let (ends, count) = (Arc::clone(&end), Arc::clone(&over_tcp));
        let streams = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut message).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Some(answer) = tcp(&message) {
                        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                        let _ = stream.write_all(&[&length[..], &answer].concat());
                    }
                }
            }
        });
        Self { end, threads: vec![datagrams, streams], asked, over_tcp }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// The question alone, as the beginning of an answer.
fn begun(question: &[u8]) -> Vec<u8> {
    let mut answer = question[..skip_name(question, 12) + 4].to_vec();
    answer[2] |= 0x80;
    answer[6..12].fill(0);
    answer
}

/// 192.0.2.7 for every name.
fn respond(question: &[u8]) -> Option<Vec<u8>> {
    let mut answer = begun(question);
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    Some(answer)
}

fn silent(_: &[u8]) -> Option<Vec<u8>> {
    None
}

fn truncated(question: &[u8]) -> Option<Vec<u8>> {
    let mut answer = begun(question);
    answer[2] |= 2;
    Some(answer)
}

const SERVER: &str = "127.0.0.1:5399";

/// A container whose network asks there.
fn with_server(sb: &Sandbox, servers: &[&str]) -> (Chain, Container) {
    let net = chain(sb, &json!({"upstream": servers}));
    let client = run(sb, &net, "client");
    (net, client)
}

fn answers(sb: &Sandbox) {
    let _end = Reaper;
    let server = Fake::start(&sb.node(), SERVER, respond, respond);
    let (_net, client) = with_server(sb, &[SERVER]);
    let answer = ask(&client.ns, conf::V4_GATEWAY, "Far.Example", A);
    assert_eq!(
        (answer.code, answer.addresses, answer.is_authoritative),
        (SUCCESS, vec!["192.0.2.7".parse().unwrap()], false)
    );
    assert_eq!(ask(&client.ns, conf::V6_GATEWAY, "far.example", A).addresses.len(), 1);
    assert_eq!(client.ns.sh(&["dig", "+short", "FaR.example", "@10.77.0.1"]).trim(), "192.0.2.7");
    // Own names, and the domain, stay here.
    let before = server.asked().len();
    ask(&client.ns, conf::V4_GATEWAY, "client", A);
    ask(&client.ns, conf::V4_GATEWAY, "client", MX);
    ask(&client.ns, conf::V4_GATEWAY, "nobody.dns.test", A);
    ask(&client.ns, conf::V4_GATEWAY, "99.0.77.10.in-addr.arpa", PTR);
    assert_eq!(server.asked().len(), before);
}

fn over_tcp(sb: &Sandbox) {
    let _end = Reaper;
    let server = Fake::start(&sb.node(), SERVER, silent, respond);
    let (_net, client) = with_server(sb, &[SERVER]);
    assert_eq!(ask_tcp(&client.ns, conf::V4_GATEWAY, "far.example", A).addresses.len(), 1);
    assert_eq!((server.over_tcp.load(Ordering::Relaxed), server.asked().len()), (1, 0));
}

fn dead(sb: &Sandbox) {
    let _end = Reaper;
    let _server = Fake::start(&sb.node(), SERVER, respond, respond);
    let _mute = Fake::start(&sb.node(), "127.0.0.1:5398", silent, silent);
    // One refuses, one is silent, the third answers.
    let (_net, client) = with_server(sb, &["127.0.0.1:5397", "127.0.0.1:5398", SERVER]);
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "far.example", A).addresses.len(), 1);
    assert_eq!(ask_tcp(&client.ns, conf::V4_GATEWAY, "far.example", A).addresses.len(), 1);
}

fn slow(sb: &Sandbox) {
    let _end = Reaper;
    let _mute = Fake::start(&sb.node(), SERVER, silent, silent);
    let (_net, client) = with_server(sb, &[SERVER]);
    thread::scope(|scope| {
        let far = scope.spawn(|| ask(&client.ns, conf::V4_GATEWAY, "far.example", A));
        for _ in 0..20 {
            assert_eq!(found(&client.ns, "client").len(), 1);
        }
        assert!(!far.is_finished(), "own names are answered meanwhile");
        assert_eq!(far.join().unwrap().code, SERVER_FAILURE);
    });
}

fn none(sb: &Sandbox) {
    let _end = Reaper;
    let (_net, client) = with_server(sb, &["127.0.0.1:5397"]);
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "far.example", A).code, SERVER_FAILURE);
}

fn truncating(sb: &Sandbox) {
    let _end = Reaper;
    let server = Fake::start(&sb.node(), SERVER, truncated, respond);
    let (_net, client) = with_server(sb, &[SERVER]);
    assert!(ask(&client.ns, conf::V4_GATEWAY, "far.example", A).is_truncated);
    assert_eq!(client.ns.sh(&["dig", "+short", "far.example", "@10.77.0.1"]).trim(), "192.0.2.7");
    assert_eq!(server.over_tcp.load(Ordering::Relaxed), 1);
}

fn entropy(sb: &Sandbox) {
    let _end = Reaper;
    let server = Fake::start(&sb.node(), SERVER, respond, respond);
    let (_net, client) = with_server(sb, &[SERVER]);
    for _ in 0..64 {
        ask(&client.ns, conf::V4_GATEWAY, "some.name.example", A);
    }
    let asked = server.asked();
    let distinct = |of: fn(&Asked) -> Vec<u8>| asked.iter().map(of).collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct(|(from, _)| from.port().to_be_bytes().to_vec()) > 48, "ports");
    assert!(distinct(|(_, message)| message[..2].to_vec()) > 60, "numbers");
    assert!(distinct(|(_, message)| message[12..].to_vec()) > 60, "capitals");
}

/// A server that sends three wrong answers before the right one, and another host that sends the right one.
fn spoofed(sb: &Sandbox) {
    let _end = Reaper;
    let node = sb.node();
    let socket = node.run(|| UdpSocket::bind(SERVER).unwrap());
    let stranger = node.run(|| UdpSocket::bind("127.0.0.1:5396").unwrap());
    let (_net, client) = with_server(sb, &[SERVER]);
    let faking = thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, peer) = socket.recv_from(&mut buffer).unwrap();
        let with = |change: fn(&mut [u8])| {
            let mut answer = respond(&buffer[..length]).unwrap();
            *answer.last_mut().unwrap() = 66;
            change(&mut answer);
            answer
        };
        let _ = stranger.send_to(&with(|_| {}), peer);
        for wrong in
            [with(|answer| answer[0] ^= 1), with(|answer| answer[13] ^= 0x20), with(|answer| answer[2] &= 0x7f)]
        {
            socket.send_to(&wrong, peer).unwrap();
        }
        socket.send_to(&respond(&buffer[..length]).unwrap(), peer).unwrap();
    });
    let answer = ask(&client.ns, conf::V4_GATEWAY, "far.example", A);
    faking.join().unwrap();
    assert_eq!(answer.addresses, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
}

fn lower(question: &[u8]) -> Option<Vec<u8>> {
    let mut answer = respond(question)?;
    let end = begun(question).len();
    answer[12..end].make_ascii_lowercase();
    Some(answer)
}

fn no_capitals(sb: &Sandbox) {
    let _end = Reaper;
    let _server = Fake::start(&sb.node(), SERVER, lower, lower);
    let (_net, client) = with_server(sb, &[SERVER]);
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "far.example", A).addresses.len(), 1);
}

/// Alone it gets no answer from outside; a container that also has a way out does, whichever server it asks.
fn closed(sb: &Sandbox) {
    let _end = Reaper;
    let server = Fake::start(&sb.node(), SERVER, respond, respond);
    let keys = json!({"upstream": [SERVER], "intercept": true});
    let (inside, out) = (network(sb, "inside", 91, false, &keys), network(sb, "out", 92, true, &keys));
    let alone = run(sb, &inside, "alone");
    for name in ["far.example", "exfiltrated.far.example", "single", "1.2.0.192.in-addr.arpa"] {
        assert_eq!(ask(&alone.ns, "10.91.0.1", name, A).code, NO_SUCH_NAME, "{name}");
    }
    assert_eq!(ask_tcp(&alone.ns, "10.91.0.1", "far.example", A).code, NO_SUCH_NAME);
    assert!(server.asked().is_empty() && server.over_tcp.load(Ordering::Relaxed) == 0);
    assert_eq!(ask(&alone.ns, "10.91.0.1", "alone", A).addresses.len(), 1);
    out.add(sb, &mut named("alone", &alone.ns).on("eth1"));
    assert_eq!(ask(&alone.ns, "10.91.0.1", "far.example", A).addresses.len(), 1);
}

fn empty(sb: &Sandbox) {
    let _end = Reaper;
    let (_net, client) = with_server(sb, &[]);
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "far.example", A).code, NO_SUCH_NAME);
}

/// The resolver reads the node's file, here one of the sandbox's, and follows it.
fn of_node(sb: &Sandbox) {
    let _end = Reaper;
    let node = sb.node();
    node.sh(&["ip", "addr", "add", "192.0.2.53/32", "dev", "lo"]);
    let _server = Fake::start(&node, "192.0.2.53:53", respond, respond);
    fs::write("/run/resolv.conf", "nameserver 10.77.0.1\n").unwrap();
    node.sh(&["mount", "--bind", "/run/resolv.conf", "/etc/resolv.conf"]);
    let net = chain(sb, &json!({}));
    let client = run(sb, &net, "client");
    // Itself it does not ask.
    assert_eq!(ask(&client.ns, conf::V4_GATEWAY, "far.example", A).code, SERVER_FAILURE);
    fs::write("/run/resolv.conf", "nameserver 10.77.0.1\nnameserver 192.0.2.53\n").unwrap();
    let answered = || ask(&client.ns, conf::V4_GATEWAY, "far.example", A).addresses.len() == 1;
    eventually("the new server is asked", answered);
}

/// A client with many open questions gets errors for more; another one is served.
fn limits(sb: &Sandbox) {
    let _end = Reaper;
    let server = Fake::start(
        &sb.node(),
        SERVER,
        |question| (question[13] | 0x20 == b'f').then(|| respond(question)).flatten(),
        silent,
    );
    let (net, client) = with_server(sb, &[SERVER]);
    let other = run(sb, &net, "other");
    client.ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(at(conf::V4_GATEWAY, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for n in 0..200u16 {
            socket.send(&question(n, "open.example", A)).unwrap();
        }
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(read_answer(&buffer[..length]).code, SERVER_FAILURE);
    });
    assert_eq!(ask(&other.ns, conf::V4_GATEWAY, "far.example", A).addresses.len(), 1);
    assert!(server.asked().len() <= 128 * 4 + 1, "{}", server.asked().len());
}
