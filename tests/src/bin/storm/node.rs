//! The node of one round: its networks, who is attached, and what independent eyes see of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::snapshot::Snapshot;
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel, rules, verdict};
use serde_json::{Value, json};

use crate::call::{Streams, Watch};
use crate::report::{Class, Finding, Report};

/// How long the kernel may take to remove the links of a namespace that is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// What changes with every attachment and belongs to the network: host-local's cursor and index.
const SHARED: [&str; 3] = ["last_reserved_ip", "/.host-local", "/run/cni-test"];

/// What the plugins of a round are, and which backend their networks ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// All networks with nftables.
    Nftables,
    /// All networks with iptables.
    Iptables,
    /// One network with each.
    Both,
    /// Other kinds of links, and the plugins that are chained after those.
    Kinds,
    /// Each call by one of two implementations, with iptables and at version 1.0.0.
    Mixed,
}

impl Scene {
    pub(crate) const ALL: [Self; 5] = [Self::Nftables, Self::Iptables, Self::Both, Self::Kinds, Self::Mixed];

    /// What plugins read on the node: vxlan's other hosts.
    pub(crate) fn prepare(self) {
        if self == Self::Kinds {
            fs::create_dir_all("/etc/cni/peers").expect("a directory of the sandbox");
            fs::write("/etc/cni/peers/storm-kinds", "203.0.113.9 10.72.1.0/24\n").expect("a file of the sandbox");
        }
    }

    /// The networks, all dual stack.
    fn chains(self) -> Vec<Chain> {
        match self {
            Self::Nftables => core("nftables", "nftables", "1.1.0"),
            Self::Iptables => core("iptables", "iptables", "1.1.0"),
            Self::Both => core("nftables", "iptables", "1.1.0"),
            Self::Mixed => core("iptables", "iptables", "1.0.0"),
            Self::Kinds => kinds(),
        }
    }
}

fn ipam(v4: &str, v6: &str) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": v4}], [{"subnet": v6}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
}

/// A bridge and a point-to-point network, with these backends and all that is chained after them.
fn core(first: &str, second: &str, version: &str) -> Vec<Chain> {
    let bridge = json!({"type": "bridge", "bridge": "br-storm", "isGateway": true, "ipMasq": true, "ipMasqBackend": first,
        "hairpinMode": true, "ipam": ipam("10.70.0.0/24", "fd00:70::/64")});
    let ptp = json!({"type": "ptp", "ipMasq": true, "ipMasqBackend": second,
        "ipam": ipam("10.71.0.0/24", "fd00:71::/64")});
    let tuning = json!({"type": "tuning", "mtu": 1400,
        "sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"}});
    let after = |backend: &str| {
        [
            json!({"type": "portmap", "backend": backend, "capabilities": {"portMappings": true}}),
            json!({"type": "firewall", "backend": backend}),
        ]
    };
    let [ports1, firewall1] = after(first);
    let [ports2, firewall2] = after(second);
    vec![
        Chain::new("storm-bridge", version, &[bridge, tuning, ports1, firewall1]),
        Chain::new("storm-ptp", version, &[ptp, ports2, firewall2]),
    ]
}

/// A bridge with names, limits, shared ports, a closed door and a stretch over other nodes; macvlan with routes by source; tap.
fn kinds() -> Vec<Chain> {
    let bridge = json!({"type": "bridge", "bridge": "br-kinds", "isGateway": true, "ipam": ipam("10.72.0.0/24", "fd00:72::/64")});
    let rate = 100_000_000;
    let bandwidth = json!({"type": "bandwidth", "ingressRate": rate, "egressRate": rate});
    let portmap =
        json!({"type": "portmap", "share": "storm", "backend": "nftables", "capabilities": {"portMappings": true}});
    let firewall = json!({"type": "firewall", "backend": "nftables", "publishedOnly": true});
    let after = [json!({"type": "vxlan", "vni": 72}), bandwidth, json!({"type": "dnsname"}), portmap, firewall];
    let macvlan = json!({"type": "macvlan", "master": "up0", "ipam": ipam("10.73.0.0/24", "fd00:73::/64")});
    let tap = json!({"type": "tap", "ipam": ipam("10.74.0.0/24", "fd00:74::/64")});
    vec![
        Chain::new("storm-kinds", "1.1.0", &[&[bridge][..], &after].concat()),
        Chain::new("storm-macvlan", "1.1.0", &[macvlan, json!({"type": "sbr"})]),
        Chain::new("storm-tap", "1.1.0", &[tap, json!({"type": "tuning", "mtu": 1400})]),
    ]
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Named, and perhaps half attached or half detached.
    Moving,
    /// Attached and left alone.
    Held,
    /// Detached successfully, and seen to be gone.
    Gone,
}

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    /// When it was seen to be gone.
    gone_at: Option<Instant>,
    network: usize,
    at: Attachment,
    history: Vec<String>,
}

/// What all threads of a round share.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) sandbox: &'a Sandbox,
    /// The other implementation, in [`Scene::Mixed`].
    pub(crate) other: Option<Sandbox>,
    pub(crate) scene: Scene,
    pub(crate) chains: Vec<Chain>,
    pub(crate) report: &'a Report,
    pub(crate) watch: &'a Watch,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl<'a> Node<'a> {
    pub(crate) fn new(
        sandbox: &'a Sandbox,
        other: Option<&Path>,
        scene: Scene,
        report: &'a Report,
        watch: &'a Watch,
    ) -> Self {
        let other = other.filter(|_| scene == Scene::Mixed).map(|dir| sandbox.with_plugins(dir));
        Self { sandbox, other, scene, chains: scene.chains(), report, watch, entries: Mutex::default() }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().expect("no thread panics while it holds the lock")
    }

    /// A new container's name: of one length, so that none is a part of another.
    pub(crate) fn id(worker: usize, number: usize) -> String {
        format!("storm{worker:02}x{number:05}")
    }

    /// The container of that kind of name that a text mentions.
    fn named(text: &str) -> Option<&str> {
        let at = text.find("storm").filter(|at| text.as_bytes().get(at + 7) == Some(&b'x'))?;
        text.get(at..at + 13)
    }

    /// From now on it is in the list of valid attachments that GC gets.
    pub(crate) fn announce(&self, network: usize, at: &Attachment) {
        let entry = Entry { state: State::Moving, gone_at: None, network, at: at.clone(), history: Vec::new() };
        self.entries().insert(at.id.clone(), entry);
    }

    pub(crate) fn held(&self, at: &Attachment) {
        if let Some(entry) = self.entries().get_mut(&at.id) {
            entry.state = State::Held;
            entry.at = at.clone();
        }
    }

    pub(crate) fn moving(&self, id: &str) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.state = State::Moving;
        }
    }

    pub(crate) fn gone(&self, id: &str) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.state = State::Gone;
            entry.gone_at = Some(Instant::now());
            entry.at.result = None;
        }
    }

    /// Notes a call for the history that a finding shows.
    pub(crate) fn note(&self, id: &str, line: String) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.history.push(line);
        }
    }

    pub(crate) fn find(&self, class: Class, id: &str, what: &str) {
        let history = self.entries().get(id).map(|e| e.history.clone()).unwrap_or_default();
        self.report.finding(Finding { class, what: format!("{:?}: {what}", self.scene), history });
    }

    /// The attachments of a network that GC must keep: all that aren't gone, but for `but`, and the next ones of every
    /// worker, whose ADD may begin while GC runs.
    pub(crate) fn valid(&self, workers: usize, but: Option<&str>) -> Value {
        let entries = self.entries();
        let mut ids: BTreeSet<String> = entries
            .iter()
            .filter(|(id, e)| e.state != State::Gone && Some(id.as_str()) != but)
            .map(|(id, _)| id.clone())
            .collect();
        for worker in 0..workers {
            let prefix = format!("storm{worker:02}x");
            let last = entries.keys().rfind(|id| id.starts_with(&prefix)).and_then(|id| id[8..].parse::<usize>().ok());
            let from = last.map_or(0, |last| last + 1);
            ids.extend((from..from + 40).map(|number| Self::id(worker, number)));
        }
        ids.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect()
    }

    /// Why an ADD may fail in fair weather: another container has the port. If that one was gone before the ADD began, which
    /// took so long, something of it was left; if it went meanwhile, the ADD saw it in time.
    pub(crate) fn is_known_refusal(&self, by: &str, text: &str, took: Duration) -> bool {
        if !text.contains("held by") && !text.contains("is taken") {
            return false;
        }
        if let Some(holder) = Self::named(text) {
            let begun = Instant::now().checked_sub(took);
            let is_before = |gone: Instant| begun.is_some_and(|begun| gone < begun);
            let gone = self.entries().get(holder).and_then(|e| e.gone_at).is_some_and(is_before);
            if gone && holder != by {
                self.find(Class::LateCommit, holder, &format!("{holder} is gone, and yet: {text}"));
            }
        }
        true
    }

    /// Looks for anything that names a container after its DEL or GC; the kernel gets some time for links.
    pub(crate) fn leftovers(&self, id: &str) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = traces(self.sandbox, &|line| line.contains(id));
            if left.is_empty() || Instant::now() > until {
                return left;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Compares all that are attached with each other and with what they were given.
    pub(crate) fn observe(&self) {
        let is_held = |(_, e): &(&String, &Entry)| e.state == State::Held;
        let before: Vec<(String, Entry)> =
            self.entries().iter().filter(is_held).map(|(i, e)| (i.clone(), e.clone())).collect();
        let seen: Vec<(String, Vec<String>)> =
            before.iter().map(|(id, entry)| (id.clone(), self.look(id, entry))).collect();
        let ports = traces(self.sandbox, &|line| line.contains("port") && line.contains("storm"));
        let after: BTreeSet<String> = self.entries().iter().filter(is_held).map(|(id, _)| id.clone()).collect();
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        let mut expected: BTreeMap<String, &str> = BTreeMap::new();
        for ((id, what), (_, entry)) in seen.iter().zip(&before).filter(|((id, _), _)| after.contains(id)) {
            for thing in what {
                if let Some(lost) = thing.strip_prefix("lost ") {
                    self.find(Class::Lost, id, &format!("{id} lacks {lost}"));
                } else if let Some(first) = owners.insert(thing, id) {
                    self.find(Class::Duplicate, id, &format!("{first} and {id} both have {thing}"));
                }
            }
            for mapping in entry.at.capabilities["portMappings"].as_array().into_iter().flatten() {
                let port = mapping["hostPort"].to_string();
                // The same one in TCP and UDP is the container's own.
                let first = expected.insert(port.clone(), id).filter(|first| first != id && self.scene != Scene::Kinds);
                if let Some(first) = first {
                    self.find(Class::Duplicate, id, &format!("{first} and {id} were both given host port {port}"));
                }
            }
        }
        // Those of the other kinds are shared.
        for line in ports.iter().filter(|_| self.scene != Scene::Kinds) {
            let Some(owner) = Self::named(line).filter(|owner| after.contains(*owner)) else { continue };
            let words: Vec<_> = line.split(|c: char| !c.is_ascii_digit()).collect();
            for (port, holder) in expected.iter().filter(|(port, _)| words.contains(&port.as_str())) {
                if *holder != owner {
                    self.find(
                        Class::Duplicate,
                        owner,
                        &format!("{holder} was given host port {port}, and {owner} has {line}"),
                    );
                }
            }
        }
    }

    /// The addresses of a container's interface, as the kernel has them, and `lost …` for each that its result or its
    /// reservation has in addition. Its namespace may go while this looks; then nothing is seen.
    fn look(&self, id: &str, entry: &Entry) -> Vec<String> {
        let ns = Netns::existing(id);
        let Ok(Some(link)) = verdict::caught(|| kernel::link(&ns, "eth0")) else {
            return vec![format!("lost eth0 ({id})")];
        };
        let addresses = verdict::caught(|| kernel::addresses(&ns, "eth0")).unwrap_or_default();
        let mut seen = vec![format!("MAC address {}", link["address"].as_str().unwrap_or("?"))];
        let network = self.chains[entry.network].name();
        let result = entry.at.result.as_ref().and_then(|r| r["ips"].as_array()).cloned().unwrap_or_default();
        for address in result.iter().filter_map(|ip| ip["address"].as_str()) {
            if !addresses.iter().any(|a| a == address) {
                seen.push(format!("lost address {address} on its interface"));
            }
            let file = format!("/var/lib/cni/networks/{network}/{}", address.split('/').next().unwrap_or(""));
            if !fs::read_to_string(&file).is_ok_and(|holder| holder.starts_with(id)) {
                seen.push(format!("lost reservation {file}"));
            }
        }
        seen.extend(addresses.into_iter().map(|a| format!("address {}", a.split('/').next().unwrap_or(""))));
        seen
    }

    /// The state that must come back, and that which is there.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::of(&[&self.sandbox.node()])
    }

    /// What differs from `before` once everything is detached, after a time for what is still under way.
    pub(crate) fn compare(&self, before: &Snapshot) {
        let until = Instant::now() + PATIENCE;
        let mut differences = self.snapshot().differences(before, &SHARED);
        while !differences.is_empty() && Instant::now() < until {
            thread::sleep(Duration::from_millis(500));
            differences = self.snapshot().differences(before, &SHARED);
        }
        differences.retain(|line| self.scene != Scene::Mixed || !is_known_of_go(line));
        for line in differences {
            let id = Self::named(&line).unwrap_or_default().to_owned();
            let seen_gone = self.entries().get(&id).is_some_and(|e| e.state == State::Gone);
            self.find(
                if seen_gone { Class::LateCommit } else { Class::Leak },
                &id,
                &format!("at the end of the round: {line}"),
            );
        }
    }

    /// Streams for a thread's calls.
    pub(crate) fn streams(&self, thread: &str) -> Streams {
        Streams::new(thread)
    }
}

/// What the Go plugins are known to leave. Their portmap switches `route_localnet` on for the uplink if the container's link
/// has gone and the default route answers; their tuning keeps the backup of a container whose DEL came without its namespace,
/// and names no network in it, so that our GC leaves it alone.
fn is_known_of_go(line: &str) -> bool {
    let backup = line.contains("/run/cni/tuning/") && !line.contains("network");
    line.contains("ipv4/conf/up0/route_localnet=") || backup
}

/// The lines about links, rules and files that `wanted` accepts.
fn traces(sandbox: &Sandbox, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let node = sandbox.node();
    let mut lines: Vec<String> = verdict::caught(|| rules::all(&node)).unwrap_or_default();
    lines.extend(verdict::caught(|| kernel::links(&node)).unwrap_or_default().iter().map(|l| format!("link {l}")));
    let networks = ["bridge", "ptp", "kinds", "macvlan", "tap"];
    let of_networks = networks
        .iter()
        .flat_map(|name| ["/var/lib/cni/networks", "/run/cni/dnsname"].map(|dir| format!("{dir}/storm-{name}")));
    for dir in of_networks.chain(["/run/cni/tuning", "/var/lib/cni/tuning"].map(str::to_owned)) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let content = fs::read(entry.path()).unwrap_or_default();
            lines.push(format!("file {}: {}", entry.path().display(), String::from_utf8_lossy(&content)));
        }
    }
    lines.retain(|line| wanted(line));
    lines
}
