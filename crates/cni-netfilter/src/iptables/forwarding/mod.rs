//! Forwarding: ADD, CHECK, DEL and GC against one family's `filter` table.
//!
//! ADD and DEL assume a node in use: the chains are there, and one transaction changes what is the attachment's own and
//! prints what was there before. From that follows what else has to be done; usually nothing.

pub(crate) mod legacy;
mod plan;
mod rules;

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::{Difference, Family, NetworkName, Owner};

use self::plan::Wanted;
use super::owned::{additions, change, owner_key};
use super::tool::{IptablesError, Place, Reading, Rule, Script, ScriptCommand, Table, Tools, command};
use crate::intent::{Attachments, Forwarding};

pub(super) use rules::{ACCEPTS, OWNERS};

type Outcome = Result<(), IptablesError>;

/// The table that [`add`] makes of an empty one.
pub(super) fn plan(intent: &Forwarding, family: Family) -> Table {
    let mut table = Table::empty(rules::TABLE);
    if let Some(wanted) = Wanted::new(intent, family) {
        wanted.make(&mut table);
    }
    table
}

/// Accepts what is forwarded for the intent's addresses of `family`, and sets the policy of its bridge.
pub(super) fn add(family: Family, intent: &Forwarding) -> Outcome {
    let Some(wanted) = Wanted::new(intent, family) else { return Ok(()) };
    refuse_wildcard(wanted)?;
    if wanted.is_large() {
        return make(family, wanted);
    }
    let own = wanted.own();
    let mut script = list(&wanted.chains());
    for rule in &own {
        script.push(match rules::place(rule) {
            Place::First => ScriptCommand::Insert(rule.clone()),
            Place::Last => ScriptCommand::Append(rule.clone()),
        });
    }
    let before = match Tools::of(family).restore(&script) {
        Ok(listing) => concerning(wanted, &listing),
        Err(error) if error.is_refusal() => return make(family, wanted),
        Err(error) => return Err(error),
    };
    if wanted.gives_up(&before) {
        // The rules for that are others', or in chains that weren't listed.
        return make(family, wanted);
    }
    let mut table = before;
    own.iter().for_each(|rule| table.add(rule.clone(), Place::Last));
    let mut table = table.settled();
    wanted.make(&mut table);
    if table.changes().commands().is_empty() {
        return Ok(());
    }
    match Tools::of(family).restore(table.changes()) {
        Err(error) if error.is_refusal() => make(family, wanted),
        outcome => outcome.map(drop),
    }
}

/// Reads the whole table, and adds what it lacks.
fn make(family: Family, wanted: Wanted<'_>) -> Outcome {
    change(|| Reading::of(Tools::of(family), rules::TABLE), |table| wanted.make(table))
}

/// Prints these chains, which have to be there.
fn list(chains: &[&str]) -> Script {
    let mut script = Script::new(rules::TABLE);
    chains.iter().for_each(|chain| script.push(ScriptCommand::List((*chain).to_owned())));
    script
}

/// Those of the listed rules that can matter to one attachment.
fn concerning(wanted: Wanted<'_>, listing: &str) -> Table {
    let (addresses, key) = (wanted.addresses().collect::<HashSet<_>>(), wanted.owner().key());
    let lines = listing.lines().filter(|line| !rules::is_of_others(line, &addresses, &key));
    Table::parse(rules::TABLE, &lines.collect::<Vec<_>>().join("\n"))
}

fn refuse_wildcard(wanted: Wanted<'_>) -> Outcome {
    let bridge = wanted.ingress().map(|ingress| ingress.bridge.as_str()).filter(|name| name.ends_with('+'));
    let why = "iptables takes a '+' at the end of an interface's name for a wildcard";
    bridge.map_or(Ok(()), |name| Err(IptablesError::Unwritable { value: name.to_owned(), why }))
}

/// Removes what the owner has. Assumes that it has exactly what `hint` says, and else reads the table.
pub(super) fn remove(family: Family, owner: &Owner, hint: &Forwarding) -> Outcome {
    let Some(wanted) = Wanted::new(hint, family) else { return Ok(()) };
    let search = || remove_all(family, owner, &wanted.addresses().collect::<Vec<_>>());
    if wanted.is_large() {
        return search();
    }
    let own = wanted.own();
    let mut script = list(&[OWNERS]);
    script.delete(&own);
    let mut left = match Tools::of(family).restore(&script) {
        Ok(listing) => concerning(wanted, &listing),
        Err(error) if error.is_refusal() || error.is_about_tools() => return search(),
        Err(error) => return Err(error),
    };
    own.iter().for_each(|rule| left.delete(rule));
    // What is left of it, and a bridge that no owner is behind now, take the whole table.
    let bridge = wanted.ingress().map(|ingress| ingress.bridge.as_str());
    let bridge = bridge.filter(|name| !plan::bridge_has_owner(&left, name));
    if plan::owned_by(&left, owner).next().is_none() && bridge.is_none() {
        return Ok(());
    }
    removing(family, |table| {
        plan::remove(table, owner, &[]);
        bridge.into_iter().for_each(|bridge| plan::release_bridge(table, bridge));
    })
}

/// Removes what the owner has, and what Go made for the addresses `hints`; reads the table first.
pub(super) fn remove_all(family: Family, owner: &Owner, hints: &[IpAddr]) -> Outcome {
    removing(family, |table| plan::remove(table, owner, hints))
}

/// Removes what owners in `network` other than `valid` have.
pub(super) fn retain(family: Family, network: &NetworkName, valid: &[Owner]) -> Outcome {
    removing(family, |table| plan::retain(table, network, valid))
}

/// Reads the table and carries out a plan that only removes. A node may do without IPv6, and so without its tools.
fn removing(family: Family, plan: impl Fn(&mut Table)) -> Outcome {
    change(|| Reading::for_removal(Tools::of(family), rules::TABLE, || family == Family::V6), plan)
}

/// True if the tool finds all that is wanted, without reading the table.
fn is_there(family: Family, wanted: Wanted<'_>) -> Result<bool, IptablesError> {
    let mut script = list(&[rules::FORWARD]);
    script.check(&wanted.shared());
    script.check(&wanted.own());
    finds_all(Tools::of(family), &script)
}

/// True if what `script` checks is there, and the policies in the listing of `FORWARD` come before the accepts.
fn finds_all(tools: Tools, script: &Script) -> Result<bool, IptablesError> {
    match tools.restore(script) {
        Ok(listing) => Ok(plan::late_policies(&Table::parse(rules::TABLE, &listing)).is_none()),
        Err(error) if error.is_refusal() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What of [`add`] isn't there: asks the kernel first, and reads the table only to name it. The differences are what ADD
/// would change.
pub(super) fn check(
    family: Family,
    intent: &Forwarding,
    attached: &dyn Attachments,
) -> Result<Vec<Difference>, IptablesError> {
    let Some(wanted) = Wanted::new(intent, family) else { return Ok(Vec::new()) };
    if !wanted.is_large() && is_there(family, wanted)? {
        return Ok(Vec::new());
    }
    let before = Reading::of(Tools::of(family), rules::TABLE)?.table;
    let mut table = before.clone();
    wanted.make(&mut table);
    let made_by_go = wanted.was_made_by_go(&before);
    let place = format!("{} -t {}", command(family), rules::TABLE);
    let differences = |change: &ScriptCommand| match change {
        // Go makes no entries and no jump to them.
        ScriptCommand::Insert(rule) | ScriptCommand::Append(rule)
            if made_by_go && (rule.chain == OWNERS || rule.target() == Some(OWNERS)) =>
        {
            Vec::new()
        }
        ScriptCommand::Delete(rule) if made_by_go && is_left_over(rule, wanted, attached) => Vec::new(),
        ScriptCommand::Delete(rule) => deletion(rule, &place).into_iter().collect(),
        change => additions([change], &before, &place),
    };
    Ok(table.changes().commands().iter().flat_map(differences).collect())
}

/// True for an entry that Go's DEL left: one of the owner itself, or of another that is gone while this attachment is there.
fn is_left_over(entry: &Rule, wanted: Wanted<'_>, attached: &dyn Attachments) -> bool {
    let comment = entry.comment().unwrap_or_default();
    entry.chain == OWNERS
        && (wanted.owner().wrote(comment) || (attached.has_own() && !attached.has(owner_key(comment))))
}

/// What the rule that ADD would delete says: an entry of another owner, or another policy. What is moved is an addition.
fn deletion(rule: &Rule, place: &str) -> Option<Difference> {
    if rule.chain == OWNERS {
        let thing = format!("{} of {}", rule.value("-d").or(rule.value("-i")).unwrap_or("an entry"), OWNERS);
        return Some(Difference::new(thing, "this container's", rule.comment().unwrap_or("another program's")));
    }
    let is_other_policy = rules::is_policy(rule) && rule.chain != rules::FORWARD;
    is_other_policy.then(|| Difference::new(format!("{place} {rule}"), "absent", "present"))
}
