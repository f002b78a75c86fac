//! The node has no more processes, threads, descriptors or memory to give: the answer is an error object all the same, and
//! what was done is taken back.

use std::fs;

use cni_tests::conf::{self, Backend};
use cni_tests::sandbox::FAKES;
use cni_tests::{Netns, Outcome, Sandbox, Snapshot, verdict};
use serde_json::{Value, json};

use crate::case::{Case, improved};
use cni_tests::plugins::{minimal, prepare, previous};

const TRACE: &str = "/run/cni-test/trace";
/// What the address allocator, the tools and the loader keep.
const SHARED: [&str; 4] = ["last_reserved_ip", "/var/lib/cni: ", "/lock", "/run/xtables.lock"];
/// No call starts so many processes and threads.
const CLONES: usize = 30;
const PLUGINS: [&str; 4] = ["bridge", "portmap", "firewall", "ptp"];
/// Plugins without packet rules. Not dhcp: what it does, its daemon does, which isn't started with the limits of a call.
const OTHERS: [&str; 13] = [
    "loopback",
    "tuning",
    "bandwidth",
    "sbr",
    "macvlan",
    "ipvlan",
    "vlan",
    "dummy",
    "host-device",
    "tap",
    "vrf",
    "host-local",
    "static",
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        for plugin in PLUGINS {
            let name = |what: &str| format!("{plugin}::{}::{what}", backend.name());
            cases.push(improved(name("clone_fails_once"), move |sb| clones(sb, plugin, backend)));
            cases.push(improved(name("no_process_at_all"), move |sb| no_process(sb, plugin, backend)));
            cases.push(improved(name("descriptors"), move |sb| descriptors(sb, plugin, backend)));
        }
    }
    for plugin in OTHERS {
        cases.push(improved(format!("{plugin}::descriptors"), move |sb| {
            descriptors(sb, plugin, Backend::Nftables);
        }));
    }
    for plugin in PLUGINS.into_iter().chain(OTHERS) {
        cases.push(improved(format!("{plugin}::address_space"), move |sb| address_space(sb, plugin)));
    }
    cases
}

fn conf_for(sb: &Sandbox, plugin: &str, backend: Backend) -> Value {
    sb.needs(plugin, "1.1.0");
    let mut conf = match plugin {
        "portmap" => conf::named("1.1.0", conf::portmap(backend)),
        "firewall" => conf::firewall_alone(sb, backend, "isolated", 2),
        "bridge" | "ptp" => conf::named("1.1.0", conf::masquerading(backend)),
        _ => minimal(plugin, "1.1.0"),
    };
    match plugin {
        "portmap" => {
            conf["prevResult"] = previous("1.1.0");
            let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
            conf["runtimeConfig"] = json!({"portMappings": ports});
        }
        "tuning" => conf["sysctl"] = json!({"net.core.somaxconn": "77"}),
        "bandwidth" => (conf["ingressRate"], conf["egressRate"]) = (8_000_000.into(), 8_000_000.into()),
        "ptp" => conf["type"] = "ptp".into(),
        _ => {}
    }
    conf
}

/// Runs a verb under what `prefix` says, such as `strace` or `prlimit`.
fn under(sb: &Sandbox, prefix: &str, plugin: &str, verb: &str, ns: &Netns, conf: &Value) -> Outcome {
    sb.fake("under", &format!("exec {prefix} {}", sb.dir().join(plugin).display()));
    let call = sb.plugin(plugin, verb).attach("c1", "eth0", ns);
    let mut conf = conf.clone();
    if verb == "GC" {
        conf["cni.dev/valid-attachments"] = json!([]);
        conf.as_object_mut().unwrap().remove("prevResult");
    }
    call.conf(&conf).by(std::path::Path::new(FAKES).join("under")).run()
}

/// Neither aborted nor silent.
fn answered(outcome: &Outcome, at: &str) {
    if !outcome.ok() {
        assert!(outcome.code == Some(1), "{at}: {outcome}");
        assert!(!outcome.error().msg.is_empty(), "{at}: {outcome}");
    }
}

fn container(sb: &Sandbox, plugin: &str) -> Netns {
    prepare(sb, plugin);
    if matches!(plugin, "tuning" | "bandwidth" | "sbr" | "vrf") { sb.container_with_eth0() } else { sb.container("c1") }
}

fn warm(sb: &Sandbox, plugin: &str, conf: &Value) -> (Netns, Snapshot) {
    let ns = container(sb, plugin);
    let verb = |verb: &str| sb.plugin(plugin, verb).attach("c1", "eth0", &ns).conf(conf).run();
    verb("ADD").result();
    verb("DEL").silent();
    ns.sh(&["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"]);
    let before = Snapshot::of(&[&sb.node(), &ns]);
    (ns, before)
}

fn same(sb: &Sandbox, ns: &Netns, before: &Snapshot, at: &str) {
    ns.sh(&["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"]);
    if let Err(stop) = verdict::caught(|| Snapshot::of(&[&sb.node(), ns]).same_but(before, &SHARED)) {
        panic!("{at}: {stop:?}");
    }
}

fn strace(inject: &str) -> String {
    format!(
        "strace -qq -f -o {TRACE} -e trace=clone,clone3,fork,vfork -e inject=clone,clone3,fork,vfork:error=EAGAIN:{inject}"
    )
}

fn needs_strace(sb: &Sandbox) {
    if !sb.node().holds(&["strace", "-V"]) {
        verdict::skip("no strace here");
    }
}

/// One process or thread can't be had, the next one can: ADD succeeds all the same, or takes back everything.
fn clones(sb: &Sandbox, plugin: &str, backend: Backend) {
    needs_strace(sb);
    let conf = conf_for(sb, plugin, backend);
    let (ns, before) = warm(sb, plugin, &conf);
    for when in 1..CLONES {
        let outcome = under(sb, &strace(&format!("when={when}")), plugin, "ADD", &ns, &conf);
        let at = format!("ADD, clone {when}");
        answered(&outcome, &at);
        if outcome.ok() {
            let del = under(sb, &strace(&format!("when={when}")), plugin, "DEL", &ns, &conf);
            answered(&del, &format!("DEL, clone {when}"));
            sb.plugin(plugin, "DEL").attach("c1", "eth0", &ns).conf(&conf).run().silent();
        }
        same(sb, &ns, &before, &at);
        if !fs::read_to_string(TRACE).unwrap_or_default().contains("(INJECTED)") {
            return;
        }
    }
    panic!("no end after {CLONES}");
}

/// From some moment on there is no process and no thread at all. What only another process could take back, an IPAM
/// plugin's address, is the runtime's DEL's. firewall's policy for a bridge may stay in iptables without a container behind it.
fn no_process(sb: &Sandbox, plugin: &str, backend: Backend) {
    needs_strace(sb);
    let conf = conf_for(sb, plugin, backend);
    let (ns, before) = warm(sb, plugin, &conf);
    for verb in ["ADD", "CHECK", "GC", "DEL"] {
        // Each is waited for until its deadline, so only ADD, which has most to take back, fails at more than one place.
        for when in 1..if verb == "ADD" { 3 } else { 2 } {
            let mut conf = conf.clone();
            if verb != "ADD" {
                let result = sb.plugin(plugin, "ADD").attach("c1", "eth0", &ns).conf(&conf).run().result();
                conf["prevResult"] = result;
            }
            let at = format!("{verb}, from clone {when}");
            answered(&under(sb, &strace(&format!("when={when}+")), plugin, verb, &ns, &conf), &at);
            sb.plugin(plugin, "DEL").attach("c1", "eth0", &ns).conf(&conf).run().silent();
            ns.sh(&["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"]);
            let same =
                || Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &[&SHARED[..], &["CNI-ISOLATION"]].concat());
            if let Err(stop) = verdict::caught(same) {
                panic!("{at}: {stop:?}");
            }
        }
    }
}

/// Every limit of descriptors, from none at all to enough.
fn descriptors(sb: &Sandbox, plugin: &str, backend: Backend) {
    let conf = conf_for(sb, plugin, backend);
    let (ns, before) = warm(sb, plugin, &conf);
    for limit in 3..=40 {
        let prefix = format!("prlimit --nofile={limit}:{limit}");
        let at = format!("ADD, {limit} descriptors");
        let outcome = under(sb, &prefix, plugin, "ADD", &ns, &conf);
        answered(&outcome, &at);
        if outcome.ok() {
            answered(&under(sb, &prefix, plugin, "DEL", &ns, &conf), &format!("DEL, {limit} descriptors"));
            sb.plugin(plugin, "DEL").attach("c1", "eth0", &ns).conf(&conf).run().silent();
        }
        same(sb, &ns, &before, &at);
    }
}

/// Limits of the address space: what is too small for the work is refused before it begins.
fn address_space(sb: &Sandbox, plugin: &str) {
    let conf = conf_for(sb, plugin, Backend::Nftables);
    let (ns, before) = warm(sb, plugin, &conf);
    for mib in [12, 14, 16, 18, 20, 22, 24, 28, 32, 40, 48, 64] {
        let prefix = format!("prlimit --as={}", mib << 20);
        let at = format!("ADD, {mib} MiB");
        let outcome = under(sb, &prefix, plugin, "ADD", &ns, &conf);
        answered(&outcome, &at);
        if outcome.ok() {
            sb.plugin(plugin, "DEL").attach("c1", "eth0", &ns).conf(&conf).run().silent();
        }
        same(sb, &ns, &before, &at);
    }
}
