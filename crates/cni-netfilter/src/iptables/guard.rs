//! The guard of `route_localnet`: with it the kernel would take packets for 127.0.0.0/8 from the container's side, and
//! so let containers reach what listens on the host's loopback only.
//!
//! It sits in `raw`, which sees a packet before connection tracking, NAT and any filter. There no packet from or for
//! 127.0.0.0/8 is legitimate: the host's own connections to published ports were masqueraded on the way out, so their
//! replies are for an address of the host's. `PREROUTING` asks for the address, so that other packets pay for two rules
//! however many interfaces are guarded; the chain has one rule for each of those, shared by all attachments behind it.

use cni_plugin::{Difference, IfName};

use super::error::IptablesError;
use super::plan::{Frame, Place};
use super::rules::{Rule, Script};
use super::save::Table;
use crate::PortForwards;

/// The table the guard is in.
pub(super) const TABLE: &str = "raw";
pub(super) const CHAIN: &str = "CNI-HOSTPORT-GUARD";
const COMMENT: &str = "CNI portfwd localnet guard of ";

/// Makes `script` fail unless the guards that `intents` want are there; a block of its own, none if they want none.
pub(super) fn require(intents: &[&PortForwards], script: &mut Script) {
    let frame = frame(intents);
    if let Some(name) = intents.iter().filter_map(|intent| guarded(intent)).find(|name| name.as_str().ends_with('+')) {
        script.refuse(name.as_str(), "iptables takes a '+' at the end of an interface's name for a wildcard");
    }
    if !frame.rules.is_empty() {
        script.table(TABLE);
        frame.require(script);
        script.commit();
    }
}

/// Adds the guards that `intents` want and `table` lacks; a block of its own, none if nothing lacks.
pub(super) fn repair(intents: &[&PortForwards], table: &Table, script: &mut Script) {
    let frame = frame(intents);
    if frame.rules.iter().any(|(rule, _)| !table.has(rule)) {
        script.table(TABLE);
        frame.complete(table, script);
        script.commit();
    }
}

/// True if any of `intents` wants a guard.
pub(super) fn wanted(intents: &[&PortForwards]) -> bool {
    intents.iter().any(|intent| guarded(intent).is_some())
}

/// What `table` lacks of the guards or has in front of them, for CHECK.
pub(super) fn differences(intents: &[&PortForwards], table: &Table) -> Vec<Difference> {
    frame(intents).differences(table, &format!("iptables -t {TABLE}"))
}

/// Removes the guards of interfaces that `stays` denies; the text is empty if there are none.
pub(super) fn retain(table: &Table, stays: impl Fn(&str) -> bool) -> Result<String, IptablesError> {
    let guards = table.chain(CHAIN).unwrap_or_default().iter();
    let guards = guards.filter(|rule| rule.comment().is_some_and(|text| text.starts_with(COMMENT)));
    let stale: Vec<&Rule> = guards.filter(|rule| rule.value("-i").is_some_and(|name| !stays(name))).collect();
    let mut script = Script::default();
    if !stale.is_empty() {
        script.table(TABLE);
        stale.iter().for_each(|rule| script.delete(rule));
        script.commit();
    }
    script.finish()
}

/// The guard is IPv4's: `route_localnet` is, and `::1` is never routed.
fn guarded(intent: &PortForwards) -> Option<&IfName> {
    intent.guard_localnet.as_ref().filter(|_| intent.container.is_ipv4())
}

fn frame(intents: &[&PortForwards]) -> Frame {
    let mut names: Vec<&str> = intents.iter().filter_map(|intent| guarded(intent)).map(IfName::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Frame::default();
    }
    // Not from `lo`: the host's own packets to itself need not walk the chain.
    let enters = ["-s", "-d"].map(|side| Rule::new("PREROUTING", [side, "127.0.0.0/8", "!", "-i", "lo", "-j", CHAIN]));
    // The name in the comment too: iptables 1.8.11 (nft) ignores interfaces when it looks for a rule to check or delete.
    let drops = |name: &&str| {
        let comment = format!("{COMMENT}{name}");
        Rule::new(CHAIN, ["-i", name, "-m", "comment", "--comment", &comment, "-j", "DROP"])
    };
    let mut rules: Vec<(Rule, Place)> = names.iter().map(|name| (drops(name), Place::Last)).collect();
    rules.extend(enters.map(|rule| (rule, Place::First)));
    Frame { chains: vec![CHAIN], rules }
}
