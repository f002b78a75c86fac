//! What should be in the `nat` table, and the transactions that get it there: pure functions from what is wanted and
//! what is there to a script.

use std::collections::BTreeSet;

use cni_plugin::Owner;

use super::names::{self, Kind, link_rule, owner_rule};
use super::rules::{Rule, Script};
use super::save::Table;

/// What one attachment should have in one family's `nat` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    pub(super) owner: Owner,
    /// The node's end of the container's link, if known.
    pub(super) link: Option<u32>,
    /// What it shares with others.
    pub(super) frame: Frame,
    /// The rules in its chain, by their arguments.
    pub(super) body: Vec<Vec<String>>,
    /// The rules that lead to its chain, which is the target still to be added: chain and arguments.
    pub(super) entries: Vec<(&'static str, Vec<String>)>,
    /// True if the entries have arguments of somebody else's, which the tool may print otherwise than they were given.
    pub(super) free_form: bool,
}

/// Chains and rules that all attachments of a kind share; created when absent, never removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) chains: Vec<&'static str>,
    pub(super) rules: Vec<(Rule, Place)>,
}

/// Where a rule of the frame goes in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Last,
}

impl Frame {
    /// Adds what `table` lacks of the frame to `script`.
    pub(super) fn complete(&self, table: &Table, script: &mut Script) {
        for chain in self.chains.iter().filter(|chain| table.chain(chain).is_none()) {
            script.create(chain);
        }
        for (rule, place) in self.rules.iter().filter(|(rule, _)| !table.has(rule)) {
            match place {
                Place::First => script.insert(rule),
                Place::Last => script.append(rule),
            };
        }
    }

    /// Makes `script` fail unless the frame is there.
    pub(super) fn require(&self, script: &mut Script) {
        for (rule, _) in &self.rules {
            script.check(rule);
        }
    }
}

impl Wanted {
    /// The rules inside `chain`, the one that names the owner left out.
    pub(super) fn body(&self, chain: &str) -> Vec<Rule> {
        self.body.iter().map(|args| Rule::new(chain, args.iter().cloned())).collect()
    }

    /// The rules that lead to `chain`.
    pub(super) fn entries(&self, chain: &str) -> Vec<Rule> {
        let jump = ["-j".to_owned(), chain.to_owned()];
        self.entries.iter().map(|(hook, args)| Rule::new(hook, args.iter().cloned().chain(jump.clone()))).collect()
    }

    /// Appends the attachment's own rules, under the shared name, on the assumption that nothing of them exists; if the
    /// frame isn't there or the name is taken, the block fails.
    pub(super) fn create(&self, script: &mut Script) {
        let chain = self.kind.shared_name(&self.owner);
        self.frame.require(script);
        script.create(&chain);
        self.fill(&chain, script);
        self.entries(&chain).iter().for_each(|rule| script.append(rule));
    }

    /// Deletes the attachment's rules, on the assumption that they are exactly these, under the shared name.
    ///
    /// Creating and deleting the chains that should *not* be there makes the block fail if they are.
    pub(super) fn delete(&self, script: &mut Script) {
        let chain = self.kind.shared_name(&self.owner);
        script.check(&owner_rule(&chain, &self.owner));
        for absent in [Some(self.kind.own_name(&self.owner)), self.kind.outdated_name(&self.owner)].iter().flatten() {
            script.create(absent);
            script.delete_chain(absent);
        }
        self.entries(&chain).iter().for_each(|rule| script.delete(rule));
        script.flush(&chain);
        script.delete_chain(&chain);
    }

    /// All rules of `chain`: the body, then whose it is, which no packet has to pass that the body decided on.
    pub(super) fn inside(&self, chain: &str) -> Vec<Rule> {
        let link = self.link.map(|link| link_rule(chain, link));
        self.body(chain).into_iter().chain([owner_rule(chain, &self.owner)]).chain(link).collect()
    }

    fn fill(&self, chain: &str, script: &mut Script) {
        self.inside(chain).iter().for_each(|rule| script.append(rule));
    }

    /// The chain to use, given what is in `table`: the owner's, else the shared name if it is free or Go's and to be
    /// taken over, else the owner's own name.
    ///
    /// Go's masquerade chain may serve another, living interface of the container and is taken over only if it says what
    /// we want anyway. Go's ports are the container's, and the latest ADD says what they are.
    pub(super) fn chain(&self, table: &Table) -> String {
        let shared = self.kind.shared_name(&self.owner);
        if let Some(owned) = names::owned(table, self.kind, &self.owner).into_iter().next() {
            return owned;
        }
        let rules = table.chain(&shared).unwrap_or_default();
        let jumps: Vec<Rule> = table.jumps_to(&shared).cloned().collect();
        let unused = rules.is_empty() && jumps.is_empty();
        let takes_over = names::unowned(table, self.kind, &self.owner).is_some()
            && (self.kind == Kind::Ports || same(rules, &self.body(&shared)) && same(&jumps, &self.entries(&shared)));
        if unused || takes_over { shared } else { self.kind.own_name(&self.owner) }
    }

    /// Adds to `script` what `table` lacks.
    pub(super) fn repair(&self, table: &Table, script: &mut Script) {
        self.frame.complete(table, script);
        let chain = self.chain(table);
        if !table.chain(&chain).is_some_and(|rules| same(rules, &self.inside(&chain))) {
            script.create_or_flush(&chain);
            self.fill(&chain, script);
        }
        let there: Vec<Rule> = table.jumps_to(&chain).cloned().collect();
        let wanted = self.entries(&chain);
        if !same(&there, &wanted) {
            there.iter().for_each(|rule| script.delete(rule));
            wanted.iter().for_each(|rule| script.append(rule));
        }
    }
}

/// Deletes `chains` and every rule that jumps to one of them.
pub(super) fn remove_chains(table: &Table, chains: &[String], script: &mut Script) {
    let gone: BTreeSet<&str> = chains.iter().map(String::as_str).collect();
    for rule in table.rules().filter(|rule| !gone.contains(rule.chain.as_str())) {
        if rule.target().is_some_and(|target| gone.contains(target)) {
            script.delete(rule);
        }
    }
    chains.iter().for_each(|chain| script.flush(chain));
    chains.iter().for_each(|chain| script.delete_chain(chain));
}

fn same(a: &[Rule], b: &[Rule]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_as(b))
}
