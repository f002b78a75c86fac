//! A valid call of any of the plugins, for tables that spoil one thing of it.

use cni_tests::{Call, Netns, Sandbox, conf};
use serde_json::{Value, json};

/// The plugins that every table is about.
pub(crate) const PLUGINS: [&str; 8] =
    ["bridge", "host-local", "portmap", "loopback", "static", "tuning", "ptp", "firewall"];

/// Every version of the spec, oldest first.
pub(crate) const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The smallest configuration that ADD of a plugin accepts.
pub(crate) fn minimal(plugin: &str, version: &str) -> Value {
    match plugin {
        "host-local" => conf::host_local(version, &["10.1.2.0/24"]),
        "bridge" => conf::named(version, json!({"type": "bridge", "bridge": "br-test"})),
        "portmap" | "tuning" | "firewall" => {
            conf::named(version, json!({"type": plugin, "prevResult": previous(version)}))
        }
        "ptp" => {
            let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
            conf::named(version, json!({"type": "ptp", "ipam": ipam}))
        }
        "static" => {
            let ipam = json!({"type": "static", "addresses": [{"address": "10.1.2.3/24"}]});
            conf::named(version, json!({"type": "static", "ipam": ipam}))
        }
        _ => conf::named(version, json!({"type": plugin})),
    }
}

/// A result that a plugin before this one could have given, at a version's shape.
pub(crate) fn previous(version: &str) -> Value {
    match version {
        "0.1.0" | "0.2.0" => json!({"cniVersion": version, "ip4": {"ip": "10.1.2.3/24"}, "dns": {}}),
        "0.3.0" | "0.3.1" | "0.4.0" => json!({
            "cniVersion": version, "ips": [{"version": "4", "address": "10.1.2.3/24"}], "dns": {}
        }),
        _ => json!({"cniVersion": version, "ips": [{"address": "10.1.2.3/24"}]}),
    }
}

/// A call with everything in place: `eth0` of container `c1`, minimal configuration.
pub(crate) fn ready(sandbox: &Sandbox, plugin: &str, verb: &str, version: &str, netns: &Netns) -> Call {
    sandbox.plugin(plugin, verb).attach("c1", "eth0", netns).conf(&minimal(plugin, version))
}

/// A result without an empty `dns`, which plugins older than 1.2.0 print at 1.x and which says nothing there.
pub(crate) fn tidy(mut result: Value) -> Value {
    if result["cniVersion"].as_str().is_some_and(|v| v >= "1.0.0") && result["dns"] == json!({}) {
        result.as_object_mut().map(|r| r.remove("dns"));
    }
    result
}
