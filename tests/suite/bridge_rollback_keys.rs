//! bridge: a failure, or death, at every message to the kernel, as in [`crate::bridge_rollback`], with the keys that make ADD
//! take other ways; and from the very first one, for with `removeEmptyBridge` nothing at all is left on the node.

use cni_tests::conf::{self, Backend};
use cni_tests::kernel::links;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, verdict};
use serde_json::{Value, json};

use crate::bridge_rollback::{faulty, wait_for_the_rest};
use crate::bridge_vlan::need_filtering;
use crate::case::{Case, improved};

/// No ADD has so many calls of a kind; a loop that got here would never end.
const LIMIT: usize = 300;
/// What the address allocator and the tools keep.
const SHARED: [&str; 4] = ["last_reserved_ip", "/var/lib/cni: ", "/lock", "/run/xtables.lock"];
/// Duplicate address detection without a probe and its second of waiting.
const QUICK: [&str; 4] =
    ["sysctl", "-qw", "net.ipv6.conf.default.dad_transmits=0", "net.ipv6.conf.default.router_solicitation_delay=0"];
const LOOPBACK_OFF: [&str; 3] = ["sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1"];

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, fault) in [("fails", "error=ENOBUFS"), ("kills", "signal=KILL")] {
        let name = |keys: &str| format!("bridge::{keys}_rollback_when_sendto_{what}");
        cases.push(improved(name("own_keys"), move |sb| matrix(sb, &own_keys(), fault)));
        cases.push(improved(name("vlan"), move |sb| {
            need_filtering(sb);
            matrix(sb, &vlan(), fault);
        }));
    }
    cases
}

fn own_keys() -> Value {
    let mut conf = conf::masquerading(Backend::Nftables);
    let keys =
        json!({"hostInterfaceName": "k{hash}", "removeEmptyBridge": true, "enabledad": true, "macspoofchk": true});
    keys.as_object().unwrap().iter().for_each(|(key, value)| conf[key] = value.clone());
    conf
}

/// Few messages, for this runs on an emulated processor.
fn vlan() -> Value {
    json!({
        "type": "bridge", "bridge": "br-test", "isGateway": true, "vlan": 100, "hostInterfaceName": "k{hash}",
        "removeEmptyBridge": true, "ipam": {"type": "host-local", "subnet": conf::V4}
    })
}

fn matrix(sb: &Sandbox, conf: &Value, fault: &str) {
    if !sb.node().holds(&["strace", "-V"]) {
        verdict::skip("no strace here");
    }
    let (node, ns) = (sb.node(), sb.container("c1"));
    ns.sh(&QUICK);
    let chain = Chain::new("testnet", sb.newest(&["bridge", "host-local"]), std::slice::from_ref(conf));
    // Forwarding, tables and base chains are there from now on.
    let mut first = Attachment::new("c1", &ns);
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    ns.sh(&LOOPBACK_OFF);
    let before = Snapshot::of(&[&node, &ns]);
    for when in 1..LIMIT {
        let (outcome, injected) = faulty(sb, &chain, &ns, &format!("sendto:{fault}:when={when}"));
        if !injected {
            assert!(outcome.ok() && when > 1, "undisturbed: {outcome}");
            return;
        }
        let same = verdict::caught(|| judge(sb, &chain, (&node, &ns), &before, outcome.code));
        ns.sh(&LOOPBACK_OFF);
        if let Err(stop) = same {
            panic!("at sendto {when}, {outcome}: {stop:?}");
        }
    }
    panic!("no end after {LIMIT}");
}

/// A failed ADD leaves the bridge and the gateway at most; after the DEL of a runtime that knows no namespace any more,
/// whatever happened to ADD, nothing is left.
fn judge(sb: &Sandbox, chain: &Chain, (node, ns): (&Netns, &Netns), before: &Snapshot, code: Option<i32>) {
    let mut shared: Vec<String> = SHARED.map(str::to_owned).to_vec();
    if code == Some(1) {
        let gateway_ports = links(node).into_iter().filter(|link| link["master"] == "br-test");
        let names = gateway_ports.filter_map(|link| link["ifname"].as_str().map(str::to_owned));
        shared.extend(names.filter(|name| !name.starts_with('k')));
        shared.push("br-test".to_owned());
        Snapshot::of(&[node, ns]).same_but(before, &shared.iter().map(String::as_str).collect::<Vec<_>>());
    }
    wait_for_the_rest();
    chain.del(sb, &Attachment::new("c1", ns).nowhere());
    // DEL leaves the container's own loopback alone.
    let shared = [&SHARED[..], &["conf/lo/disable_ipv6"]].concat();
    Snapshot::of(&[node, ns]).same_but(before, &shared);
}
