//! A real packet, and what the node's nf_tables trace of it.
//!
//! The rule that marks the packet for tracing is in a table of its own with the flag `owner`: the kernel removes the table when the
//! socket that made it is closed (`nft_rcv_nl_event`). The socket is that of an interactive `nft`, which ends when this process
//! does, for whatever reason, because its stdin is closed then. So the rule can't stay.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use cni_net::{NetNs, NetNsError};
use cni_plugin::Protocol;

use crate::ReachError;
use crate::packet::Packet;
use crate::question::{Origin, Question, Start, resolve};
use crate::world::World;

/// How long the tracer may take to be ready, and the answer to come.
const READY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two signs of life of the tracer.
const TICK: Duration = Duration::from_millis(100);
/// The last lines of a trace follow the packet within this.
const REST: Duration = Duration::from_millis(300);
/// The tracer ends by itself after so many seconds, should this process be killed.
const LONGEST: &str = "30";
/// Before any other rule, connection tracking included.
const FIRST: i32 = -450;

/// What a probe showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// A TCP connection was made, or a datagram answered.
    pub answered: bool,
    /// How sending ended: `connected`, or the error of the socket.
    pub outcome: String,
    /// What `nft monitor` printed of the first packet at the node's IP hooks: a line for each rule and policy that decided. Empty if
    /// it passed none of them (two containers of a bridge without `br_netfilter`).
    pub trace: Vec<String>,
}

/// Sends one packet from the question's place: a TCP connection, which is closed at once, or a UDP datagram without content. Needs
/// `nft` and `timeout`; for the time of the probe the node has a table `inet cni_why_PID`, which nothing can leave behind.
///
/// # Errors
/// [`ReachError::Probe`] if the question has no port, starts outside, is about SCTP, or the tools fail.
pub fn probe(question: &Question) -> Result<Probe, ReachError> {
    let world = World::read()?;
    let failed = |why: &str| ReachError::Probe { from: question.from.to_string(), why: why.to_owned() };
    let Start::Here(Origin::Program(from), packet, _) = resolve(&world, question)? else {
        return Err(failed("it can't be sent from there"));
    };
    let protocol = packet.protocol.filter(|protocol| *protocol != Protocol::Sctp);
    let Some(protocol) = protocol else { return Err(failed("a TCP or UDP port is needed")) };
    let tracer = Tracer::start(&world.node.netns, &packet, protocol).map_err(|why| failed(&why))?;
    let sent = from.netns.run(|| send(protocol, packet.src, packet.dst))?;
    let outcome = sent.as_ref().err().map_or_else(|| "connected".to_owned(), ToString::to_string);
    Ok(Probe { answered: sent.is_ok(), outcome, trace: tracer.trace() })
}

fn send(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> std::io::Result<()> {
    if protocol == Protocol::Tcp {
        return TcpStream::connect_timeout(&to, PATIENCE).map(drop);
    }
    let socket = UdpSocket::bind(SocketAddr::new(from.ip(), 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&[])?;
    socket.recv(&mut [0; 1500]).map(drop)
}

/// A rule that traces, and a tool that shows it.
struct Tracer {
    table: String,
    owner: Running,
    _monitor: Running,
    lines: Receiver<String>,
}

/// A child that is ended with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Closed stdin ends an interactive nft, and so its table; `timeout` hands SIGTERM on.
        drop(self.0.stdin.take());
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // An error: it has ended.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

impl Tracer {
    /// Returns when the packet would be traced.
    fn start(node: &NetNs, packet: &Packet, protocol: Protocol) -> Result<Self, String> {
        let table = format!("cni_why_{}", std::process::id());
        let mut monitor = spawn(node, &["timeout", LONGEST, "nft", "monitor"], Stdio::null(), Stdio::piped())?;
        let lines = lines_of(&mut monitor.0);
        let owner = spawn(node, &["nft", "-i"], Stdio::piped(), Stdio::null())?;
        let mut tracer = Self { table, owner, _monitor: monitor, lines };
        tracer.tell(&rules(&tracer.table, packet, protocol))?;
        let end = Instant::now() + READY;
        for number in 0.. {
            // The tracer shows changes too: once it shows one, it shows the packet.
            tracer.tell(&format!("add chain inet {} ready{number}\n", tracer.table))?;
            match tracer.lines.recv_timeout(TICK) {
                Ok(line) if line.contains(&tracer.table) && line.contains("ready") => return Ok(tracer),
                Err(RecvTimeoutError::Disconnected) => return Err("nft monitor has ended".to_owned()),
                _ if Instant::now() > end => break,
                _ => {}
            }
        }
        Err(format!(
            "nft traced nothing within {READY:?}: does it know tables with the flag owner (nftables 0.9.9, Linux 5.12)?"
        ))
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        let stdin = self.owner.0.stdin.as_mut().ok_or("nft has no stdin")?;
        stdin.write_all(line.as_bytes()).map_err(|error| format!("nft: {error}"))
    }

    /// The lines about the first packet, without those of the tracing rule itself.
    fn trace(self) -> Vec<String> {
        let mut first: Option<String> = None;
        let mut found = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(REST) {
            let Some(rest) = line.strip_prefix("trace id ") else { continue };
            let Some((id, what)) = rest.split_once(' ') else { continue };
            let is_first = first.get_or_insert_with(|| id.to_owned()) == id;
            // Each chain repeats what the packet looks like; once is enough.
            let is_repeated = what.contains(" packet: ") && !found.is_empty();
            if is_first && !is_repeated && !what.contains(&self.table) {
                found.push(what.trim().to_owned());
            }
        }
        found
    }
}

fn rules(table: &str, packet: &Packet, protocol: Protocol) -> String {
    let ip = if packet.dst.is_ipv4() { "ip" } else { "ip6" };
    let (to, port) = (packet.dst.ip(), packet.dst.port());
    // Without the end of the connection, which has the same trace ID.
    let first = if protocol == Protocol::Tcp { "tcp flags & (syn | ack) == syn " } else { "" };
    let mut text = format!("add table inet {table} {{ flags owner; }}\n");
    for hook in ["prerouting", "output"] {
        text.push_str(&format!(
            "add chain inet {table} {hook} {{ type filter hook {hook} priority {FIRST}; }}\n\
             add rule inet {table} {hook} {ip} daddr {to} {protocol} dport {port} {first}meta nftrace set 1\n"
        ));
    }
    text
}

fn spawn(node: &NetNs, words: &[&str], stdin: Stdio, stdout: Stdio) -> Result<Running, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("no program".to_owned()) };
    let start = || Command::new(program).args(arguments).stdin(stdin).stdout(stdout).stderr(Stdio::null()).spawn();
    let child = node.run(start).map_err(|error: NetNsError| error.to_string())?;
    child.map(Running).map_err(|error| format!("{program}: {error}"))
}

/// What the child prints, a line at a time; the thread ends with the child.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}
