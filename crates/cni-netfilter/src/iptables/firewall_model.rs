//! The `filter` table as it is and as it will be, with the changes in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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

/// A chain: its rules by their place, and the places of those that mean the same. However many rules there are, each question
/// and change is quick.
#[derive(Debug, Default, Clone)]
struct Chain {
    rules: BTreeMap<i64, Rule>,
    places: HashMap<Vec<String>, BTreeSet<i64>>,
}

impl Chain {
    fn insert(&mut self, rule: Rule) {
        let place = self.rules.first_key_value().map_or(0, |(place, _)| place - 1);
        self.put(place, rule);
    }

    fn append(&mut self, rule: Rule) {
        let place = self.rules.last_key_value().map_or(0, |(place, _)| place + 1);
        self.put(place, rule);
    }

    fn put(&mut self, place: i64, rule: Rule) {
        self.places.entry(rule.meaning()).or_default().insert(place);
        self.rules.insert(place, rule);
    }

    fn count(&self, rule: &Rule) -> usize {
        self.places.get(&rule.meaning()).map_or(0, BTreeSet::len)
    }

    /// Takes the first such rule away.
    fn delete(&mut self, rule: &Rule) -> Option<Rule> {
        let place = self.places.get_mut(&rule.meaning())?.pop_first()?;
        self.rules.remove(&place)
    }
}

/// The chains of the table that concern us, as they will be after the changes so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    chains: BTreeMap<String, Chain>,
    changes: Vec<Change>,
}

impl Model {
    pub(super) fn new(table: &Table) -> Self {
        let mut model = Self::default();
        for name in table.names() {
            let chain = model.chains.entry(name.to_owned()).or_default();
            table.chain(name).unwrap_or_default().iter().for_each(|rule| chain.append(rule.clone()));
        }
        model
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

    /// The rules of a chain in their order; none if it doesn't exist.
    pub(super) fn rules(&self, chain: &str) -> impl Iterator<Item = &Rule> {
        self.chains.get(chain).into_iter().flat_map(|chain| chain.rules.values())
    }

    /// The entries in the list of owners that are `owner`'s.
    pub(super) fn owned_by(&self, owner: &Owner) -> impl Iterator<Item = &Rule> {
        self.rules(rules::OWNERS).filter(|rule| rule.comment().is_some_and(|text| owner.wrote(text)))
    }

    pub(super) fn bridge_has_owner(&self, bridge: &str) -> bool {
        self.rules(rules::OWNERS).any(|rule| rule.value("-i") == Some(bridge))
    }

    pub(super) fn of_bridge<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = &'a Rule> {
        let both = self.rules(rules::STAGE1).chain(self.rules(rules::STAGE2));
        both.filter(move |rule| rules::concerns(rule, bridge))
    }

    pub(super) fn has(&self, rule: &Rule) -> bool {
        self.count(rule) > 0
    }

    fn count(&self, rule: &Rule) -> usize {
        self.chains.get(&rule.chain).map_or(0, |chain| chain.count(rule))
    }

    pub(super) fn create_missing(&mut self, chain: &str) {
        if !self.chains.contains_key(chain) {
            self.chains.insert(chain.to_owned(), Chain::default());
            self.changes.push(Change::Create(chain.to_owned()));
        }
    }

    pub(super) fn insert(&mut self, rule: Rule) {
        self.chains.entry(rule.chain.clone()).or_default().insert(rule.clone());
        self.changes.push(Change::Insert(rule));
    }

    pub(super) fn append(&mut self, rule: Rule) {
        self.chains.entry(rule.chain.clone()).or_default().append(rule.clone());
        self.changes.push(Change::Append(rule));
    }

    /// Deletes the first such rule, as the tool does.
    pub(super) fn delete(&mut self, rule: &Rule) {
        let deleted = self.chains.get_mut(&rule.chain).and_then(|chain| chain.delete(rule));
        self.changes.extend(deleted.map(Change::Delete));
    }

    pub(super) fn delete_all(&mut self, rule: &Rule) {
        (0..self.count(rule)).for_each(|_| self.delete(rule));
    }

    pub(super) fn have_once(&mut self, rule: &Rule) {
        match self.count(rule) {
            0 if rules::comes_first(rule) => self.insert(rule.clone()),
            0 => self.append(rule.clone()),
            n => (1..n).for_each(|_| self.delete(rule)),
        }
    }
}
