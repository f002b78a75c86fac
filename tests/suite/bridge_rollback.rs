//! bridge: a failure at every step. `strace` lets the N-th system call of a kind fail, or kills the plugin there, for N
//! from 1 until ADD isn't touched any more; nothing in the plugin knows of it. After each failure, and after DEL where
//! it was killed or succeeded all the same, node and container are as before.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cni_tests::conf::{self, Backend};
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, Snapshot, verdict};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// What may fail, and with which error: sending to the kernel and hearing its answer, opening and writing a setting or a
/// pipe, entering the container, starting IPAM and firewall tools.
const FAILURES: [(&str, &str); 9] = [
    ("sendto", "ENOBUFS"),
    ("recvfrom", "ENOBUFS"),
    ("openat2", "EMFILE"),
    ("openat", "EMFILE"),
    ("write", "ENOSPC"),
    ("read", "EIO"),
    ("setns", "EPERM"),
    ("socket", "EMFILE"),
    ("pipe2", "EMFILE"),
];
/// Where to be killed: before each message to the kernel, and before each write.
const DEATHS: [&str; 3] = ["sendto", "write", "clone3"];
/// No ADD has so many calls of a kind; a loop that got here would never end.
const LIMIT: usize = 300;
/// What the address allocator and the shared bridge keep.
const SHARED: [&str; 4] = ["last_reserved_ip", "/var/lib/cni: ", "/lock", "/run/xtables.lock"];

const LOOPBACK_OFF: [&str; 3] = ["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"];

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        for (call, error) in FAILURES {
            let name = format!("bridge::rollback_{}_{call}_fails", backend.name());
            cases.push(improved(name, move |sb| matrix(sb, backend, call, &format!("error={error}"))));
        }
        for call in DEATHS {
            let name = format!("bridge::rollback_{}_killed_at_{call}", backend.name());
            cases.push(improved(name, move |sb| matrix(sb, backend, call, "signal=KILL")));
        }
    }
    cases
}

fn config(backend: Backend) -> Value {
    let mut conf = conf::masquerading(backend);
    conf["macspoofchk"] = true.into();
    conf["mtu"] = 1400.into();
    conf["portIsolation"] = true.into();
    conf["ipam"]["routes"] = json!([{"dst": "192.0.2.0/24", "table": 200}]);
    conf
}

fn matrix(sb: &Sandbox, backend: Backend, call: &str, fault: &str) {
    if !sb.node().holds(&["strace", "-V"]) {
        verdict::skip("no strace here");
    }
    let (node, ns) = (sb.node(), sb.container("c1"));
    // What all attachments share is there from now on.
    let chain = Chain::new("testnet", sb.newest(&["bridge", "host-local"]), &[config(backend)]);
    let mut first = Attachment::new("first", &sb.container("first"));
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    // The kernel's defaults for a namespace that has IPv6 switched off must come back too.
    ns.sh(&LOOPBACK_OFF);
    let before = Snapshot::of(&[&node, &ns]);

    let mut failed = 0;
    for when in 1..LIMIT {
        let (outcome, injected) = faulty(sb, &chain, &ns, &format!("{call}:{fault}:when={when}"));
        if !injected {
            assert!(outcome.ok(), "undisturbed: {outcome}");
            assert!(when > 1, "{call} is never called");
            println!("{call} {fault}: {} places, {failed} failures", when - 1);
            return;
        }
        // A thread that can't leave the container's namespace can't take anything back; the runtime's DEL does.
        let lost = outcome.stdout.contains("cannot return to network namespace");
        let mut shared = SHARED.to_vec();
        if outcome.ok() || outcome.code.is_none() || lost {
            wait_for_the_rest();
            chain.del(sb, &Attachment::new("c1", &ns));
            // DEL leaves the container's own loopback alone.
            shared.push("conf/lo/disable_ipv6");
        } else {
            failed += 1;
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

/// What a killed plugin has started (IPAM, firewall tools) may still be at work in the node's namespace.
pub(crate) fn wait_for_the_rest() {
    let here = fs::read_link("/proc/thread-self/ns/net").expect("this thread's namespace");
    let suite = std::env::current_exe().expect("the suite's executable");
    let at_work = || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
        // A process that has just ended has neither.
        let is_ours = |process: PathBuf| {
            fs::read_link(process.join("exe")).is_ok_and(|executable| executable != suite)
                && fs::read_link(process.join("ns/net")).is_ok_and(|theirs| theirs == here)
        };
        processes.into_iter().any(is_ours)
    };
    let begin = Instant::now();
    while at_work() {
        assert!(begin.elapsed() < Duration::from_secs(10), "somebody doesn't end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// ADD of container `c1` under `strace`; true if the fault happened.
pub(crate) fn faulty(sb: &Sandbox, chain: &Chain, ns: &Netns, inject: &str) -> (Outcome, bool) {
    let trace = "/run/cni-test/trace";
    let (name, _) = inject.split_once(':').unwrap_or_default();
    let plugin = sb.dir().join("bridge");
    sb.fake(
        "bridge-under-strace",
        &format!("exec strace -qq -o {trace} -e trace={name} -e inject={inject} {}", plugin.display()),
    );
    let at = Attachment::new("c1", ns);
    let call = chain.call(sb, "ADD", &chain.plugins()[0], &at, None);
    let outcome = call.by(std::path::Path::new(cni_tests::sandbox::FAKES).join("bridge-under-strace")).run();
    let text = fs::read_to_string(trace).unwrap_or_default();
    let killed = outcome.code.is_none();
    (outcome, killed || text.contains("(INJECTED)"))
}
