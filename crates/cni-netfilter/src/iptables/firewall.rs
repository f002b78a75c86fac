//! Forwarding in the iptables backend: the verbs against one family's `filter` table.
//!
//! ADD and DEL bet on a node in use: the chains are there, and one transaction changes what is the attachment's own and
//! prints what was there before. From that follows what else has to be done; usually nothing.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::{Difference, NetworkName, Owner};

use super::attach::again;
use super::error::IptablesError;
use super::firewall_model::{Change, Model};
use super::firewall_plan::{self as plan, Wanted};
use super::firewall_rules as rules;
use super::read::{Reading, read};
use super::rules::{Rule, Script};
use super::save::Table;
use super::tool::{Family, concurrently, restore};
use super::{Iptables, all, flatten, present};
use crate::{Attachments, Forwarding};

type Outcome = Result<(), IptablesError>;

impl Iptables {
    /// The chains of the `filter` table of which one is there if anything of an owner is.
    pub const FORWARDING_CHAINS: [&'static str; 2] = [rules::OWNERS, rules::ACCEPTS];

    /// Accepts what the intent's addresses send and the replies to it, and keeps the bridge's policy. Idempotent; the
    /// latest call says what the owner has and what the bridge's policy is. An address that another owner had becomes
    /// this one's.
    ///
    /// If one family fails, what the owner has in the other is removed again and the first error is returned.
    pub fn add_forwarding(&self, intent: &Forwarding) -> Result<(), IptablesError> {
        let families = present(|family| Wanted::new(intent, family).is_some());
        let outcomes = concurrently(&families, |family| match Wanted::new(intent, family) {
            Some(wanted) => add(family, wanted),
            None => Ok(()),
        });
        let Err(error) = all(outcomes) else { return Ok(()) };
        // The first error is the one to report; what can't be taken back now is DEL's to remove.
        drop(concurrently(&families, |family| remove_reading(family, &intent.owner, &[])));
        Err(error)
    }

    /// What of [`Iptables::add_forwarding`] isn't there. Changes nothing.
    ///
    /// The Go plugin's rules satisfy it: they name no owner. Then entries that Go's DEL left are no difference either, those of
    /// another owner if it is no longer `attached`.
    pub fn check_forwarding(
        &self,
        intent: &Forwarding,
        attached: &dyn Attachments,
    ) -> Result<Vec<Difference>, IptablesError> {
        let families = present(|family| Wanted::new(intent, family).is_some());
        flatten(concurrently(&families, |family| match Wanted::new(intent, family) {
            Some(wanted) => check(family, wanted, attached),
            None => Ok(Vec::new()),
        }))
    }

    /// Removes what the owner has, and what Go made for the addresses of `hint` unless they are another owner's; the
    /// policies of bridges that nobody is behind any more, too. Idempotent; needs no hint, but is faster with what the
    /// owner is thought to have, and then leaves a family without any address alone.
    pub fn remove_forwarding(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<(), IptablesError> {
        let wanted = |family| hint.and_then(|hint| Wanted::new(hint, family));
        let hinted = present(|family| wanted(family).is_some());
        if hinted.is_empty() {
            return all(concurrently(&Family::ALL, |family| remove_reading(family, owner, &[]))).map(drop);
        }
        all(concurrently(&hinted, |family| wanted(family).map_or(Ok(()), |wanted| remove(family, owner, wanted))))
            .map(drop)
    }

    /// Removes what owners in `network` other than `valid` have. What Go made names no owner and stays.
    pub fn retain_forwarding(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), IptablesError> {
        all(concurrently(&Family::ALL, |family| removing(family, |model| plan::retain(model, network, valid))))
            .map(drop)
    }
}

fn list(chains: &[&str]) -> Script {
    let mut script = Script::default();
    script.table(rules::TABLE);
    chains.iter().for_each(|chain| script.list(chain));
    script
}

fn add(family: Family, wanted: Wanted<'_>) -> Outcome {
    if wanted.is_large() {
        return reading(family, |model| wanted.make(model));
    }
    let own = wanted.own();
    let mut script = list(&wanted.chains());
    refuse_wildcard(wanted, &mut script);
    own.iter().for_each(|rule| if rules::comes_first(rule) { script.insert(rule) } else { script.append(rule) });
    let before = match restore(family, &script.commit_and_finish()?) {
        Ok(listing) => concerning(wanted, &listing),
        Err(error) if error.is_refusal() => return reading(family, |model| wanted.make(model)),
        Err(error) => return Err(error),
    };
    if wanted.gives_up(&before) {
        // The rules for that are others', or in chains that weren't listed.
        return reading(family, |model| wanted.make(model));
    }
    let mut model = before.with_added(&own);
    wanted.make(&mut model);
    match carry_out(family, &model) {
        Err(error) if error.is_refusal() => reading(family, |model| wanted.make(model)),
        outcome => outcome,
    }
}

/// Those of the listed rules that can matter to one attachment.
fn concerning(wanted: Wanted<'_>, listing: &str) -> Model {
    let (addresses, key) = (wanted.addresses().collect::<HashSet<_>>(), wanted.owner().key());
    let lines = listing.lines().filter(|line| !rules::is_anothers(line, &addresses, &key));
    Model::new(&Table::parse(&lines.collect::<Vec<_>>().join("\n")))
}

/// Reads the table, plans and carries out, again if somebody acted in between.
fn reading(family: Family, change: impl Fn(&mut Model)) -> Outcome {
    again(|| {
        let mut model = Model::new(&read(family, rules::TABLE)?);
        change(&mut model);
        carry_out(family, &model)
    })
}

/// The same for a change that only removes.
fn removing(family: Family, change: impl Fn(&mut Model)) -> Outcome {
    again(|| {
        // A node may do without IPv6, and so without its tools.
        let reading = Reading::of(family, rules::TABLE, || family == Family::V6)?;
        let mut model = Model::new(&reading.table);
        change(&mut model);
        if model.changes().is_empty() { Ok(()) } else { reading.remove(family, &model.script().finish()?) }
    })
}

fn carry_out(family: Family, model: &Model) -> Outcome {
    if model.changes().is_empty() {
        return Ok(());
    }
    restore(family, &model.script().finish()?).map(drop)
}

fn refuse_wildcard(wanted: Wanted<'_>, script: &mut Script) {
    if let Some(ingress) = wanted.ingress().filter(|ingress| ingress.bridge.as_str().ends_with('+')) {
        script.refuse(ingress.bridge.as_str(), "iptables takes a '+' at the end of an interface's name for a wildcard");
    }
}

/// Bets that the owner has exactly what is thought.
fn remove(family: Family, owner: &Owner, wanted: Wanted<'_>) -> Outcome {
    if wanted.is_large() {
        return remove_reading(family, owner, &wanted.addresses().collect::<Vec<_>>());
    }
    let own = wanted.own();
    let mut script = list(&[rules::OWNERS]);
    own.iter().for_each(|rule| script.delete(rule));
    let left = match restore(family, &script.commit_and_finish()?) {
        Ok(listing) => concerning(wanted, &listing).without(&own),
        Err(error) if error.is_refusal() || error.is_about_tools() => {
            return remove_reading(family, owner, &wanted.addresses().collect::<Vec<_>>());
        }
        Err(error) => return Err(error),
    };
    // What is left of it, and a bridge that nobody is behind now, take the whole table.
    let bridge = wanted.ingress().map(|ingress| ingress.bridge.as_str()).filter(|name| !left.bridge_has_owner(name));
    if left.owned_by(owner).next().is_none() && bridge.is_none() {
        return Ok(());
    }
    removing(family, |model| {
        plan::remove(model, owner, &[]);
        bridge.into_iter().for_each(|bridge| plan::release_bridge(model, bridge));
    })
}

fn remove_reading(family: Family, owner: &Owner, hints: &[IpAddr]) -> Outcome {
    removing(family, |model| plan::remove(model, owner, hints))
}

/// True if the tool finds all that is wanted, without reading the table.
fn is_there(family: Family, wanted: Wanted<'_>) -> Result<bool, IptablesError> {
    let mut script = list(&[rules::FORWARD]);
    wanted.shared().iter().chain(&wanted.own()).for_each(|rule| script.check(rule));
    match restore(family, &script.commit_and_finish()?) {
        Ok(listing) => Ok(!plan::is_out_of_order(&Model::new(&Table::parse(&listing)))),
        Err(error) if error.is_refusal() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks the kernel first, and reads the table only to name what isn't there.
fn check(family: Family, wanted: Wanted<'_>, attached: &dyn Attachments) -> Result<Vec<Difference>, IptablesError> {
    if !wanted.is_large() && is_there(family, wanted)? {
        return Ok(Vec::new());
    }
    let mut model = Model::new(&read(family, rules::TABLE)?);
    let before = model.clone();
    wanted.make(&mut model);
    let made_by_go = wanted.was_made_by_go(&before);
    let difference = |change: &Change| match change {
        // Go makes no entries and no jump to them.
        Change::Insert(rule) | Change::Append(rule)
            if made_by_go && (rule.chain == rules::OWNERS || rule.target() == Some(rules::OWNERS)) =>
        {
            None
        }
        Change::Delete(rule) if made_by_go && is_left_over(rule, wanted, attached) => None,
        change => differs(change, family, &before),
    };
    Ok(model.changes().iter().filter_map(difference).collect())
}

/// True for an entry that Go's DEL left: one of the owner itself, or of another that is gone while this attachment is there.
fn is_left_over(entry: &Rule, wanted: Wanted<'_>, attached: &dyn Attachments) -> bool {
    let comment = entry.comment().unwrap_or_default();
    let key = comment.split(',').next().unwrap_or_default();
    entry.chain == rules::OWNERS && (wanted.owner().wrote(comment) || (attached.has_own() && !attached.has(key)))
}

/// What a change of the table says about it.
fn differs(change: &Change, family: Family, before: &Model) -> Option<Difference> {
    let name = |rule: &Rule| format!("{} -t {} {rule}", family.command(), rules::TABLE);
    match change {
        Change::Create(_) => None,
        Change::Insert(rule) | Change::Append(rule) if before.has(rule) => {
            Some(Difference::new(name(rule), "in front of the rules that accept", "behind one"))
        }
        Change::Insert(rule) | Change::Append(rule) => Some(Difference::missing(name(rule))),
        Change::Delete(rule) if rule.chain == rules::OWNERS => {
            let thing = format!("{} of {}", rule.value("-d").or(rule.value("-i")).unwrap_or("an entry"), rules::OWNERS);
            Some(Difference::new(thing, "this container's", rule.comment().unwrap_or("somebody else's")))
        }
        Change::Delete(rule) if rules::is_policy(rule) && rule.chain != rules::FORWARD => {
            Some(Difference::new(name(rule), "absent", "present"))
        }
        Change::Delete(_) => None,
    }
}
