//! firewall, ptp, tuning, loopback: a failure at every step, as in [`crate::bridge_rollback`]. `strace` lets the N-th system
//! call of a kind fail, or kills the plugin there, for N from 1 until ADD isn't touched any more. After each failure, and
//! after DEL where it was killed or succeeded all the same, node and container are as before.

use std::fs;
use std::path::Path;

use cni_tests::conf::Backend;
use cni_tests::sandbox::FAKES;
use cni_tests::{Netns, Outcome, Sandbox, Snapshot, verdict};
use serde_json::{Value, json};

use crate::case::{Case, improved};
use crate::each::minimal;
use crate::firewall_state::conf_of;
use crate::tuning::container;

/// What may fail, and with which error; or where to be killed.
const FAULTS: [(&str, &str); 7] = [
    ("sendto", "error=ENOBUFS"),
    ("recvfrom", "error=ENOBUFS"),
    ("openat", "error=EMFILE"),
    ("write", "error=ENOSPC"),
    ("sendto", "signal=KILL"),
    ("write", "signal=KILL"),
    ("clone3", "signal=KILL"),
];
/// No ADD has so many calls of a kind.
const LIMIT: usize = 300;
/// What the address allocator, the tools and the loader keep.
const SHARED: [&str; 4] = ["last_reserved_ip", "/var/lib/cni: ", "/lock", "/run/xtables.lock"];
const LOOPBACK_OFF: [&str; 3] = ["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"];

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (call, fault) in FAULTS {
        let end = if fault.starts_with("signal") { format!("killed_at_{call}") } else { format!("{call}_fails") };
        for backend in Backend::ALL {
            let name = |plugin: &str| format!("faults::{plugin}_{}_{end}", backend.name());
            cases.push(improved(name("firewall"), move |sb| {
                matrix(sb, "firewall", &conf_of(sb, backend, "isolated", 2), call, fault);
            }));
            cases.push(improved(name("ptp"), move |sb| matrix(sb, "ptp", &ptp(backend), call, fault)));
        }
        cases.push(improved(format!("faults::tuning_{end}"), move |sb| matrix(sb, "tuning", &tuning(), call, fault)));
        let loopback = move |sb: &Sandbox| matrix(sb, "loopback", &minimal("loopback", "1.0.0"), call, fault);
        cases.push(improved(format!("faults::loopback_{end}"), loopback));
    }
    cases
}

fn ptp(backend: Backend) -> Value {
    let mut conf = minimal("ptp", "1.0.0");
    (conf["ipMasq"], conf["ipMasqBackend"], conf["mtu"]) = (true.into(), backend.name().into(), 1400.into());
    conf["ipam"]["routes"] = json!([{"dst": "192.0.2.0/24"}]);
    conf
}

fn tuning() -> Value {
    let mut conf = minimal("tuning", "1.0.0");
    (conf["mtu"], conf["mac"]) = (1400.into(), "02:00:00:00:00:99".into());
    conf["sysctl"] = json!({"net.core.somaxconn": "77", "net.ipv4.conf.IFNAME.arp_filter": "1"});
    conf
}

fn matrix(sb: &Sandbox, plugin: &str, conf: &Value, call: &str, fault: &str) {
    if !sb.node().holds(&["strace", "-V"]) {
        verdict::skip("no strace here");
    }
    let (node, ns) = (sb.node(), if plugin == "tuning" { container(sb) } else { sb.container("c1") });
    let verb = |verb: &str| sb.plugin(plugin, verb).attach("c1", "eth0", &ns).conf(conf);
    // What all attachments share is there from now on.
    verb("ADD").run().result();
    verb("DEL").run().silent();
    ns.sh(&LOOPBACK_OFF);
    let before = Snapshot::of(&[&node, &ns]);
    for when in 1..LIMIT {
        let (outcome, injected) = faulty(sb, plugin, conf, &ns, call, &format!("{call}:{fault}:when={when}"));
        if !injected {
            assert!(outcome.ok(), "undisturbed: {outcome}");
            return;
        }
        // A thread that can't leave the container's namespace can't take anything back; the runtime's DEL does.
        let lost = outcome.stdout.contains("cannot return to network namespace");
        let mut shared = SHARED.to_vec();
        // Killed, or ended by a panic: an abort in the executables that are installed.
        let died = outcome.code.is_none_or(|code| code > 1);
        if outcome.ok() || died || lost {
            settle(sb, plugin);
            verb("DEL").run().silent();
            // DEL leaves the container's own loopback alone.
            shared.push("conf/lo/disable_ipv6");
        } else {
            assert!(!outcome.error().msg.is_empty(), "at {call} {when}: {outcome}");
        }
        let same = verdict::caught(|| Snapshot::of(&[&node, &ns]).same_but(&before, &shared));
        ns.sh(&LOOPBACK_OFF);
        if let Err(stop) = same {
            panic!("at {call} {when}, {outcome}: {stop:?}");
        }
    }
    panic!("{call}: no end after {LIMIT}");
}

/// What a killed plugin has started may still be at work.
fn settle(sb: &Sandbox, plugin: &str) {
    if plugin == "ptp" {
        crate::bridge_rollback::wait_for_ipam(sb);
    }
    wait_for_tools();
}

/// Until no iptables tool of this node runs any more.
fn wait_for_tools() {
    let here = fs::read_link("/proc/thread-self/ns/net").ok();
    for _ in 0..2000 {
        let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
        let mut tools = processes.filter(|process| {
            let exe = fs::read_link(process.join("exe")).unwrap_or_default();
            exe.to_string_lossy().contains("xtables") && fs::read_link(process.join("ns/net")).ok() == here
        });
        if tools.next().is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("the iptables tools don't end");
}

/// ADD under `strace`; true if the fault happened.
fn faulty(sb: &Sandbox, plugin: &str, conf: &Value, ns: &Netns, call: &str, inject: &str) -> (Outcome, bool) {
    let trace = "/run/cni-test/trace";
    let path = sb.dir().join(plugin);
    let traced = format!("exec strace -qq -o {trace} -e trace={call} -e inject={inject} {}", path.display());
    sb.fake("under-strace", &traced);
    let add = sb.plugin(plugin, "ADD").attach("c1", "eth0", ns).conf(conf);
    let outcome = add.by(Path::new(FAKES).join("under-strace")).run();
    let text = fs::read_to_string(trace).unwrap_or_default();
    let killed = outcome.code.is_none();
    (outcome, killed || text.contains("(INJECTED)"))
}
