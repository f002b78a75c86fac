//! firewall, ptp and the plugins without packet rules: a failure at every system call of a kind, and a kill there ([`cni_tests::faults`]). After
//! each failure, and after DEL where it was killed or succeeded all the same, node and container are as before.

use cni_tests::Sandbox;
use cni_tests::conf::{self, Backend};
use cni_tests::faults::{Fault, at_every_call, nothing_left};
use cni_tests::plugins::{minimal, prepare};
use serde_json::{Value, json};

use crate::case::{Case, improved};

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

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (call, fault) in FAULTS {
        let end = if fault.starts_with("signal") { format!("killed_at_{call}") } else { format!("{call}_fails") };
        for backend in Backend::ALL {
            let name = |plugin: &str| format!("{plugin}::{}::{end}", backend.name());
            cases.push(improved(name("firewall"), move |sb| {
                matrix(sb, "firewall", &conf::firewall_alone(sb, backend, "isolated", 2), (call, fault));
            }));
            cases.push(improved(name("ptp"), move |sb| matrix(sb, "ptp", &ptp(backend), (call, fault))));
        }
        cases.push(improved(format!("tuning::{end}"), move |sb| matrix(sb, "tuning", &tuning(), (call, fault))));
        cases.push(improved(format!("bandwidth::{end}"), move |sb| {
            matrix(sb, "bandwidth", &bandwidth(), (call, fault));
        }));
        for plugin in ["sbr", "macvlan", "ipvlan", "vlan", "dummy", "host-device", "tap", "vrf"] {
            let story = move |sb: &Sandbox| matrix(sb, plugin, &minimal(plugin, "1.0.0"), (call, fault));
            cases.push(improved(format!("{plugin}::{end}"), story));
        }
        let loopback = move |sb: &Sandbox| matrix(sb, "loopback", &minimal("loopback", "1.0.0"), (call, fault));
        cases.push(improved(format!("loopback::{end}"), loopback));
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

fn bandwidth() -> Value {
    let mut conf = minimal("bandwidth", "1.0.0");
    (conf["ingressRate"], conf["ingressBurst"]) = (8_000_000.into(), 8_000_000.into());
    (conf["egressRate"], conf["egressBurst"]) = (8_000_000.into(), 8_000_000.into());
    conf
}

fn matrix(sb: &Sandbox, plugin: &str, conf: &Value, (call, what): (&str, &str)) {
    prepare(sb, plugin);
    let ns = if matches!(plugin, "tuning" | "bandwidth" | "sbr" | "vrf") {
        sb.container_with_eth0()
    } else {
        sb.container("c1")
    };
    let verb = |verb: &str| sb.plugin(plugin, verb).attach("c1", "eth0", &ns).conf(conf);
    // What all attachments share is there from now on.
    verb("ADD").run().result();
    verb("DEL").run().silent();
    at_every_call(sb, &ns, (plugin, &verb("ADD")), Fault { call, what }, |outcome, before| {
        nothing_left(sb, &ns, outcome, before, || verb("DEL").run().silent());
    });
}
