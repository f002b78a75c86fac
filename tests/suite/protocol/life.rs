//! The whole life of an attachment at every version, for the plugins that need no bridge: which verbs a version has, that a
//! repeated call changes nothing, and that nothing stays.

use cni_tests::{Netns, Outcome, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, improved};
use cni_tests::plugins::{VERSIONS, minimal, ready};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let plugins = ["firewall", "ptp", "static", "dhcp", "tuning", "loopback"];
    let both = plugins.into_iter().flat_map(|plugin| VERSIONS.map(|version| (plugin, version)));
    both.map(|(plugin, version)| improved(format!("{plugin}::{version}"), move |sb| life(sb, plugin, version)))
        .collect()
}

struct Life<'a> {
    sb: &'a Sandbox,
    plugin: &'a str,
    version: &'a str,
    ns: Netns,
    conf: Value,
}

impl Life<'_> {
    fn call(&self, verb: &str, more: &[(&str, &Value)]) -> Outcome {
        let mut conf = self.conf.clone();
        more.iter().for_each(|(key, value)| conf[*key] = (*value).clone());
        ready(self.sb, self.plugin, verb, self.version, &self.ns).conf(&conf).run()
    }

    fn now(&self) -> Snapshot {
        Snapshot::of(&[&self.sb.node(), &self.ns])
    }
}

fn life(sb: &Sandbox, plugin: &str, version: &str) {
    sb.needs(plugin, version);
    let ns = if plugin == "tuning" { sb.container_with_eth0() } else { sb.container("c1") };
    let mut conf = minimal(plugin, version);
    if plugin == "tuning" {
        conf["mtu"] = 1400.into();
        conf["sysctl"] = json!({"net.core.somaxconn": "77", "net.ipv4.conf.IFNAME.arp_filter": "1"});
    }
    let life = Life { sb, plugin, version, ns, conf };
    // The first life on a node leaves what all share: forwarding, chains, IPAM's cursor.
    life.call("ADD", &[]).result();
    life.call("DEL", &[]).silent();

    let before = life.now();
    let result = life.call("ADD", &[]).result();
    assert_eq!(result["cniVersion"], version);
    let after = life.now();
    let again = life.call("ADD", &[]);
    if plugin == "ptp" {
        again.error().names(&["eth0"]);
    } else {
        assert_eq!(again.result(), result);
    }
    life.now().same_but(&after, &["last_reserved_ip"]);
    others(&life, &result);
    life.now().same_but(&after, &["last_reserved_ip"]);

    let prev_result = if version >= "0.4.0" { result } else { life.conf["prevResult"].clone() };
    (0..2).for_each(|_| life.call("DEL", &[("prevResult", &prev_result)]).silent());
    life.now().same_but(&before, &["last_reserved_ip"]);
}

/// The verbs that came later.
fn others(life: &Life<'_>, result: &Value) {
    let check = life.call("CHECK", &[("prevResult", result)]);
    if life.version >= "0.4.0" {
        check.silent();
    } else {
        assert_eq!(check.error().code, 1);
    }
    let valid = json!([{"containerID": "c1", "ifname": "eth0"}]);
    for (verb, more) in [("STATUS", &[][..]), ("GC", &[("cni.dev/valid-attachments", &valid)])] {
        let outcome = life.call(verb, more);
        if life.version >= "1.1.0" {
            outcome.silent();
        } else {
            assert_eq!(outcome.error().code, 1, "{verb}");
        }
    }
}
