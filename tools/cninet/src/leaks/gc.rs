//! `gc`: removes what `leaks` shows, by DEL of each owner and then, if something remains, GC of its network.

use std::collections::{BTreeMap, BTreeSet};

use cni_plugin::{NetworkName, Owner};
use cni_runtime::{Attachment, NetworkList, ValidAttachment, is_at_least};
use serde_json::json;

use super::survey::{Leak, Survey};
use super::traces::Trace;
use super::{Gc, Row, print};
use crate::failure::Failure;
use crate::node::Node;
use crate::output;

/// Shows the leaks, and removes them.
pub fn gc(node: &Node, wanted: &Gc, as_json: bool) -> Result<(), Failure> {
    let survey = Survey::of(node)?;
    let found = survey.leaks(&wanted.scope);
    if as_json {
        output::json(&found.iter().map(|leak| Row::of(leak)).collect::<Vec<_>>())?;
    } else {
        print(&found, false)?;
    }
    survey.say(&wanted.scope);
    if found.is_empty() || wanted.dry_run {
        return Ok(());
    }
    if survey.valid.is_empty() && !wanted.all {
        let cache = node.runtime.cache.path();
        let text = format!(
            "nothing removed: no attachment in {} has a living namespace; if that is so, as after a reboot, say --all",
            cache.display()
        );
        return Err(Failure::new(text));
    }
    if !output::confirm(&format!("Remove these {}?", found.len()), wanted.yes)? {
        return Ok(());
    }
    let failures = remove(node, &survey, &found);
    let after = Survey::of(node)?;
    let remaining = after.leaks(&wanted.scope);
    // What has leaked meanwhile was not shown.
    let shown = |leak: &&&Leak| found.iter().any(|before| same(&before.trace, &leak.trace));
    let remaining: Vec<&Leak> = remaining.iter().filter(shown).copied().collect();
    let removed = found.len() - remaining.len();
    eprintln!("{removed} removed, {} remain", remaining.len());
    for failure in &failures {
        eprintln!("{failure}");
    }
    if remaining.is_empty() { Ok(()) } else { Err(Failure::new(format!("{} could not be removed", remaining.len()))) }
}

fn same(one: &Trace, other: &Trace) -> bool {
    (one.kind, &one.place, &one.who, &one.address) == (other.kind, &other.place, &other.who, &other.address)
}

/// Removes the leaks; returns what went wrong.
fn remove(node: &Node, survey: &Survey, leaks: &[&Leak]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut by_owner: BTreeMap<Owner, Vec<&Leak>> = BTreeMap::new();
    for leak in leaks {
        match leak.owner.clone().or_else(|| guessed(leak)) {
            Some(owner) => by_owner.entry(owner).or_default().push(leak),
            None => failures.push(format!("{} {}: its owner's names are not known", leak.trace.kind, leak.trace.what)),
        }
    }
    let mut networks = BTreeSet::new();
    for (owner, leaks) in &by_owner {
        let list = list_of(survey, owner, leaks);
        if list.disable_gc {
            failures.push(format!("{owner}: its network says disableGC"));
            continue;
        }
        networks.insert(owner.network.clone());
        let cached = survey.attached.iter().find(|one| one.owner() == *owner);
        let bare = || Attachment::new(owner.container_id.clone(), owner.ifname.clone());
        // The namespace is not given: by now its path may be another container's.
        let attachment =
            cached.map_or_else(bare, |one| Attachment { netns: Default::default(), ..one.entry.attachment.clone() });
        if let Err(error) = node.runtime.del(&list, &attachment) {
            failures.push(format!("{owner}: {error}"));
        }
    }
    for network in networks {
        failures.extend(collect(node, &network).err().map(|error| format!("network {network}: {error}")));
    }
    failures
}

/// GC of the network's plugins, if DEL of its owners has left something.
fn collect(node: &Node, network: &NetworkName) -> Result<(), Failure> {
    let survey = Survey::of(node)?;
    let list = survey.lists.iter().find(|list| list.name == *network);
    let Some(list) = list.filter(|list| is_at_least(&list.cni_version, "1.1.0").unwrap_or_default()) else {
        return Ok(());
    };
    let all = super::Scope { network: Some(network.to_string()), unrecorded: false };
    if survey.leaks(&all).is_empty() {
        return Ok(());
    }
    let kept = survey.valid.iter().chain(&survey.unrecorded).filter(|owner| owner.network == *network);
    let kept: Vec<ValidAttachment> = kept.map(ValidAttachment::from).collect();
    Ok(node.runtime.gc(list, Some(&kept))?)
}

/// The owner of what names only a part of it: the interface is what most are called.
fn guessed(leak: &Leak) -> Option<Owner> {
    let (network, container, ifname) = leak.names();
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    Some(Owner {
        network: or(network, "unknown").parse().ok()?,
        container_id: container.parse().ok()?,
        ifname: or(ifname, "eth0").parse().ok()?,
    })
}

/// The configuration to remove an owner's things with: that of its ADD, else the network's, else one of those plugins that make such
/// things, whose DEL needs the owner alone.
fn list_of(survey: &Survey, owner: &Owner, leaks: &[&Leak]) -> NetworkList {
    let configured = survey.lists.iter().find(|list| list.name == owner.network);
    let cached = survey.attached.iter().find(|one| one.owner() == *owner).and_then(|one| one.entry.list().ok());
    let disable_gc = configured.is_some_and(|list| list.disable_gc);
    let list = cached.or(configured).cloned().unwrap_or_else(|| made_up(owner, leaks));
    NetworkList { disable_gc: disable_gc || list.disable_gc, ..list }
}

fn made_up(owner: &Owner, leaks: &[&Leak]) -> NetworkList {
    let has = |kind: &str, text: &str| {
        leaks
            .iter()
            .any(|leak| leak.trace.kind == kind && format!("{} {}", leak.trace.what, leak.trace.place).contains(text))
    };
    let data_dir = leaks
        .iter()
        .filter(|leak| leak.trace.kind == "address")
        .find_map(|leak| Some(std::path::Path::new(&leak.trace.place).parent()?.display().to_string()));
    let mut ipam = json!({"type": "host-local", "subnet": "192.0.2.0/24"});
    if let Some(dir) = data_dir {
        ipam["dataDir"] = json!(dir);
    }
    // bridge removes the link, its masquerading and its guard, and has the addresses released.
    let mut plugins = vec![json!({"type": "bridge", "ipam": ipam})];
    for (plugin, is_needed) in [
        ("portmap", has("rules", "cni_ports") || has("rules", "cni_hostport") || has("rules", "chain CNI-DN-")),
        ("firewall", has("rules", "cni_firewall") || has("rules", "CNI-FORWARD")),
        ("bandwidth", has("link", "(ifb)")),
        ("tuning", has("backup", "")),
        ("host-device", has("device", "")),
        ("dnsname", has("names", "")),
    ] {
        if is_needed {
            plugins.push(json!({"type": plugin}));
        }
    }
    let list = json!({"cniVersion": "1.0.0", "name": owner.network, "plugins": plugins});
    let empty = NetworkList {
        name: owner.network.clone(),
        cni_version: String::new(),
        disable_check: false,
        disable_gc: false,
        load_only_inlined_plugins: true,
        plugins: Vec::new(),
        bytes: Vec::new(),
    };
    NetworkList::parse(list.to_string().as_bytes()).unwrap_or(empty)
}
