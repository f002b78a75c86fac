//! The `filter` table as it is and as it will be, with the changes in between.

use std::collections::BTreeMap;

use cni_plugin::Owner;

use super::firewall_rules as rules;
use super::rules::{Rule, Script};
use super::save::Table;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Create(String),
    Insert(Rule),
    Append(Rule),
    Delete(Rule),
}

/// The chains of the table that concern us, as they will be after the changes so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    chains: BTreeMap<String, Vec<Rule>>,
    changes: Vec<Change>,
}

impl Model {
    pub(super) fn new(table: &Table) -> Self {
        let chain = |name: &str| (name.to_owned(), table.chain(name).unwrap_or_default().to_vec());
        Self { chains: table.names().map(chain).collect(), changes: Vec::new() }
    }

    /// Counts `rules` as there: the transaction that read the table has added them.
    pub(super) fn with_added(mut self, rules: &[Rule]) -> Self {
        rules.iter().for_each(|rule| self.append(rule.clone()));
        self.changes.clear();
        self
    }

    /// Counts `rules` as gone.
    pub(super) fn without(mut self, rules: &[Rule]) -> Self {
        rules.iter().for_each(|rule| self.delete(rule));
        self.changes.clear();
        self
    }

    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The changes as one block.
    pub(super) fn script(&self) -> Script {
        let mut script = Script::default();
        script.table(rules::TABLE);
        for change in &self.changes {
            match change {
                Change::Create(chain) => script.create(chain),
                Change::Insert(rule) => script.insert(rule),
                Change::Append(rule) => script.append(rule),
                Change::Delete(rule) => script.delete(rule),
            }
        }
        script.commit();
        script
    }

    pub(super) fn rules(&self, chain: &str) -> &[Rule] {
        self.chains.get(chain).map(Vec::as_slice).unwrap_or_default()
    }

    /// The entries in the list of owners that are `owner`'s.
    pub(super) fn owned_by(&self, owner: &Owner) -> impl Iterator<Item = &Rule> {
        self.rules(rules::OWNERS).iter().filter(|rule| rule.comment().is_some_and(|text| owner.wrote(text)))
    }

    pub(super) fn bridge_has_owner(&self, bridge: &str) -> bool {
        self.rules(rules::OWNERS).iter().any(|rule| rule.value("-i") == Some(bridge))
    }

    pub(super) fn of_bridge<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = &'a Rule> {
        let both = self.rules(rules::STAGE1).iter().chain(self.rules(rules::STAGE2));
        both.filter(move |rule| rules::concerns(rule, bridge))
    }

    pub(super) fn has(&self, rule: &Rule) -> bool {
        self.rules(&rule.chain).iter().any(|there| there.same_as(rule))
    }

    pub(super) fn create_missing(&mut self, chain: &str) {
        if !self.chains.contains_key(chain) {
            self.chains.insert(chain.to_owned(), Vec::new());
            self.changes.push(Change::Create(chain.to_owned()));
        }
    }

    pub(super) fn insert(&mut self, rule: Rule) {
        self.chains.entry(rule.chain.clone()).or_default().insert(0, rule.clone());
        self.changes.push(Change::Insert(rule));
    }

    pub(super) fn append(&mut self, rule: Rule) {
        self.chains.entry(rule.chain.clone()).or_default().push(rule.clone());
        self.changes.push(Change::Append(rule));
    }

    /// Deletes the first such rule, as the tool does.
    pub(super) fn delete(&mut self, rule: &Rule) {
        if let Some(at) = self.rules(&rule.chain).iter().position(|there| there.same_as(rule)) {
            self.chains.entry(rule.chain.clone()).or_default().remove(at);
            self.changes.push(Change::Delete(rule.clone()));
        }
    }

    pub(super) fn delete_all(&mut self, rule: &Rule) {
        while self.has(rule) {
            self.delete(rule);
        }
    }

    pub(super) fn have_once(&mut self, rule: &Rule) {
        match self.rules(&rule.chain).iter().filter(|there| there.same_as(rule)).count() {
            0 if rules::comes_first(rule) => self.insert(rule.clone()),
            0 => self.append(rule.clone()),
            n => (1..n).for_each(|_| self.delete(rule)),
        }
    }
}
