//! The process of a plugin that outlives the call: how a call starts it, with systemd and without.

use std::fs;

use cni_tests::dhcp::{Processes, daemons, linked};
use cni_tests::run::Call;
use cni_tests::sandbox::FAKES;
use cni_tests::{Attachment, Chain, Sandbox, conf};
use serde_json::{Value, json};

use crate::case::{Case, improved};
use crate::dnsname::{Reaper, resolvers};

/// What the fake `systemd-run` notes: its arguments, its environment and descriptors, its process number.
const CALLED: &str = "/run/cni-test/called";
const INHERITED: &str = "/run/cni-test/inherited";
const PID: &str = "/run/cni-test/pid";
/// What it does then in the place of the real one, which makes a scope of itself and replaces itself.
const REPLACES_ITSELF: &str = "while [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"";

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![improved("dnsname::tools_that_are_started_after_it_inherit_the_lock", tools_inherit)];
    for plugin in ["dhcp", "dnsname"] {
        for (name, case) in [
            ("in_a_scope_where_systemd_runs", scope as fn(&Node<'_>)),
            ("by_itself_where_systemd_does_not_run", no_systemd),
            ("by_itself_where_there_is_no_scope", no_scope),
            ("by_itself_where_the_scope_takes_too_long", slow_scope),
            ("one_that_cannot_listen_says_why", cannot_listen),
        ] {
            cases.push(improved(format!("{plugin}::{name}"), move |sb| case(&Node::new(sb, plugin))));
        }
    }
    cases
}

/// A node on which the first ADD of `plugin` starts its companion.
struct Node<'s> {
    sb: &'s Sandbox,
    plugin: &'static str,
    chain: Chain,
    at: Attachment,
    _processes: Processes,
    _end: Reaper,
}

impl<'s> Node<'s> {
    fn new(sb: &'s Sandbox, plugin: &'static str) -> Self {
        let (mut processes, end) = (Processes::new(), Reaper);
        let version = sb.newest(&["bridge", "host-local", plugin]).to_owned();
        let (own, at) = if plugin == "dhcp" {
            processes.dnsmasq(&[]);
            let own = json!({"type": "dhcp", "ipam": {"type": "dhcp"}});
            (own, Attachment::new("c1", &linked(sb, "c1")))
        } else {
            let mut at = Attachment::new("c1", &sb.container("c1"));
            Chain::new("net", &version, &[conf::bridge()]).add(sb, &mut at);
            (json!({"type": "dnsname"}), at)
        };
        let chain = Chain::new("net", &version, &[own]);
        Self { sb, plugin, chain, at, _processes: processes, _end: end }
    }

    /// The fake is what a call finds as `systemd-run`.
    fn systemd_run(&self, then: &str) {
        let notes = format!(
            "echo \"$@\" >> {CALLED}; echo $$ > {PID}; {{ env; readlink /proc/$$/fd/*; }} > {INHERITED}\n{then}"
        );
        self.sb.fake("systemd-run", &notes);
    }

    /// As sd_booted(3) looks for it.
    fn systemd_runs() {
        fs::create_dir_all("/run/systemd/system").unwrap();
    }

    fn call(&self, verb: &str, keys: &Value) -> Call {
        let mut own = self.chain.plugins()[0].clone();
        for (key, value) in keys.as_object().unwrap() {
            own[key] = value.clone();
        }
        let path = format!("{FAKES}:{}", std::env::var("PATH").unwrap());
        self.chain.call(self.sb, verb, &own, &self.at, self.at.result.as_ref()).env("PATH", &path)
    }

    fn companions(&self) -> Vec<u32> {
        if self.plugin == "dhcp" { daemons() } else { resolvers() }
    }

    /// ADD has started one, which answers, and has nothing to report.
    fn adds(&self) {
        let outcome = self.call("ADD", &json!({})).run();
        outcome.result();
        assert_eq!(outcome.stderr, "");
        assert_eq!(self.companions().len(), 1);
        self.call("DEL", &json!({})).run().silent();
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn scope(node: &Node<'_>) {
    Node::systemd_runs();
    node.systemd_run(REPLACES_ITSELF);
    let outcome = node.call("ADD", &json!({})).run();
    outcome.result();
    assert_eq!(outcome.stderr, "");
    let called = read(CALLED);
    let executable = format!("-- {} ", node.sb.dir().join(node.plugin).display());
    assert!(called.starts_with("--scope ") && called.contains(&executable) && called.lines().count() == 1, "{called}");
    assert_eq!(node.companions(), [read(PID).trim().parse::<u32>().unwrap()], "it is the process of the scope");
    let inherited = read(INHERITED);
    assert!(!inherited.contains("CNI_CONTAINERID") && !inherited.contains("lock"), "{inherited}");
    // The next call finds it.
    node.call("DEL", &json!({})).run().silent();
    assert_eq!(read(CALLED), called);
}

fn no_systemd(node: &Node<'_>) {
    node.systemd_run(REPLACES_ITSELF);
    node.adds();
    assert_eq!(read(CALLED), "");
}

fn no_scope(node: &Node<'_>) {
    Node::systemd_runs();
    node.systemd_run("echo 'Failed to connect to bus: No such file or directory' >&2; exit 1");
    node.adds();
    assert_eq!(read(CALLED).lines().count(), 1);
}

fn slow_scope(node: &Node<'_>) {
    Node::systemd_runs();
    node.systemd_run("exec sleep 3600");
    node.adds();
    let pid = read(PID);
    assert!(pid.trim().parse::<u32>().is_ok() && !fs::exists(format!("/proc/{}", pid.trim())).unwrap(), "{pid}");
}

fn cannot_listen(node: &Node<'_>) {
    Node::systemd_runs();
    node.systemd_run(REPLACES_ITSELF);
    // A directory in the place of the socket.
    let socket = if node.plugin == "dhcp" { "/run/cni/dhcp.sock" } else { "/run/cni/dnsname/.socket" };
    fs::create_dir_all(format!("{socket}/occupied")).unwrap();
    let error = node.call("ADD", &json!({})).run().error();
    let word = if node.plugin == "dhcp" { "daemon" } else { "resolver" };
    error.names(&["cannot start", &format!("{} {word}: ", node.plugin), socket, "directory"]);
    assert!(node.companions().is_empty());
}

/// A killed ADD's tools are waited for by their lock, which the resolver must not have.
fn tools_inherit(sb: &Sandbox) {
    let node = Node::new(sb, "dnsname");
    sb.fake(
        "iptables-restore",
        &format!("readlink /proc/$$/fd/* >> {INHERITED}; exec /usr/sbin/iptables-restore \"$@\""),
    );
    node.call("ADD", &json!({"backend": "iptables"})).run().result();
    assert!(read(INHERITED).contains("/run/cni-plugins.lock"), "{}", read(INHERITED));
    let descriptors = fs::read_dir(format!("/proc/{}/fd", resolvers()[0])).unwrap();
    let of_resolver: Vec<_> = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(!of_resolver.iter().any(|path| path.ends_with("cni-plugins.lock")), "{of_resolver:?}");
    node.call("DEL", &json!({"backend": "iptables"})).run().silent();
}
