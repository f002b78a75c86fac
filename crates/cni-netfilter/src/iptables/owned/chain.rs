//! The chain of one attachment as a plan: from what is wanted and what is there to changes of the table. Pure functions.

use cni_plugin::Owner;

use super::names::{ChainKind, link_rule, owner_rule};
use super::skeleton::Skeleton;
use crate::iptables::tool::{Place, Rule, Script, ScriptCommand, Table};

/// What one attachment should have in one family's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnedChain {
    pub(crate) kind: &'static ChainKind,
    pub(crate) owner: Owner,
    /// The index of the node's end of the container's link, if known.
    pub(crate) link: Option<u32>,
    pub(crate) skeleton: Skeleton,
    /// The rules in its chain, whose name is still to be set.
    pub(crate) body: Vec<Rule>,
    /// The rules that lead to its chain, without the jump.
    pub(crate) entries: Vec<Rule>,
    /// True if the entries have arguments from the configuration, which the tool may print otherwise than they were given.
    pub(crate) free_form: bool,
}

impl OwnedChain {
    /// The rules inside `chain`, the one that names the owner left out.
    pub(crate) fn body(&self, chain: &str) -> Vec<Rule> {
        self.body.iter().map(|rule| rule.in_chain(chain)).collect()
    }

    /// All rules of `chain`. The owner rule comes last, so that no packet passes it for which the body has decided.
    pub(crate) fn inside(&self, chain: &str) -> Vec<Rule> {
        let link = self.link.map(|link| link_rule(chain, link));
        self.body(chain).into_iter().chain([owner_rule(chain, &self.owner)]).chain(link).collect()
    }

    /// The rules that lead to `chain`.
    pub(crate) fn entries(&self, chain: &str) -> Vec<Rule> {
        self.entries.iter().map(|rule| rule.with_target(chain)).collect()
    }

    /// Appends the attachment's own rules, under the shared name, on the assumption that nothing of them exists; if the
    /// skeleton isn't there or the name is taken, the block fails.
    pub(crate) fn create(&self, script: &mut Script) {
        let chain = self.kind.shared_name(&self.owner);
        self.skeleton.require(script);
        script.push(ScriptCommand::Create(chain.clone()));
        script.append(&self.inside(&chain));
        script.append(&self.entries(&chain));
    }

    /// Deletes the attachment's rules, on the assumption that they are exactly these, under the shared name.
    ///
    /// Creating and deleting the chains that should *not* be there makes the block fail if they are.
    pub(crate) fn delete(&self, script: &mut Script) {
        let chain = self.kind.shared_name(&self.owner);
        script.check([&owner_rule(&chain, &self.owner)]);
        let absent = [Some(self.kind.own_name(&self.owner)), self.kind.outdated_name(&self.owner)];
        for absent in absent.into_iter().flatten() {
            script.push(ScriptCommand::Create(absent.clone()));
            script.push(ScriptCommand::DeleteChain(absent));
        }
        script.delete(&self.entries(&chain));
        script.push(ScriptCommand::Flush(chain.clone()));
        script.push(ScriptCommand::DeleteChain(chain));
    }

    /// The chain to use, given what is in `table`: the owner's, else the shared name if it is free or Go's and to be
    /// taken over, else the owner's own name.
    ///
    /// A chain of Go's that may serve another, living interface of the container is taken over only if it says what is
    /// wanted anyway.
    pub(crate) fn chain(&self, table: &Table) -> String {
        let shared = self.kind.shared_name(&self.owner);
        if let Some(owned) = self.kind.owned(table, &self.owner).into_iter().next() {
            return owned;
        }
        let is_unused = table.rules(&shared).next().is_none() && table.jumps_to(&shared).next().is_none();
        let is_taken_over = self.kind.unowned(table, &self.owner).is_some()
            && (self.kind.go_is_of_container
                || same(table.rules(&shared), &self.body(&shared))
                    && same(table.jumps_to(&shared), &self.entries(&shared)));
        if is_unused || is_taken_over { shared } else { self.kind.own_name(&self.owner) }
    }

    /// The chain that CHECK looks at: the owner's, else Go's, else the one that should be there.
    pub(crate) fn present_chain(&self, table: &Table) -> String {
        let owned = self.kind.owned(table, &self.owner).into_iter().next();
        owned.or_else(|| self.kind.unowned(table, &self.owner)).unwrap_or_else(|| self.kind.shared_name(&self.owner))
    }

    /// Adds to `table` what it lacks, and replaces what is otherwise. Idempotent.
    pub(crate) fn complete(&self, table: &mut Table) {
        self.skeleton.complete(table);
        let chain = self.chain(table);
        let inside = self.inside(&chain);
        if !table.has_chain(&chain) || !same(table.rules(&chain), &inside) {
            table.reset(&chain);
            inside.into_iter().for_each(|rule| table.add(rule, Place::Last));
        }
        let there: Vec<Rule> = table.jumps_to(&chain).cloned().collect();
        let wanted = self.entries(&chain);
        if !same(there.iter(), &wanted) {
            there.iter().for_each(|rule| table.delete(rule));
            wanted.into_iter().for_each(|rule| table.add(rule, Place::Last));
        }
    }
}

fn same<'a>(there: impl Iterator<Item = &'a Rule> + Clone, wanted: &[Rule]) -> bool {
    there.clone().count() == wanted.len() && there.zip(wanted).all(|(one, other)| one.same_as(other))
}
