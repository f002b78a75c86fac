//! bridge: a failure at every system call of a kind, and a kill there ([`cni_tests::faults`]). After each failure, and after DEL
//! where it was killed or succeeded all the same, node and container are as before.

use cni_tests::conf::{self, Backend};
use cni_tests::faults::{Fault, SHARED, at_every_call, nothing_left, wait_for_the_rest};
use cni_tests::kernel::links;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot};
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
/// The faults at messages to the kernel.
pub(super) const SENDTO: [(&str, &str); 2] = [("fails", "error=ENOBUFS"), ("kills", "signal=KILL")];
/// Duplicate address detection without a probe and its second of waiting.
const QUICK: [&str; 4] =
    ["sysctl", "-qw", "net.ipv6.conf.default.dad_transmits=0", "net.ipv6.conf.default.router_solicitation_delay=0"];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        for (call, error) in FAILURES {
            let name = format!("{}::{call}_fails", backend.name());
            cases.push(improved(name, move |sb| matrix(sb, backend, call, &format!("error={error}"))));
        }
        for call in DEATHS {
            let name = format!("{}::killed_at_{call}", backend.name());
            cases.push(improved(name, move |sb| matrix(sb, backend, call, "signal=KILL")));
        }
    }
    for (end, what) in SENDTO {
        cases.push(improved(format!("own_keys_when_sendto_{end}"), move |sb| with_keys(sb, &own_keys(), what)));
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

fn matrix(sb: &Sandbox, backend: Backend, call: &str, what: &str) {
    let ns = sb.container("c1");
    let chain = Chain::new("testnet", sb.newest(&["bridge", "host-local"]), &[config(backend)]);
    // What all attachments share is there from now on.
    let mut first = Attachment::new("first", &sb.container("first"));
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    let at = Attachment::new("c1", &ns);
    let add = chain.call(sb, "ADD", &chain.plugins()[0], &at, None);
    let places = at_every_call(sb, &ns, ("bridge", &add), Fault { call, what }, |outcome, before| {
        nothing_left(sb, &ns, outcome, before, || chain.del(sb, &at));
    });
    assert!(places > 0, "{call} is never called");
}

fn own_keys() -> Value {
    let mut conf = conf::masquerading(Backend::Nftables);
    let keys =
        json!({"hostInterfaceName": "k{hash}", "removeEmptyBridge": true, "enabledad": true, "macspoofchk": true});
    keys.as_object().unwrap().iter().for_each(|(key, value)| conf[key] = value.clone());
    conf
}

/// With keys that make ADD take other ways, and from the very first message: with `removeEmptyBridge` nothing at all is left.
pub(super) fn with_keys(sb: &Sandbox, conf: &Value, what: &str) {
    let (node, ns) = (sb.node(), sb.container("c1"));
    ns.sh(&QUICK);
    let chain = Chain::new("testnet", sb.newest(&["bridge", "host-local"]), std::slice::from_ref(conf));
    // Forwarding, tables and base chains are there from now on.
    let mut first = Attachment::new("c1", &ns);
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    let add = chain.call(sb, "ADD", &chain.plugins()[0], &Attachment::new("c1", &ns), None);
    let places = at_every_call(sb, &ns, ("bridge", &add), Fault { call: "sendto", what }, |outcome, before| {
        judge(sb, &chain, (&node, &ns), before, outcome.code);
    });
    assert!(places > 0, "no message is sent");
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
