//! A container's lookup of a name: this project's `dnsname` beside dnsmasq and aardvark-dns, interleaved, with the same names; what an
//! ADD costs; how much memory the names take; and how long nobody answers when the resolver is killed.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cni_tests::{Attachment, Chain, Netns, Sandbox};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::statistics::{Sample, ms, row};

/// Debian's place.
const AARDVARK: &str = "/usr/lib/podman/aardvark-dns";
const STATE: &str = "/run/cni/dnsname";
/// Ours at the gateway, the others at addresses of their own.
const SERVERS: [(&str, &str); 3] =
    [("dnsname", "10.78.0.1:53"), ("dnsmasq", "10.78.0.2:53"), ("aardvark-dns", "10.78.0.3:53")];
/// A word of each one's command line.
const RESOLVERS: [(&str, &str); 3] =
    [("dnsname", "\0resolver"), ("dnsmasq", "dnsmasq"), ("aardvark-dns", "aardvark-dns")];
/// Lookups in one turn.
const TURN: usize = 50;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Turns of 50 lookups each.
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// How many names there are.
    #[arg(long, default_value_t = 10_000)]
    names: u32,
    /// The directory of plugins.
    dir: std::path::PathBuf,
}

pub(crate) fn run(options: &Options) {
    Sandbox::run(&options.dir, |sb| measure(sb, options)).unwrap();
}

fn measure(sb: &Sandbox, options: &Options) {
    let ipam = json!({"type": "host-local", "subnet": "10.78.0.0/16", "rangeStart": "10.78.200.1"});
    let bridge = json!({"type": "bridge", "bridge": "br-names", "isDefaultGateway": true, "ipam": ipam});
    let net = Chain::new("net", "1.0.0", &[bridge, json!({"type": "dnsname"})]);
    let (node, ns) = (sb.node(), sb.container("client"));
    let mut at = named("client", &ns);
    net.add(sb, &mut at);
    add_cost(sb, &net, &at);
    populate(options.names);
    for other in ["10.78.0.2/16", "10.78.0.3/16"] {
        node.sh(&["ip", "addr", "add", other, "dev", "br-names"]);
    }
    let others = [Daemon(dnsmasq(options.names)), Daemon(aardvark(options.names, &at.ip(false)))];
    lookups(&ns, options);
    memory(options.names);
    outage(sb, &net, &at, &ns);
    net.del(sb, &at);
    drop(others);
}

/// A server, which ends with the measurement, also with one that fails.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
        // What it has started, and the resolvers of ours.
        pids(|words| ["aardvark-dns", "\0resolver"].iter().any(|word| words.contains(word))).into_iter().for_each(kill);
    }
}

fn named(id: &str, ns: &Netns) -> Attachment {
    Attachment { args: Some(format!("IgnoreUnknown=1;K8S_POD_NAME={id}")), ..Attachment::new(id, ns) }
}

/// ADD and DEL of dnsname alone: with the resolver running, and as the only container.
fn add_cost(sb: &Sandbox, net: &Chain, at: &Attachment) {
    let own: Value = net.plugins()[1].clone();
    let floor = |_| {
        let start = Instant::now();
        net.call(sb, "VERSION", &own, at, at.result.as_ref()).run().document();
        start.elapsed()
    };
    let call = |verb: &str| {
        let start = Instant::now();
        net.call(sb, verb, &own, at, at.result.as_ref()).run();
        start.elapsed()
    };
    let version: Sample = (0..50).map(floor).collect();
    let running: Sample = (0..50).map(|_| call("ADD")).collect();
    let first: Sample = (0..20)
        .map(|_| {
            call("DEL");
            while !pids(|words| words.contains("\0resolver")).is_empty() {
                sleep(Duration::from_millis(1));
            }
            call("ADD")
        })
        .collect();
    println!("start of a process (VERSION)          {:.2} ms", ms(version.median()));
    println!("ADD, the resolver runs                {:.2} ms", ms(running.median()));
    println!("ADD of the first container            {:.2} ms\n", ms(first.median()));
}

fn address(n: u32) -> String {
    format!("10.78.{}.{}", 1 + n / 250, n % 250 + 1)
}

/// Files as the plugin writes them.
fn populate(names: u32) {
    let folder = format!("{STATE}/net");
    let first = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut record: Value = serde_json::from_slice(&fs::read(&first).unwrap()).unwrap();
    let network = first.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
    for n in 0..names {
        let id = format!("{n:064}");
        let hash: String =
            Sha512::digest(format!("eth0:{id}")).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        record["containerId"] = json!(id);
        record["names"] = json!([format!("web-{n}")]);
        record["addresses"] = json!([format!("{}/16", address(n))]);
        let key = format!("{network}-{hash}");
        let new = format!("{folder}/.{key}.new");
        fs::write(&new, record.to_string()).unwrap();
        std::os::unix::fs::chown(&new, None, Some(65534)).unwrap();
        fs::rename(&new, format!("{folder}/{key}")).unwrap();
    }
}

fn dnsmasq(names: u32) -> Child {
    let hosts: String = (0..names).map(|n| format!("{} web-{n}\n", address(n))).collect();
    fs::write("/run/hosts", hosts).unwrap();
    // As the Go plugin starts it.
    let words = "--keep-in-foreground --no-hosts --addn-hosts=/run/hosts --listen-address=10.78.0.2 --bind-interfaces --no-resolv \
                 --conf-file=/dev/null --user=root --pid-file=/run/dnsmasq.pid";
    Command::new("dnsmasq").args(words.split_whitespace()).spawn().unwrap()
}

fn aardvark(names: u32, client: &str) -> Child {
    fs::create_dir("/run/aardvark").unwrap();
    let of = |n: u32| format!("{n:064} {}  web-{n}\n", address(n));
    let text: String = (0..names).map(of).collect();
    fs::write("/run/aardvark/net", format!("10.78.0.3\n{:064} {client}  client\n{text}", u32::MAX)).unwrap();
    let words = ["--config", "/run/aardvark", "--port", "53", "run"];
    Command::new(AARDVARK).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// The servers on one processor and the client on another: where the scheduler puts them makes more of a difference than anything else.
fn pin(processor: u32, threads: impl IntoIterator<Item = String>) {
    for thread in threads {
        let words = ["-c", "-p", &processor.to_string(), &thread];
        drop(Command::new("taskset").args(words).output());
    }
}

fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().into_string().ok()).collect()
}

fn lookups(ns: &Netns, options: &Options) {
    pin(1, RESOLVERS.iter().flat_map(|(_, word)| pids(|words| words.contains(word))).flat_map(threads));
    ns.run(|| {
        pin(0, [nix::unistd::gettid().to_string()]);
        let sockets = SERVERS.map(|(_, server)| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(server).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket
        });
        let ask = |socket: &UdpSocket, n: u32| {
            let (message, mut buffer) = (question(&format!("web-{}", n % options.names)), [0; 512]);
            let start = Instant::now();
            socket.send(&message).ok()?;
            let length = socket.recv(&mut buffer).ok()?;
            (length > message.len()).then(|| start.elapsed())
        };
        for (socket, (name, _)) in sockets.iter().zip(SERVERS) {
            let is_up = (0..200).any(|n| {
                sleep(Duration::from_millis(if n == 0 { 0 } else { 50 }));
                ask(socket, 0).is_some()
            });
            println!("{}", if is_up { String::new() } else { format!("{name} does not answer") });
        }
        let mut times: [Vec<Duration>; 3] = Default::default();
        for round in 0..options.rounds {
            for turn in 0..3 {
                let which = (turn + round as usize) % 3;
                let of_turn = (0..TURN).filter_map(|n| ask(&sockets[which], round * 7919 + n as u32));
                times[which].extend(of_turn);
            }
        }
        let micros = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e6);
        row("a lookup, µs", &["p50".to_owned(), "p99".to_owned()], &["p50".to_owned(), "p99".to_owned()]);
        for (mut times, (name, _)) in times.into_iter().zip(SERVERS) {
            times.sort();
            if let (Some(middle), Some(late)) = (times.get(times.len() / 2), times.get(times.len() * 99 / 100)) {
                row(name, &["p50".to_owned(), "p99".to_owned()], &[micros(*middle), micros(*late)]);
            }
        }
    });
}

fn memory(names: u32) {
    println!();
    for (name, word) in RESOLVERS {
        for pid in pids(|words| words.contains(word)) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
            println!("memory of {name} with {names} names:{rss}");
        }
    }
}

/// 500 questions a second, one after the other; the resolver is killed, and the next call (CHECK), or one that waits, takes over.
fn outage(sb: &Sandbox, net: &Chain, at: &Attachment, ns: &Netns) {
    let heal = || net.check(sb, at).silent();
    let stays = || drop(Command::new(sb.dir().join("dnsname")).args(["resolver", "-stay"]).spawn().unwrap());
    println!();
    for with_unit in [false, true] {
        if with_unit {
            stays();
            sleep(Duration::from_millis(500));
        }
        let gap = std::thread::scope(|scope| {
            let (killed, wait) = channel();
            // A thread of the node's: the other one is in the container.
            scope.spawn(move || {
                if wait.recv().is_ok() && !with_unit {
                    sleep(Duration::from_millis(100));
                    heal();
                }
            });
            ns.run(|| gap(&killed))
        });
        let how = if with_unit { "one that waits (-stay) takes over" } else { "CHECK 100 ms later starts one" };
        println!("killed under 500 questions/s, {how}: {:.1} ms without an answer", ms(gap));
    }
    pids(|words| words.contains("\0resolver")).into_iter().for_each(kill);
    heal();
}

fn gap(killed: &Sender<()>) -> Duration {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(SERVERS[0].1).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let (message, mut buffer) = (question("client"), [0; 512]);
    let holder = pids(|words| words.contains("\0resolver"));
    let start = Instant::now();
    let (mut last, mut longest, mut is_killed) = (Instant::now(), Duration::ZERO, false);
    while start.elapsed() < Duration::from_millis(1500) {
        let _ = socket.send(&message);
        if socket.recv(&mut buffer).is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        if !is_killed && start.elapsed() > Duration::from_millis(300) {
            kill(*holder.iter().min().unwrap());
            is_killed = true;
            killed.send(()).unwrap();
        }
        sleep(Duration::from_micros(1500));
    }
    longest.max(last.elapsed())
}

fn kill(pid: u32) {
    drop(Command::new("kill").args(["-KILL", &pid.to_string()]).output());
}

/// The processes of this sandbox whose command line fits.
fn pids(fits: impl Fn(&str) -> bool) -> Vec<u32> {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let mine = fs::read_link("/proc/thread-self/ns/mnt").ok().or(own);
    let is_one = |pid: &u32| {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let space = fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns/mnt")).ok();
        *pid != std::process::id() && space == mine && fits(&words)
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    all.filter(is_one).collect()
}
