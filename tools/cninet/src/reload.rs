//! `reload`: puts rules back after the packet filter was flushed, while containers keep running.

use std::collections::BTreeSet;
use std::rc::Rc;

use cni_attach::{MasqueradeSettings, masquerade, pair};
use cni_netfilter::{MacGuard, Netfilter};
use cni_plugin::{Difference, Family, Undo};
use cni_runtime::{NetworkList, PluginConfig, is_at_least};
use serde_json::Value;

use crate::attached::{Attached, attached};
use crate::failure::Failure;
use crate::node::Node;
use crate::output;

/// Plugins whose ADD is idempotent, for versions without CHECK.
const IDEMPOTENT: [&str; 2] = ["portmap", "firewall"];

/// Repairs the attachments of this network, or of all: each plugin that finds a difference puts back what it is about, with the
/// cached result; what is whole is not touched.
///
/// Goes on after a failure.
pub fn reload(node: &Node, network: Option<&str>) -> Result<(), Failure> {
    let all = attached(node)?;
    // containerd has an attachment of `lo` for each pod, which has no rules.
    let is_loopback = |one: &Attached| one.entry.attachment.ifname.as_str() == "lo";
    let is_named = |one: &Attached| network.is_none_or(|name| one.entry.network.as_str() == name);
    let is_meant = |one: &&Attached| is_named(one) && !is_loopback(one);
    let meant: Vec<&Attached> = all.iter().filter(is_meant).filter(|one| one.state.is_running()).collect();
    if let Some(name) = network.filter(|_| meant.is_empty()) {
        // A network that nobody is on has nothing to put back, but it must be one.
        node.network(name)?;
    }
    let (mut repaired, mut failures) = (BTreeSet::new(), 0);
    for one in &meant {
        match repair(node, one) {
            Ok(plugins) if plugins.is_empty() => {}
            Ok(plugins) => {
                let (owner, names) = (one.owner(), plugins.join(", "));
                output::print(format!("{owner}: {names}\n").as_bytes())?;
                repaired.insert(owner);
            }
            Err(error) => {
                failures += 1;
                eprintln!("{}: {error}", one.owner());
            }
        }
    }
    let whole = meant.len() - repaired.len() - failures;
    output::print(format!("{} repaired, {whole} were whole\n", repaired.len()).as_bytes())?;
    if failures == 0 { Ok(()) } else { Err(Failure::new(format!("{failures} could not be repaired"))) }
}

/// The plugins that had something to put back.
fn repair(node: &Node, one: &Attached) -> Result<Vec<String>, Failure> {
    let list = one.entry.list().cloned().or_else(|_| node.network(one.entry.network.as_str()))?;
    let mut repaired = Vec::new();
    if let Some(first) = list.plugins.first() {
        repaired.extend(repair_interface(one, first)?.then(|| first.plugin_type.clone()));
    }
    for plugin in list.plugins.iter().skip(1) {
        if repair_chained(node, one, &list, plugin)? {
            repaired.push(plugin.plugin_type.clone());
        }
    }
    Ok(repaired)
}

/// A chained plugin: CHECK, and if that finds a difference, ADD.
fn repair_chained(node: &Node, one: &Attached, list: &NetworkList, plugin: &PluginConfig) -> Result<bool, Failure> {
    let result = one.entry.add_result()?;
    let attachment = &one.entry.attachment;
    if is_at_least(&list.cni_version, "0.4.0").unwrap_or_default() {
        if node.runtime.check_one(list, plugin, attachment, Some(&result)).is_ok() {
            return Ok(false);
        }
    } else if !IDEMPOTENT.contains(&plugin.plugin_type.as_str()) {
        return Ok(false);
    }
    node.runtime.add_one(list, plugin, attachment, Some(&result))?;
    Ok(true)
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// What the plugin that makes the interface has in the packet filter: its ADD can't be repeated, as the interface is there.
fn repair_interface(one: &Attached, plugin: &PluginConfig) -> Result<bool, Failure> {
    let (key, owner) = (|key: &str| plugin.object.get(key), one.owner());
    let is = |name: &str| key(name).and_then(Value::as_bool).unwrap_or_default();
    let filter = Rc::new(Netfilter::asking(pair::is_there));
    let mut differences: Vec<Difference> = Vec::new();
    let mut undo = Undo::new();
    if matches!(plugin.plugin_type.as_str(), "bridge" | "ptp") && is("ipMasq") {
        let backend = key("ipMasqBackend").and_then(Value::as_str).unwrap_or_default();
        let mut settings = MasqueradeSettings::resolve(true, backend)?;
        if let Some(families) = key("ipMasqFamilies").and_then(Value::as_array) {
            settings.families.retain(|family| families.iter().any(|name| name == name_of(*family)));
        }
        let wanted = settings.wanted(&owner, &one.reported().ips);
        let missing = settings.check(&filter, &wanted)?;
        if !missing.is_empty() {
            let ipam = cni_plugin::json::decode(key("ipam").cloned().unwrap_or_default()).unwrap_or_default();
            masquerade::add(&filter, settings.choose(&filter, &ipam)?, &wanted, &mut undo)?;
        }
        differences.extend(missing);
    }
    if plugin.plugin_type == "bridge" && is("macspoofchk") {
        let (port, mac) = (one.node_link(), one.interface().map(|interface| interface.mac.as_str()));
        if let (Some(port), Some(mac)) = (port.and_then(|port| port.parse().ok()), mac.and_then(|mac| mac.parse().ok()))
        {
            let guard = MacGuard { owner, port, mac };
            let missing = filter.check_mac_guard(&guard)?;
            if !missing.is_empty() {
                filter.add_mac_guard(&guard, &mut undo)?;
            }
            differences.extend(missing);
        }
    }
    undo.commit();
    Ok(!differences.is_empty())
}
