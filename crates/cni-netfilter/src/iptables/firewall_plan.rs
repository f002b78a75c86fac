//! Forwarding rules as a plan: from what is wanted and what is there to the changes in between. Pure functions.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::{NetworkName, Owner};

use super::firewall_model::Model;
use super::firewall_rules as rules;
use super::rules::Rule;
use super::tool::Family;
use crate::nftables::MARK_COMMENT;
use crate::{Forwarding, Ingress};

/// More addresses than this are large.
const LARGE: usize = 16;

/// What rules say, for the question whether a rule is one of them.
struct Meanings(HashSet<(String, Vec<String>)>);

impl Meanings {
    fn of(rules: &[Rule]) -> Self {
        Self(rules.iter().map(|rule| (rule.chain.clone(), rule.meaning())).collect())
    }

    fn has(&self, rule: &Rule) -> bool {
        self.0.contains(&(rule.chain.clone(), rule.meaning()))
    }
}

/// What one attachment wants in one family's `filter` table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    intent: &'a Forwarding,
    family: Family,
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

    pub(super) fn owner(self) -> &'a Owner {
        &self.intent.owner
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

    /// True if the tool had better not be asked about each rule: it looks through the whole chain for every one.
    pub(super) fn is_large(self) -> bool {
        self.addresses().nth(LARGE).is_some()
    }

    /// The rules that it shares with others.
    pub(super) fn shared(self) -> Vec<Rule> {
        let mut shared = vec![rules::forward(), rules::admin(self.intent.admin_chain.as_str()), rules::published()];
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
        put_policies_first(model);
    }

    /// True if the owner had something in `before` that it no longer has.
    pub(super) fn gives_up(self, before: &Model) -> bool {
        let own = Meanings::of(&self.own());
        before.owned_by(self.owner()).any(|entry| !own.has(entry))
    }

    /// True if the Go plugin made the rules: the owner isn't listed at all, or only for addresses that it no longer has.
    pub(super) fn was_made_by_go(self, model: &Model) -> bool {
        let listed: HashSet<IpAddr> = model.owned_by(&self.intent.owner).filter_map(rules::address_of).collect();
        let is_listed = |address: IpAddr| listed.contains(&address);
        let none_at_all = model.owned_by(&self.intent.owner).next().is_none();
        none_at_all || (!listed.is_empty() && !self.addresses().any(is_listed))
    }

    /// Releases what the owner no longer has, and takes the addresses from whoever had them: IPAM gave them to us.
    fn take_over(self, model: &mut Model) {
        let own = Meanings::of(&self.own());
        let before: Vec<Rule> = model.owned_by(&self.intent.owner).cloned().collect();
        let released: Vec<Rule> = before.into_iter().filter(|rule| !own.has(rule)).collect();
        release(model, &released, []);
        let addresses: HashSet<IpAddr> = self.addresses().collect();
        let taken = |rule: &&Rule| {
            rules::address_of(rule).is_some_and(|address| addresses.contains(&address)) && !own.has(rule)
        };
        let others: Vec<Rule> = model.rules(rules::OWNERS).filter(taken).cloned().collect();
        others.iter().for_each(|rule| model.delete(rule));
    }

    fn accept(self, model: &mut Model) {
        model.create_missing(rules::ACCEPTS);
        let forward = rules::forward();
        if !model.has(&forward) {
            model.insert(forward);
        }
        let admin = rules::admin(self.intent.admin_chain.as_str());
        if !model.has(&admin) {
            model.create_missing(self.intent.admin_chain.as_str());
            model.insert(admin);
        }
        let published = rules::published();
        if !model.has(&published) {
            model.append(published);
        }
    }
}

/// True if accepts come before the policies, which would then drop nothing: those of this backend, or the one of what
/// nftables has marked.
pub(super) fn is_out_of_order(model: &Model) -> bool {
    let place = |is: &dyn Fn(&Rule) -> bool| model.rules(rules::FORWARD).position(is);
    let accepts = place(&|rule| rule.target() == Some(rules::ACCEPTS) || rule.comment() == Some(MARK_COMMENT));
    let policies = place(&|rule| rule.target() == Some(rules::STAGE1));
    matches!((accepts, policies), (Some(accepts), Some(policies)) if accepts < policies)
}

/// Moves the jump to the policies to the head of `FORWARD` if it comes too late.
pub(super) fn put_policies_first(model: &mut Model) {
    if is_out_of_order(model) {
        let entry = model.rules(rules::FORWARD).find(|rule| rule.target() == Some(rules::STAGE1)).cloned();
        if let Some(entry) = entry {
            model.delete(&entry);
            model.insert(entry);
        }
    }
}

/// Puts the policy of a bridge in place of any other that it had.
fn keep(model: &mut Model, ingress: &Ingress) {
    let bridge = ingress.bridge.as_str();
    model.create_missing(rules::STAGE1);
    model.create_missing(rules::STAGE2);
    if !model.rules(rules::FORWARD).any(|rule| rule.target() == Some(rules::STAGE1)) {
        model.insert(rules::stage1());
    }
    for rule in rules::returns() {
        if !model.rules(&rule.chain).any(|there| rules::is_alike(there, &rule)) {
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
    let claimed: HashSet<IpAddr> = model.rules(rules::OWNERS).filter_map(rules::address_of).collect();
    // The entries were put at the head of their chain and the accepts at the end: the tool finds quickest what is in front.
    for address in entries.iter().rev().filter_map(rules::address_of).chain(more) {
        if !claimed.contains(&address) {
            rules::accepts(address).iter().for_each(|rule| model.delete_all(rule));
        }
    }
    entries.iter().filter_map(|rule| rule.value("-i")).for_each(|bridge| release_bridge(model, bridge));
}

/// Removes the policy of a bridge that nobody is behind.
pub(super) fn release_bridge(model: &mut Model, bridge: &str) {
    if !model.bridge_has_owner(bridge) {
        let gone: Vec<Rule> = model.of_bridge(bridge).cloned().collect();
        gone.iter().for_each(|rule| model.delete(rule));
    }
}

/// Removes what `owner` has, and what Go made for the addresses `hints`.
pub(super) fn remove(model: &mut Model, owner: &Owner, hints: &[IpAddr]) {
    let entries: Vec<Rule> = model.owned_by(owner).cloned().collect();
    release(model, &entries, hints.iter().copied());
}

/// Removes what owners in `network` other than `valid` have.
pub(super) fn retain(model: &mut Model, network: &NetworkName, valid: &[Owner]) {
    let (ours, valid) = (Owner::network_key(network), valid.iter().map(Owner::key).collect::<HashSet<String>>());
    let is_valid = |comment: &str| comment.split(',').next().is_some_and(|key| valid.contains(key));
    let stale = |rule: &&Rule| rule.comment().is_some_and(|comment| comment.starts_with(&ours) && !is_valid(comment));
    let entries: Vec<Rule> = model.rules(rules::OWNERS).filter(stale).cloned().collect();
    release(model, &entries, []);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::save::Table;
    use crate::iptables::testing::owner;
    use crate::{IngressPolicy, iptables::firewall_model::Change};

    fn intent(id: &str, policy: Option<IngressPolicy>) -> Forwarding {
        let ingress = policy.map(|policy| Ingress { bridge: "br0".parse().unwrap(), policy });
        let addresses = vec!["10.9.0.2".parse().unwrap(), "fd00:9::2".parse().unwrap()];
        Forwarding { owner: owner(id, "eth0"), addresses, admin_chain: "CNI-ADMIN".parse().unwrap(), ingress }
    }

    fn made(mut model: Model, intent: &Forwarding) -> Model {
        Wanted::new(intent, Family::V4).unwrap().make(&mut model);
        model
    }

    /// As if the changes had been carried out and read again.
    fn settled(model: &Model) -> Model {
        model.clone().without(&[])
    }

    fn forward(model: &Model) -> Vec<Option<&str>> {
        model.rules(rules::FORWARD).map(Rule::target).collect()
    }

    #[test]
    fn an_empty_table_gets_everything_and_then_nothing() {
        let intent = intent("c1", Some(IngressPolicy::Isolated));
        let model = made(Model::default(), &intent);
        assert_eq!(forward(&model), [Some("CNI-ISOLATION-STAGE-1"), Some("CNI-FORWARD")]);
        let targets: Vec<_> = model.rules(rules::STAGE1).filter_map(Rule::target).collect();
        assert_eq!(targets, ["DROP", "CNI-ISOLATION-STAGE-2", "RETURN"]);
        assert_eq!(model.rules(rules::ACCEPTS).next().unwrap().target(), Some("CNI-ADMIN"));
        assert!(made(settled(&model), &intent).changes().is_empty());
    }

    #[test]
    fn what_was_made_is_removed_but_for_the_frame() {
        let frame = made(Model::default(), &intent("c1", None));
        let mut without_owner = settled(&frame);
        remove(&mut without_owner, &owner("c1", "eth0"), &[]);
        assert_eq!(without_owner.rules(rules::ACCEPTS).count(), 2, "administrator and published ports");
        assert!(without_owner.rules(rules::OWNERS).next().is_none());
        // Somebody else's removal takes nothing, whatever it thinks that it had.
        let mut untouched = settled(&frame);
        remove(&mut untouched, &owner("c2", "eth0"), &["10.9.0.2".parse().unwrap()]);
        assert!(untouched.changes().is_empty(), "{:?}", untouched.changes());
    }

    #[test]
    fn an_address_has_one_owner_the_latest() {
        let model = made(settled(&made(Model::default(), &intent("c1", None))), &intent("c2", None));
        let deleted = model.changes().iter().filter(|change| matches!(change, Change::Delete(_))).count();
        assert_eq!((model.rules(rules::OWNERS).count(), deleted), (1, 1));
        assert!(owner("c2", "eth0").wrote(model.rules(rules::OWNERS).next().unwrap().comment().unwrap()));
    }

    /// Ten thousand take minutes if each is looked for among all others.
    #[test]
    fn many_addresses_take_no_longer_each_than_few() {
        let addresses = (0..10_000u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0001 + n).into()).collect();
        let intent = Forwarding { addresses, ..intent("c1", Some(IngressPolicy::Isolated)) };
        let model = settled(&made(Model::default(), &intent));
        assert_eq!(model.rules(rules::OWNERS).count(), 10_001);
        let again = made(settled(&model), &intent);
        assert!(again.changes().is_empty());
        let mut removed = settled(&model);
        remove(&mut removed, &owner("c1", "eth0"), &intent.addresses);
        let places = removed.changes().iter().filter(|change| matches!(change, Change::Delete(_))).count();
        assert_eq!((removed.rules(rules::OWNERS).count(), places), (0, 30_004));
    }

    #[test]
    fn policies_come_before_what_nftables_has_marked() {
        let marked =
            format!("-A FORWARD -m mark --mark 0x1000/0x1000 -m comment --comment \"{MARK_COMMENT}\" -j ACCEPT");
        let table = Table::parse(&format!("{marked}\n-A FORWARD -j CNI-ISOLATION-STAGE-1\n"));
        let mut model = Model::new(&table);
        assert!(is_out_of_order(&model));
        put_policies_first(&mut model);
        assert!(!is_out_of_order(&settled(&model)));
        assert_eq!(forward(&model), [Some("CNI-ISOLATION-STAGE-1"), Some("ACCEPT")]);
    }

    #[test]
    fn what_go_made_has_no_entry_or_one_for_another_address() {
        let wanted = intent("c1", Some(IngressPolicy::SameBridge));
        let made_by_go = |model: &Model| Wanted::new(&wanted, Family::V4).unwrap().was_made_by_go(model);
        assert!(made_by_go(&Model::default()));
        let ours = settled(&made(Model::default(), &wanted));
        assert!(!made_by_go(&ours));
        let address = rules::owns_address(&wanted.owner, "10.9.0.2".parse().unwrap());
        assert!(!made_by_go(&ours.clone().without(&[address])), "the entry of the bridge says that it is ours");
        let elsewhere = Forwarding { addresses: vec!["10.9.0.7".parse().unwrap()], ..wanted.clone() };
        assert!(made_by_go(&settled(&made(Model::default(), &elsewhere))));
    }

    #[test]
    fn a_policy_made_by_go_outlives_our_owners() {
        let go = "-A CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment \
                  \"CNI firewall plugin rules (ingressPolicy: same-bridge)\" -j CNI-ISOLATION-STAGE-2";
        let mut model = made(Model::new(&Table::parse(go)), &intent("c1", Some(IngressPolicy::SameBridge)));
        remove(&mut model, &owner("c1", "eth0"), &[]);
        assert_eq!(model.of_bridge("br0").count(), 2);
        assert_eq!(model.rules(rules::OWNERS).next().unwrap().comment(), Some(rules::FOREIGN));
    }
}
