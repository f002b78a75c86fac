//! Everything that an attachment could leave on a node, as comparable lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::kernel;
use crate::netns::Netns;
use crate::rules;

/// State on disk that plugins may touch. Their lock files and the mounts of `ip netns` are no part of it.
const TREES: [&str; 4] = ["/var/lib", "/run", "/etc/cni", "/opt/cni"];
const NOT_STATE: [&str; 5] =
    ["/run/netns", "/run/xtables.lock", "/run/cni-plugins.lock", "/run/cni-plugins.localnet", "/run/cni-test"];

/// The links, queueing disciplines, addresses, routes, policy rules, settings, packet rules and files of some namespaces at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Reads the state of `namespaces`, of which the first is usually the node.
    pub fn of(namespaces: &[&Netns]) -> Self {
        let mut lines = BTreeSet::new();
        for ns in namespaces {
            let mut add = |line: String| lines.insert(format!("{}: {line}", ns.name));
            links(ns)
                .into_iter()
                .chain(qdiscs(ns))
                .chain(routing(ns))
                .chain(settings(ns))
                .chain(rules::all(ns))
                .for_each(|l| {
                    add(l);
                });
        }
        TREES.iter().for_each(|tree| files(Path::new(tree), &mut lines));
        Self { lines }
    }

    /// Panics, naming each line, unless `self` equals `before`.
    #[track_caller]
    pub fn same_as(&self, before: &Self) {
        self.same_but(before, &[]);
    }

    /// Like [`Self::same_as`], ignoring lines that contain one of `shared`: what belongs to all attachments.
    #[track_caller]
    pub fn same_but(&self, before: &Self, shared: &[&str]) {
        let text: String = self.differences(before, shared).iter().map(|line| format!("\n  {line}")).collect();
        assert!(text.is_empty(), "the node is not as it was:{text}");
    }

    /// What `self` has more than `before` (`left: …`) and what it lacks (`lost: …`), but for lines that contain one of `shared`.
    pub fn differences(&self, before: &Self, shared: &[&str]) -> Vec<String> {
        let own = |line: &&String| !shared.iter().any(|s| line.contains(s));
        let left = self.lines.difference(&before.lines).filter(own).map(|line| format!("left: {line}"));
        let lost = before.lines.difference(&self.lines).filter(own).map(|line| format!("lost: {line}"));
        left.chain(lost).collect()
    }

    /// The lines that contain `part`.
    pub fn naming(&self, part: &str) -> Vec<&String> {
        self.lines.iter().filter(|line| line.contains(part)).collect()
    }
}

/// Links without what changes by itself (counters, indexes of others, operational state of a neighbour).
fn links(ns: &Netns) -> Vec<String> {
    let keys = ["ifname", "mtu", "master", "address", "ifalias", "altnames", "linkinfo", "promiscuity"];
    let mut lines = Vec::new();
    for link in kernel::settled_links(ns) {
        let mut kept: Vec<String> = keys.iter().filter(|k| !link[**k].is_null()).map(|k| pick(&link, k)).collect();
        kept.push(format!("up={}", kernel::has_flag(&link, "UP")));
        let name = link["ifname"].as_str().unwrap_or("?");
        lines.push(format!("link {}", kept.join(" ")));
        lines.extend(kernel::addresses(ns, name).iter().map(|a| format!("address {a} dev {name}")));
    }
    lines
}

/// Queueing disciplines, but for the kernel's defaults, which have no handle.
fn qdiscs(ns: &Netns) -> Vec<String> {
    let shown = ns.sh(&["tc", "qdisc", "show"]);
    shown.lines().filter(|line| !line.contains(" 0: ")).map(|line| line.trim().to_owned()).collect()
}

fn pick(link: &Value, key: &str) -> String {
    match key {
        // Timers and counters of the bridge change all the time; its kind and a port's flags don't.
        "linkinfo" => {
            let port = &link[key]["info_slave_data"];
            format!("kind={} hairpin={} isolated={}", link[key]["info_kind"], port["hairpin"], port["isolated"])
        }
        _ => format!("{key}={}", link[key]),
    }
}

fn routing(ns: &Netns) -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let shown = ns.sh(&["ip", "-j", family, "route", "show", "table", "all"]);
        // The kernel derives these from addresses, and for IPv6 only when it is done with duplicate detection.
        let derived = |r: &Value| {
            r["table"] == "local" || r["dst"].as_str().is_some_and(|d| d.starts_with("fe80:") || d == "ff00::/8")
        };
        lines.extend(kernel::array(&shown).iter().filter(|r| !derived(r)).map(|r| {
            let text = |key: &str| r[key].as_str().unwrap_or("").to_owned();
            let words = ["type", "dst", "gateway", "dev", "table", "scope", "protocol"].map(text);
            format!("route {family} {} metric {}", words.join(" "), r["metric"])
        }));
        lines.extend(ns.sh(&["ip", family, "rule", "show"]).lines().map(|l| format!("rule {family} {l}")));
    }
    lines
}

/// Settings of the whole namespace and those that plugins change on links.
fn settings(ns: &Netns) -> Vec<String> {
    let mut keys: Vec<String> = ["ipv4/ip_forward", "ipv4/conf/all/route_localnet", "ipv6/conf/all/forwarding"]
        .iter()
        .map(|k| (*k).to_owned())
        .collect();
    for link in kernel::settled_links(ns) {
        let name = link["ifname"].as_str().unwrap_or("?");
        keys.push(format!("ipv4/conf/{name}/route_localnet"));
        keys.extend(["accept_ra", "disable_ipv6"].map(|k| format!("ipv6/conf/{name}/{k}")));
    }
    keys.iter().filter_map(|k| kernel::sysctl(ns, k).map(|v| format!("sysctl {k}={v}"))).collect()
}

/// A text file's content. A binary file is an index with times and counters in it: only its existence is compared.
fn content(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    if bytes.contains(&0) { "binary".to_owned() } else { format!("{:?}", String::from_utf8_lossy(&bytes)) }
}

fn files(path: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if NOT_STATE.iter().any(|skipped| path.starts_with(skipped)) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                lines.insert(format!("directory {}", path.display()));
                files(&path, lines);
            }
            Ok(kind) if kind.is_symlink() => {
                let target = fs::read_link(&path).unwrap_or_default();
                lines.insert(format!("symlink {} -> {}", path.display(), target.display()));
            }
            _ => {
                lines.insert(format!("file {}: {}", path.display(), content(&path)));
            }
        }
    }
}
