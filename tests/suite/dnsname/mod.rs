//! dnsname: containers of a network find each other by name.

pub(crate) mod life;
pub(crate) mod names;
pub(crate) mod redirect;
pub(crate) mod resolver;
pub(crate) mod upstream;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cni_tests::{Attachment, Chain, Netns, Sandbox, conf};
use serde_json::{Value, json};

const A: u16 = 1;
const PTR: u16 = 12;
const MX: u16 = 15;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Where the plugin keeps the names.
const STATE: &str = "/run/cni/dnsname";

fn with(keys: &Value) -> Value {
    let mut conf = json!({"type": "dnsname", "domainName": "dns.test", "capabilities": {"aliases": true}});
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

/// The usual bridge with dnsname behind it.
fn chain(sb: &Sandbox, keys: &Value) -> Chain {
    Chain::new("net", sb.newest(&["bridge", "host-local", "dnsname"]), &[conf::bridge(), with(keys)])
}

/// Another network on a bridge of its own, of subnet `10.N.0.0/24`, with or without a way out.
fn network(sb: &Sandbox, name: &str, n: u8, has_way_out: bool, keys: &Value) -> Chain {
    let mut ipam = json!({"type": "host-local", "ranges": [[{"subnet": format!("10.{n}.0.0/24")}]]});
    if has_way_out {
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    }
    let bridge = json!({"type": "bridge", "bridge": format!("br-{name}"), "isGateway": true, "ipam": ipam});
    Chain::new(name, sb.newest(&["bridge", "host-local", "dnsname"]), &[bridge, with(keys)])
}

/// A container with its name, as runtimes give it.
fn named(id: &str, ns: &Netns) -> Attachment {
    Attachment { args: Some(format!("IgnoreUnknown=1;K8S_POD_NAME={id}")), ..Attachment::new(id, ns) }
}

/// A container that is attached.
struct Container {
    ns: Netns,
    at: Attachment,
}

fn run(sb: &Sandbox, chain: &Chain, id: &str) -> Container {
    let ns = sb.container(id);
    let mut at = named(id, &ns);
    chain.add(sb, &mut at);
    Container { ns, at }
}

/// Ends what a case that fails would leave: the resolver of the node that the thread is in.
pub(crate) struct Reaper;

impl Drop for Reaper {
    fn drop(&mut self) {
        resolvers().into_iter().for_each(|pid| drop(signal(pid, "KILL")));
    }
}

fn signal(pid: u32, name: &str) -> std::process::Output {
    std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).output().unwrap()
}

/// The resolvers in the calling thread's network namespace.
pub(crate) fn resolvers() -> Vec<u32> {
    let own = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_here = fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.ino() == own);
        words.split('\0').nth(1) == Some("resolver") && is_here
    };
    processes.filter(is_one).collect()
}

/// Waits until it holds, for what the kernel or a process does by itself.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        sleep(Duration::from_millis(5));
    }
}

/// An answer, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    code: u8,
    is_authoritative: bool,
    is_truncated: bool,
    ttls: Vec<u32>,
    addresses: Vec<IpAddr>,
    records: usize,
}

const SUCCESS: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const REFUSED: u8 = 5;

/// A question of RFC 1035, recursion desired.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&[kind.to_be_bytes(), [0, 1]].concat());
    message
}

fn skip_name(message: &[u8], mut at: usize) -> usize {
    loop {
        match message[at] {
            0 => return at + 1,
            length if length >= 0xc0 => return at + 2,
            length => at += 1 + usize::from(length),
        }
    }
}

fn read_answer(message: &[u8]) -> Answer {
    let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let records = usize::from(number(6));
    let mut answer = Answer {
        code: message[3] & 0xf,
        is_authoritative: message[2] & 4 != 0,
        is_truncated: message[2] & 2 != 0,
        ttls: Vec::new(),
        addresses: Vec::new(),
        records,
    };
    let mut at = if number(4) == 1 { skip_name(message, 12) + 4 } else { 12 };
    for _ in 0..records {
        at = skip_name(message, at);
        let (kind, length) = (number(at), usize::from(number(at + 8)));
        answer.ttls.push(u32::from_be_bytes(message[at + 4..at + 8].try_into().unwrap()));
        let data = &message[at + 10..at + 10 + length];
        match kind {
            A => answer.addresses.push(<[u8; 4]>::try_from(data).unwrap().into()),
            AAAA => answer.addresses.push(<[u8; 16]>::try_from(data).unwrap().into()),
            _ => {}
        }
        at += 10 + length;
    }
    answer.addresses.sort_unstable();
    answer
}

/// Asks once over UDP; `None` without an answer in time.
fn try_ask(ns: &Netns, server: SocketAddr, name: &str, kind: u16, patience: Duration) -> Option<Answer> {
    ns.run(|| {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(server).ok()?;
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send(&question(0x1234, name, kind)).ok()?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        assert_eq!(buffer[..2], [0x12, 0x34], "the question's number");
        Some(read_answer(&buffer[..length]))
    })
}

/// Asks port 53 of a server; there must be an answer.
fn ask(ns: &Netns, server: &str, name: &str, kind: u16) -> Answer {
    let to = SocketAddr::new(server.parse().unwrap(), 53);
    let answer = try_ask(ns, to, name, kind, Duration::from_secs(20));
    answer.unwrap_or_else(|| panic!("{server} does not answer {name} in {}", ns.name))
}

/// The same over TCP.
fn ask_tcp(ns: &Netns, server: &str, name: &str, kind: u16) -> Answer {
    ns.run(|| {
        let mut stream = TcpStream::connect((server, 53)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let message = question(0x1234, name, kind);
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &message].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        read_answer(&answer)
    })
}

/// The addresses that a name has, asked at the usual gateway.
fn found(ns: &Netns, name: &str) -> Vec<String> {
    ask(ns, conf::V4_GATEWAY, name, A).addresses.iter().map(ToString::to_string).collect()
}
