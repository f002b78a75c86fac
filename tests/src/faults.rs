//! Faults at every step of an ADD. `strace` lets the N-th system call of a kind fail, or kills the plugin there, for N from 1
//! until ADD is no longer touched (and then is taken back too); nothing in the plugin knows of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sandbox::FAKES;
use crate::{Call, Netns, Outcome, Sandbox, Snapshot, verdict};

/// No ADD has so many calls of a kind; a loop that got here would never end.
const LIMIT: usize = 300;
/// What the address allocator, the tools and the loader keep, as parts of a snapshot's lines.
pub const SHARED: [&str; 4] = ["last_reserved_ip", "/var/lib/cni: ", "/lock", "/run/xtables.lock"];
/// IPv6 off on the container's loopback, which a plugin may switch on and must then switch off again.
const LOOPBACK_OFF: [&str; 3] = ["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"];

/// A kind of fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault<'a> {
    /// The system call.
    pub call: &'a str,
    /// What happens at it, as `strace` has it: `error=ENOBUFS` or `signal=KILL`.
    pub what: &'a str,
}

/// Runs `add`, which is ADD of `plugin` into `ns`, with the fault at the first, the second, ... call, and `judge`s each outcome
/// against what was before; the number of places at which the fault happened. The ADD that it doesn't reach has to succeed.
///
/// What all attachments share must be there before: base chains, the bridge. Skips the case where there is no `strace`.
pub fn at_every_call(
    sb: &Sandbox,
    ns: &Netns,
    (plugin, add): (&str, &Call),
    fault: Fault<'_>,
    judge: impl Fn(&Outcome, &Snapshot),
) -> usize {
    if !sb.node().holds(&["strace", "-V"]) {
        verdict::skip("no strace here");
    }
    // The kernel's defaults for a namespace that has IPv6 switched off must come back too.
    ns.sh(&LOOPBACK_OFF);
    let before = Snapshot::of(&[&sb.node(), ns]);
    let at_each = |fault: Fault<'_>| {
        for when in 1..LIMIT {
            let (outcome, happened) = faulty(sb, plugin, add, fault, when);
            assert!(happened || outcome.ok(), "undisturbed: {outcome}");
            let judged = verdict::caught(|| judge(&outcome, &before));
            ns.sh(&LOOPBACK_OFF);
            if let Err(stop) = judged {
                panic!("at {} {when}, {outcome}: {stop:?}", fault.call);
            }
            if !happened {
                return when - 1;
            }
        }
        panic!("{}: no end after {LIMIT}", fault.call);
    };
    spellings(&fault.call).iter().map(|call| at_each(Fault { call, ..fault })).sum()
}

/// How one C library or another asks the kernel for the same.
fn spellings<'a>(call: &'a &'a str) -> &'a [&'a str] {
    match *call {
        "openat" => &["openat", "open"],
        "clone3" => &["clone3", "clone", "fork", "vfork"],
        _ => std::slice::from_ref(call),
    }
}

/// The usual judge. A failed ADD has taken everything back and says why; where it was killed, or succeeded all the same, `del`
/// has.
pub fn nothing_left(sb: &Sandbox, ns: &Netns, outcome: &Outcome, before: &Snapshot, del: impl Fn()) {
    // A thread that can't leave the container's namespace can't take anything back; the runtime's DEL does.
    let lost = outcome.stdout.contains("cannot return to network namespace");
    // Killed, or ended by a panic: an abort in the executables that are installed.
    let died = outcome.code.is_none_or(|code| code > 1);
    let mut shared = SHARED.to_vec();
    if outcome.ok() || died || lost {
        wait_for_the_rest();
        del();
        // DEL leaves the container's own loopback alone.
        shared.push("conf/lo/disable_ipv6");
    } else {
        assert!(!outcome.error().msg.is_empty(), "{outcome}");
    }
    Snapshot::of(&[&sb.node(), ns]).same_but(before, &shared);
}

/// ADD under `strace`; true if the fault happened.
fn faulty(sb: &Sandbox, plugin: &str, add: &Call, fault: Fault<'_>, when: usize) -> (Outcome, bool) {
    let (trace, Fault { call, what }) = ("/run/cni-test/trace", fault);
    let inject = format!("-e trace={call} -e inject={call}:{what}:when={when}");
    sb.fake("under-strace", &format!("exec strace -qq -o {trace} {inject} {}", sb.dir().join(plugin).display()));
    let outcome = add.clone().by(Path::new(FAKES).join("under-strace")).run();
    let text = fs::read_to_string(trace).unwrap_or_default();
    let killed = outcome.code.is_none();
    (outcome, killed || text.contains("(INJECTED)"))
}

/// What a killed plugin has started (IPAM, firewall tools) may still be running in the node's namespace.
pub fn wait_for_the_rest() {
    let here = fs::read_link("/proc/thread-self/ns/net").expect("this thread's namespace");
    let suite = std::env::current_exe().expect("the suite's executable");
    let at_work = || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
        // A process that has just ended has neither.
        let is_ours = |process: PathBuf| {
            fs::read_link(process.join("exe")).is_ok_and(|executable| executable != suite)
                && fs::read_link(process.join("ns/net")).is_ok_and(|its| its == here)
        };
        processes.into_iter().any(is_ours)
    };
    let begin = Instant::now();
    while at_work() {
        assert!(begin.elapsed() < Duration::from_secs(10), "a process doesn't end");
        std::thread::sleep(Duration::from_millis(5));
    }
}
