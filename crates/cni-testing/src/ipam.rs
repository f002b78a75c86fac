//! What IPAM says, for plans.
#![allow(clippy::panic, reason = "a test fails by a panic")]

use serde_json::{Value, json};

/// A result as host-local or static gives it for this configuration of a plugin: the address 9 of each range set with its
/// gateway, if that is configured, else address 1; or the addresses of static. And the configured routes.
///
/// # Panics
/// If the configuration has something else.
pub fn result(config: &Value) -> Value {
    let ipam = &config["ipam"];
    let sets = ipam["ranges"].as_array().into_iter().flatten();
    let of_set = |set: &Value| {
        let range = &set[0];
        let Some((network, prefix)) = range["subnet"].as_str().and_then(|subnet| subnet.split_once('/')) else {
            panic!("{range} has no subnet")
        };
        let base = network.trim_end_matches('0');
        let gateway = range["gateway"].as_str().map_or_else(|| format!("{base}1"), str::to_owned);
        json!({"address": format!("{base}9/{prefix}"), "gateway": gateway})
    };
    let given = ipam["addresses"].as_array().into_iter().flatten().cloned();
    let ips: Vec<Value> = sets.map(of_set).chain(given).collect();
    json!({"cniVersion": "1.1.0", "ips": ips, "routes": ipam["routes"].as_array().cloned().unwrap_or_default()})
}
