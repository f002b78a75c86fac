//! Forwarding rules as a plan: from what is wanted and what is there to the changes in between. Pure functions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cni_plugin::{NetworkName, Owner};

use super::firewall_rules as rules;
use super::rules::{Rule, Script};
use super::save::Table;
use super::tool::Family;
use crate::{Forwarding, Ingress};

/// What one attachment wants in one family's `filter` table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    intent: &'a Forwarding,
    family: Family,
}

/// One step towards it.
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

impl<'a> Wanted<'a> {
    /// `None` if the intent wants nothing in this family.
    pub(super) fn new(intent: &'a Forwarding, family: Family) -> Option<Self> {
        let wanted = Self { intent, family };
        (!intent.is_empty() && wanted.addresses().next().is_some()).then_some(wanted)
    }

    pub(super) fn addresses(self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let family = self.family;
        self.intent.addresses.iter().copied().filter(move |address| Family::of(*address) == family)
    }

    pub(super) fn ingress(self) -> Option<&'a Ingress> {
        self.intent.ingress.as_ref()
    }

    /// The attachment's own rules: its entries in the list of owners and its accepts.
    pub(super) fn own(self) -> Vec<Rule> {
        let owner = &self.intent.owner;
        let mut own: Vec<Rule> = self.addresses().map(|address| rules::owns_address(owner, address)).collect();
        own.extend(self.ingress().map(|ingress| rules::owns_bridge(&owner.comment(), ingress.bridge.as_str())));
        own.extend(self.addresses().flat_map(rules::accepts));
        own
    }

    /// The rules that it shares with others.
    pub(super) fn shared(self) -> Vec<Rule> {
        let mut shared = vec![rules::forward(), rules::admin(&self.intent.admin_chain), rules::published()];
        if let Some(ingress) = self.ingress() {
            shared.push(rules::stage1());
            shared.extend(rules::of_bridge(ingress));
            shared.extend(rules::returns());
        }
        shared
    }

    /// The chains that [`Wanted::make`] has to see, but for the administrator's.
    pub(super) fn chains(self) -> Vec<&'static str> {
        let mut chains = vec![rules::OWNERS, rules::FORWARD, rules::ACCEPTS];
        chains.extend(self.ingress().map(|_| [rules::STAGE1, rules::STAGE2]).into_iter().flatten());
        chains
    }

    /// Makes it so. Afterwards the owner has these addresses and this bridge and no others, nobody else has the
    /// addresses, and each rule is there once.
    pub(super) fn make(self, model: &mut Model) {
        model.create_missing(rules::OWNERS);
        self.take_over(model);
        self.accept(model);
        if let Some(ingress) = self.ingress() {
            keep(model, ingress);
        }
        for rule in self.own() {
            model.have_once(&rule);
        }
        if is_out_of_order(model) {
            let entry = model.rules(rules::FORWARD).iter().find(|rule| rule.target() == Some(rules::STAGE1)).cloned();
            if let Some(entry) = entry {
                model.delete(&entry);
                model.insert(entry);
            }
        }
    }

    /// True if the owner had a bridge in `before` that it no longer has.
    pub(super) fn leaves_a_bridge(self, before: &Model) -> bool {
        let bridge = self.ingress().map(|ingress| ingress.bridge.as_str());
        before.owned_by(&self.intent.owner).filter_map(|entry| entry.value("-i")).any(|had| Some(had) != bridge)
    }

    /// True if the owner isn't listed at all.
    pub(super) fn has_no_entry(self, model: &Model) -> bool {
        model.owned_by(&self.intent.owner).next().is_none()
    }

    /// Releases what the owner no longer has, and takes the addresses from whoever had them: IPAM gave them to us.
    fn take_over(self, model: &mut Model) {
        let own = self.own();
        let before: Vec<Rule> = model.owned_by(&self.intent.owner).cloned().collect();
        let released: Vec<Rule> = before.into_iter().filter(|rule| !own.iter().any(|o| o.same_as(rule))).collect();
        release(model, &released, []);
        let addresses: Vec<IpAddr> = self.addresses().collect();
        let taken = |rule: &Rule| {
            rules::address_of(rule).is_some_and(|address| addresses.contains(&address))
                && !own.iter().any(|o| o.same_as(rule))
        };
        let others: Vec<Rule> = model.rules(rules::OWNERS).iter().filter(|rule| taken(rule)).cloned().collect();
        others.iter().for_each(|rule| model.delete(rule));
    }

    fn accept(self, model: &mut Model) {
        model.create_missing(rules::ACCEPTS);
        let forward = rules::forward();
        if !model.has(&forward) {
            model.insert(forward);
        }
        let admin = rules::admin(&self.intent.admin_chain);
        if !model.has(&admin) {
            model.create_missing(&self.intent.admin_chain);
            model.insert(admin);
        }
        if !model.has(&rules::published()) {
            model.append(rules::published());
        }
    }
}

/// True if the accepts come before the policies, which would then drop nothing.
pub(super) fn is_out_of_order(model: &Model) -> bool {
    let place = |target: &str| model.rules(rules::FORWARD).iter().position(|rule| rule.target() == Some(target));
    matches!((place(rules::ACCEPTS), place(rules::STAGE1)), (Some(accepts), Some(stage1)) if accepts < stage1)
}

/// Puts the policy of a bridge in place of any other that it had.
fn keep(model: &mut Model, ingress: &Ingress) {
    let bridge = ingress.bridge.as_str();
    model.create_missing(rules::STAGE1);
    model.create_missing(rules::STAGE2);
    if !model.rules(rules::FORWARD).iter().any(|rule| rule.target() == Some(rules::STAGE1)) {
        model.insert(rules::stage1());
    }
    for rule in rules::returns() {
        if !model.rules(&rule.chain).iter().any(|there| rules::is_alike(there, &rule)) {
            model.append(rule);
        }
    }
    let there: Vec<Rule> = model.of_bridge(bridge).cloned().collect();
    let nobodys = !there.is_empty() && !model.bridge_has_owner(bridge);
    if nobodys {
        model.append(rules::owns_bridge(rules::FOREIGN, bridge));
    }
    let wanted = rules::of_bridge(ingress);
    let fits = |rule: &Rule, wanted: &Rule| match rule.chain.as_str() {
        rules::STAGE2 => rules::is_alike(rule, wanted),
        _ => rule.same_as(wanted),
    };
    there.iter().filter(|rule| !wanted.iter().any(|w| fits(rule, w))).for_each(|rule| model.delete(rule));
    for rule in wanted {
        if !there.iter().any(|t| fits(t, &rule)) {
            model.insert(rule);
        }
    }
}

/// Removes entries from the list of owners, the accepts of their addresses and of `more` that nobody has then, and the
/// policies of their bridges that nobody is behind then.
fn release(model: &mut Model, entries: &[Rule], more: impl IntoIterator<Item = IpAddr>) {
    entries.iter().for_each(|rule| model.delete(rule));
    for address in entries.iter().filter_map(rules::address_of).chain(more) {
        let claimed = model.rules(rules::OWNERS).iter().any(|rule| rules::address_of(rule) == Some(address));
        if !claimed {
            rules::accepts(address).iter().for_each(|rule| model.delete_all(rule));
        }
    }
    for bridge in entries.iter().filter_map(|rule| rule.value("-i")) {
        if !model.bridge_has_owner(bridge) {
            let gone: Vec<Rule> = model.of_bridge(bridge).cloned().collect();
            gone.iter().for_each(|rule| model.delete(rule));
        }
    }
}

/// Removes what `owner` has, and what Go made for the addresses `hints`.
pub(super) fn remove(model: &mut Model, owner: &Owner, hints: &[IpAddr]) {
    let entries: Vec<Rule> = model.owned_by(owner).cloned().collect();
    release(model, &entries, hints.iter().copied());
}

/// Removes what owners in `network` other than `valid` have.
pub(super) fn retain(model: &mut Model, network: &NetworkName, valid: &[Owner]) {
    let ours = Owner::network_key(network);
    let stale = |rule: &&Rule| {
        rule.comment().is_some_and(|text| text.starts_with(&ours) && !valid.iter().any(|owner| owner.wrote(text)))
    };
    let entries: Vec<Rule> = model.rules(rules::OWNERS).iter().filter(stale).cloned().collect();
    release(model, &entries, []);
}

impl Model {
    pub(super) fn new(table: &Table) -> Self {
        let chain = |name: &str| (name.to_owned(), table.chain(name).unwrap_or_default().to_vec());
        Self { chains: table.names().map(chain).collect(), changes: Vec::new() }
    }

    /// Counts `rules` as there: the transaction that read the table has appended them.
    pub(super) fn with_appended(mut self, rules: &[Rule]) -> Self {
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

    fn of_bridge<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = &'a Rule> {
        let both = self.rules(rules::STAGE1).iter().chain(self.rules(rules::STAGE2));
        both.filter(move |rule| rules::concerns(rule, bridge))
    }

    pub(super) fn has(&self, rule: &Rule) -> bool {
        self.rules(&rule.chain).iter().any(|there| there.same_as(rule))
    }

    fn create_missing(&mut self, chain: &str) {
        if !self.chains.contains_key(chain) {
            self.chains.insert(chain.to_owned(), Vec::new());
            self.changes.push(Change::Create(chain.to_owned()));
        }
    }

    fn insert(&mut self, rule: Rule) {
        self.chains.entry(rule.chain.clone()).or_default().insert(0, rule.clone());
        self.changes.push(Change::Insert(rule));
    }

    fn append(&mut self, rule: Rule) {
        self.chains.entry(rule.chain.clone()).or_default().push(rule.clone());
        self.changes.push(Change::Append(rule));
    }

    /// Deletes the first such rule, as the tool does.
    fn delete(&mut self, rule: &Rule) {
        if let Some(at) = self.rules(&rule.chain).iter().position(|there| there.same_as(rule)) {
            self.chains.entry(rule.chain.clone()).or_default().remove(at);
            self.changes.push(Change::Delete(rule.clone()));
        }
    }

    fn delete_all(&mut self, rule: &Rule) {
        while self.has(rule) {
            self.delete(rule);
        }
    }

    fn have_once(&mut self, rule: &Rule) {
        match self.rules(&rule.chain).iter().filter(|there| there.same_as(rule)).count() {
            0 => self.append(rule.clone()),
            n => (1..n).for_each(|_| self.delete(rule)),
        }
    }
}
