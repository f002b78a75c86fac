//! Forwarding as a plan: from what is wanted and what is there to changes of the `filter` table. Pure functions.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::{Family, NetworkName, Owner};

use super::rules;
use crate::intent::{Forwarding, Ingress};
use crate::iptables::owned::{Skeleton, owner_key};
use crate::iptables::tool::{Place, Rule, RuleSet, Table};
use crate::nftables::MARK_COMMENT;

/// With more addresses than this, the tool had better not be asked about each rule: it looks through the whole chain for
/// every one.
const LARGE: usize = 16;

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

    pub(super) fn is_large(self) -> bool {
        self.addresses().nth(LARGE).is_some()
    }

    /// The rules that it shares with others.
    pub(super) fn shared(self) -> Vec<Rule> {
        let mut shared: Vec<Rule> = self.skeleton().rules.into_iter().map(|(rule, _)| rule).collect();
        shared.extend(self.marked_as_published());
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

    /// Makes it so. Afterwards the owner has these addresses and this bridge and no others, no other owner has the
    /// addresses, and each rule is there once.
    pub(super) fn make(self, table: &mut Table) {
        self.take_over(table);
        self.skeleton().complete(table);
        if let Some(ingress) = self.ingress() {
            set_policy(table, ingress);
        }
        for rule in self.own() {
            let place = rules::place(&rule);
            table.have_once(rule, place);
        }
        put_policies_first(table);
        for rule in self.marked_as_published().iter().rev() {
            put_before_policies(table, rule);
        }
    }

    /// Where only published ports are reachable, what comes before the policies.
    fn marked_as_published(self) -> Vec<Rule> {
        let admin = self.intent.admin_chain.as_str();
        self.intent.published_only.iter().flat_map(|_| rules::marked_as_published(admin)).collect()
    }

    fn skeleton(self) -> Skeleton {
        let admin = self.intent.admin_chain.as_str();
        Skeleton {
            chains: [rules::OWNERS, rules::ACCEPTS, admin].map(str::to_owned).to_vec(),
            rules: vec![
                (rules::forward(), Place::First),
                (rules::admin(admin), Place::First),
                (rules::published(), Place::Last),
            ],
        }
    }

    /// True if the owner had something in `before` that it no longer has.
    pub(super) fn gives_up(self, before: &Table) -> bool {
        let own = RuleSet::of(&self.own());
        owned_by(before, self.owner()).any(|entry| !own.has(entry))
    }

    /// True if the Go plugin made the rules: the owner isn't listed at all, or only for addresses that it no longer has.
    pub(super) fn was_made_by_go(self, table: &Table) -> bool {
        let listed: HashSet<IpAddr> = owned_by(table, self.owner()).filter_map(rules::address_of).collect();
        let none_at_all = owned_by(table, self.owner()).next().is_none();
        none_at_all || (!listed.is_empty() && !self.addresses().any(|address| listed.contains(&address)))
    }

    /// Releases what the owner no longer has, and takes the addresses from owners that had them: IPAM gave them to this one.
    fn take_over(self, table: &mut Table) {
        let own = RuleSet::of(&self.own());
        let released = owned_by(table, self.owner()).filter(|rule| !own.has(rule)).cloned().collect::<Vec<_>>();
        release(table, &released, []);
        let addresses: HashSet<IpAddr> = self.addresses().collect();
        let is_taken = |rule: &&Rule| {
            rules::address_of(rule).is_some_and(|address| addresses.contains(&address)) && !own.has(rule)
        };
        let others: Vec<Rule> = table.rules(rules::OWNERS).filter(is_taken).cloned().collect();
        others.iter().for_each(|rule| table.delete(rule));
    }
}

/// The entries in the list of owners that are `owner`'s.
pub(super) fn owned_by<'a>(table: &'a Table, owner: &'a Owner) -> impl Iterator<Item = &'a Rule> {
    table.rules(rules::OWNERS).filter(|rule| rule.comment().is_some_and(|text| owner.wrote(text)))
}

pub(super) fn bridge_has_owner(table: &Table, bridge: &str) -> bool {
    table.rules(rules::OWNERS).any(|rule| rule.value("-i") == Some(bridge))
}

fn of_bridge(table: &Table, bridge: &str) -> Vec<Rule> {
    let both = table.rules(rules::STAGE1).chain(table.rules(rules::STAGE2));
    both.filter(move |rule| rules::is_of_bridge(rule, bridge)).cloned().collect()
}

/// The jump to the policies, if accepts come before it, so that it drops nothing: those of this backend, or the one of what
/// nftables has marked.
pub(super) fn late_policies(table: &Table) -> Option<&Rule> {
    let is_accept = |rule: &Rule| rule.target() == Some(rules::ACCEPTS) || rule.comment() == Some(MARK_COMMENT);
    let is_policies = |rule: &Rule| rule.target() == Some(rules::STAGE1);
    let mut in_order = table.rules(rules::FORWARD).filter(|rule| is_accept(rule) || is_policies(rule));
    let first = in_order.next()?;
    if is_policies(first) { None } else { in_order.find(|rule| is_policies(rule)) }
}

/// Moves the jump to the policies to the head of `FORWARD` if it comes too late.
pub(super) fn put_policies_first(table: &mut Table) {
    if let Some(jump) = late_policies(table).cloned() {
        table.delete(&jump);
        table.add(jump, Place::First);
    }
}

/// Puts a rule at the head of `FORWARD`, unless it is there and no policy comes before it.
fn put_before_policies(table: &mut Table, rule: &Rule) {
    let place = |wanted: &dyn Fn(&Rule) -> bool| table.rules(rules::FORWARD).position(wanted);
    let (own, policies) = (place(&|other| other.same_as(rule)), place(&|other| other.target() == Some(rules::STAGE1)));
    if own.is_some_and(|own| policies.is_none_or(|policies| own < policies)) {
        return;
    }
    table.delete_all(rule);
    table.add(rule.clone(), Place::First);
}

/// Puts the policy of a bridge in place of any other that it had.
fn set_policy(table: &mut Table, ingress: &Ingress) {
    let bridge = ingress.bridge.as_str();
    table.create_missing(rules::STAGE1);
    table.create_missing(rules::STAGE2);
    if !table.rules(rules::FORWARD).any(|rule| rule.target() == Some(rules::STAGE1)) {
        table.add(rules::stage1(), Place::First);
    }
    for rule in rules::returns() {
        if !table.rules(&rule.chain).any(|there| rules::is_alike(there, &rule)) {
            table.add(rule, Place::Last);
        }
    }
    let there = of_bridge(table, bridge);
    if !there.is_empty() && !bridge_has_owner(table, bridge) {
        table.add(rules::owns_bridge(rules::FOREIGN, bridge), Place::Last);
    }
    let wanted = rules::of_bridge(ingress);
    let fits = |rule: &Rule, wanted: &Rule| match rule.chain.as_str() {
        rules::STAGE2 => rules::is_alike(rule, wanted),
        _ => rule.same_as(wanted),
    };
    there.iter().filter(|rule| !wanted.iter().any(|w| fits(rule, w))).for_each(|rule| table.delete(rule));
    for rule in wanted {
        if !there.iter().any(|t| fits(t, &rule)) {
            table.add(rule, Place::First);
        }
    }
}

/// Removes entries from the list of owners, the accepts of their addresses and of `more` that no owner has then, and the
/// policies of their bridges that no owner is behind then.
fn release(table: &mut Table, entries: &[Rule], more: impl IntoIterator<Item = IpAddr>) {
    entries.iter().for_each(|rule| table.delete(rule));
    let in_use: HashSet<IpAddr> = table.rules(rules::OWNERS).filter_map(rules::address_of).collect();
    // Entries were put at the head of their chain, accepts at the end: in reverse, the tool finds each accept near the front.
    for address in entries.iter().rev().filter_map(rules::address_of).chain(more) {
        if !in_use.contains(&address) {
            rules::accepts(address).iter().for_each(|rule| table.delete_all(rule));
        }
    }
    entries.iter().filter_map(|rule| rule.value("-i")).for_each(|bridge| release_bridge(table, bridge));
}

/// Removes the policy of a bridge that no owner is behind.
pub(super) fn release_bridge(table: &mut Table, bridge: &str) {
    if !bridge_has_owner(table, bridge) {
        of_bridge(table, bridge).iter().for_each(|rule| table.delete(rule));
    }
}

/// Removes what `owner` has, and what Go made for the addresses `hints`.
pub(super) fn remove(table: &mut Table, owner: &Owner, hints: &[IpAddr]) {
    let entries: Vec<Rule> = owned_by(table, owner).cloned().collect();
    release(table, &entries, hints.iter().copied());
}

/// Removes what owners in `network` other than `valid` have.
pub(super) fn retain(table: &mut Table, network: &NetworkName, valid: &[Owner]) {
    let (ours, valid) = (Owner::network_key(network), valid.iter().map(Owner::key).collect::<HashSet<String>>());
    let is_valid = |comment: &str| valid.contains(owner_key(comment));
    let stale = |rule: &&Rule| rule.comment().is_some_and(|comment| comment.starts_with(&ours) && !is_valid(comment));
    let entries: Vec<Rule> = table.rules(rules::OWNERS).filter(stale).cloned().collect();
    release(table, &entries, []);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::IngressPolicy;
    use crate::iptables::tests::owner;
    use crate::iptables::tool::ScriptCommand;

    fn empty() -> Table {
        Table::empty(rules::TABLE)
    }

    fn parsed(text: &str) -> Table {
        Table::parse(rules::TABLE, text)
    }

    fn intent(id: &str, policy: Option<IngressPolicy>) -> Forwarding {
        let ingress = policy.map(|policy| Ingress { bridge: "br0".parse().unwrap(), policy });
        let addresses = vec!["10.9.0.2".parse().unwrap(), "fd00:9::2".parse().unwrap()];
        Forwarding {
            owner: owner(id, "eth0"),
            addresses,
            admin_chain: "CNI-ADMIN".parse().unwrap(),
            ingress,
            published_only: None,
        }
    }

    /// The intent with another IPv4 address.
    fn at(address: &str, intent: Forwarding) -> Forwarding {
        Forwarding { addresses: vec![address.parse().unwrap()], ..intent }
    }

    fn made(mut table: Table, intent: &Forwarding) -> Table {
        Wanted::new(intent, Family::V4).unwrap().make(&mut table);
        table
    }

    fn changes(table: &Table) -> &[ScriptCommand] {
        table.changes().commands()
    }

    fn deleted(table: &Table) -> Vec<String> {
        let deleted = |change: &ScriptCommand| match change {
            ScriptCommand::Delete(rule) => Some(rule.to_string()),
            _ => None,
        };
        changes(table).iter().filter_map(deleted).collect()
    }

    fn targets<'a>(table: &'a Table, chain: &str) -> Vec<&'a str> {
        table.rules(chain).filter_map(Rule::target).collect()
    }

    fn entry<'a>(table: &'a Table, address: &str) -> Option<&'a str> {
        let mut entries = table.rules(rules::OWNERS).filter(|rule| rule.value("-d") == Some(address));
        entries.next().and_then(Rule::comment)
    }

    #[test]
    fn an_empty_table_gets_everything_and_then_nothing() {
        let intent = intent("c1", Some(IngressPolicy::Isolated));
        let table = made(empty(), &intent);
        assert_eq!(targets(&table, rules::FORWARD), ["CNI-ISOLATION-STAGE-1", "CNI-FORWARD"]);
        assert_eq!(targets(&table, rules::STAGE1), ["DROP", "CNI-ISOLATION-STAGE-2", "RETURN"]);
        assert_eq!(targets(&table, rules::ACCEPTS), ["CNI-ADMIN", "CNI-FORWARD-PUBLISHED", "ACCEPT", "ACCEPT"]);
        assert_eq!(changes(&made(table.settled(), &intent)), []);
    }

    #[test]
    fn a_family_has_its_own_addresses_only() {
        let both = intent("c1", None);
        let mut six = empty();
        Wanted::new(&both, Family::V6).unwrap().make(&mut six);
        assert!(entry(&six, "fd00:9::2/128").is_some() && entry(&six, "10.9.0.2/32").is_none());
        assert!(Wanted::new(&at("10.9.0.2", both), Family::V6).is_none());
    }

    #[test]
    fn what_was_made_is_removed_but_for_the_skeleton() {
        let before = made(empty(), &intent("c1", None)).settled();
        let mut table = before.clone();
        remove(&mut table, &owner("c1", "eth0"), &[]);
        assert_eq!(table.rules(rules::ACCEPTS).count(), 2, "administrator and published ports");
        assert!(table.rules(rules::OWNERS).next().is_none());
        // The removal of another owner takes nothing, whatever addresses it names.
        let mut table = before;
        remove(&mut table, &owner("c2", "eth0"), &["10.9.0.2".parse().unwrap()]);
        assert_eq!(changes(&table), []);
    }

    #[test]
    fn what_go_made_for_the_hints_is_removed_as_often_as_it_is_there() {
        let go = "-A CNI-FORWARD -d 10.9.0.7/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                  -A CNI-FORWARD -s 10.9.0.7/32 -j ACCEPT\n";
        let mut table = parsed(&(go.to_owned() + go));
        remove(&mut table, &owner("c1", "eth0"), &["10.9.0.7".parse().unwrap()]);
        assert_eq!((deleted(&table).len(), table.rules(rules::ACCEPTS).count()), (4, 0));
    }

    #[test]
    fn an_address_has_one_owner_the_latest() {
        let table = made(made(empty(), &intent("c1", None)).settled(), &intent("c2", None));
        assert_eq!((table.rules(rules::OWNERS).count(), deleted(&table).len()), (1, 1));
        assert!(owner("c2", "eth0").wrote(entry(&table, "10.9.0.2/32").unwrap()));
    }

    #[test]
    fn an_address_that_the_owner_no_longer_has_is_released() {
        let before = made(empty(), &intent("c1", None)).settled();
        let moved = at("10.9.0.3", intent("c1", None));
        assert!(Wanted::new(&moved, Family::V4).unwrap().gives_up(&before));
        assert!(!Wanted::new(&intent("c1", None), Family::V4).unwrap().gives_up(&before));
        let table = made(before, &moved);
        assert!(entry(&table, "10.9.0.2/32").is_none() && entry(&table, "10.9.0.3/32").is_some());
        assert_eq!(deleted(&table).len(), 3, "the entry and two accepts");
    }

    #[test]
    fn doubled_rules_are_made_single() {
        let wanted = intent("c1", None);
        let table = made(empty(), &wanted);
        let doubled = made(parsed(&(table.print() + &table.print())), &wanted);
        assert_eq!(deleted(&doubled).len(), 3, "the attachment's own, once each: {:?}", deleted(&doubled));
    }

    #[test]
    fn another_chain_of_the_administrator_comes_first() {
        let before = made(empty(), &intent("c1", None)).settled();
        let other = Forwarding { admin_chain: "MINE".parse().unwrap(), ..intent("c2", None) };
        let table = made(before, &other);
        assert_eq!(targets(&table, rules::ACCEPTS)[..2], ["MINE", "CNI-ADMIN"]);
        assert!(changes(&table).contains(&ScriptCommand::Create("MINE".to_owned())));
        // A chain that a listed rule leads to is there, although it isn't listed.
        let listed = parsed(&format!("{}\n{}\n-N {}", rules::forward(), rules::admin("MINE"), rules::ACCEPTS));
        assert!(!changes(&made(listed, &other)).contains(&ScriptCommand::Create("MINE".to_owned())));
    }

    #[test]
    fn the_latest_addition_says_what_a_bridges_policy_is() {
        let isolated = made(empty(), &intent("c1", Some(IngressPolicy::Isolated))).settled();
        let same_bridge = at("10.9.0.3", intent("c2", Some(IngressPolicy::SameBridge)));
        let table = made(isolated, &same_bridge);
        assert_eq!(targets(&table, rules::STAGE1), ["CNI-ISOLATION-STAGE-2", "RETURN"]);
        assert_eq!(targets(&table, rules::STAGE2), ["DROP", "RETURN"], "the same for both");
        assert_eq!(changes(&made(table.settled(), &same_bridge)), []);
    }

    #[test]
    fn a_policy_ends_with_the_last_owner_behind_its_bridge() {
        let first = intent("c1", Some(IngressPolicy::SameBridge));
        let second = at("10.9.0.3", intent("c2", Some(IngressPolicy::SameBridge)));
        let mut table = made(made(empty(), &first), &second).settled();
        remove(&mut table, &first.owner, &[]);
        assert_eq!(of_bridge(&table, "br0").len(), 2);
        remove(&mut table, &second.owner, &[]);
        assert!(of_bridge(&table, "br0").is_empty());
        assert_eq!(targets(&table, rules::STAGE1), ["RETURN"]);
    }

    #[test]
    fn gc_removes_what_invalid_owners_of_the_network_have() {
        let mut elsewhere = at("10.9.0.4", intent("c3", None));
        elsewhere.owner.network = "other-net".parse().unwrap();
        let (valid, stale) = (intent("c1", None), at("10.9.0.3", intent("c2", Some(IngressPolicy::SameBridge))));
        let mut table = [&valid, &stale, &elsewhere].into_iter().fold(empty(), made).settled();
        retain(&mut table, &valid.owner.network, std::slice::from_ref(&valid.owner));
        assert!(entry(&table, "10.9.0.2/32").is_some() && entry(&table, "10.9.0.4/32").is_some());
        assert!(entry(&table, "10.9.0.3/32").is_none() && of_bridge(&table, "br0").is_empty());
        assert_eq!(deleted(&table).len(), 2 + 2 + 2, "entries, accepts, policy: {:?}", deleted(&table));
    }

    /// Ten thousand take minutes if each is looked for among all others.
    #[test]
    fn many_addresses_take_no_longer_each_than_few() {
        let addresses = (0..10_000u32).map(|n| std::net::Ipv4Addr::from(0x0a00_0001 + n).into()).collect();
        let intent = Forwarding { addresses, ..intent("c1", Some(IngressPolicy::Isolated)) };
        let table = made(empty(), &intent).settled();
        assert_eq!(table.rules(rules::OWNERS).count(), 10_001);
        assert_eq!(changes(&made(table.clone(), &intent)), []);
        let mut removed = table;
        remove(&mut removed, &owner("c1", "eth0"), &intent.addresses);
        assert_eq!((removed.rules(rules::OWNERS).count(), deleted(&removed).len()), (0, 30_004));
    }

    #[test]
    fn policies_come_before_what_nftables_has_marked() {
        let marked =
            format!("-A FORWARD -m mark --mark 0x1000/0x1000 -m comment --comment \"{MARK_COMMENT}\" -j ACCEPT");
        let mut table = parsed(&format!("{marked}\n-A FORWARD -j CNI-ISOLATION-STAGE-1\n"));
        assert!(late_policies(&table).is_some());
        put_policies_first(&mut table);
        assert!(late_policies(&table).is_none());
        assert_eq!(targets(&table, rules::FORWARD), ["CNI-ISOLATION-STAGE-1", "ACCEPT"]);
        assert_eq!(deleted(&table).len(), 1);
    }

    #[test]
    fn what_go_made_has_no_entry_or_one_for_another_address() {
        let wanted = intent("c1", Some(IngressPolicy::SameBridge));
        let made_by_go = |table: &Table| Wanted::new(&wanted, Family::V4).unwrap().was_made_by_go(table);
        assert!(made_by_go(&empty()));
        let ours = made(empty(), &wanted).settled();
        assert!(!made_by_go(&ours));
        let mut without = ours;
        without.delete(&rules::owns_address(&wanted.owner, "10.9.0.2".parse().unwrap()));
        assert!(!made_by_go(&without), "the entry of the bridge says that it is ours");
        assert!(made_by_go(&made(empty(), &at("10.9.0.7", wanted.clone()))));
    }

    #[test]
    fn a_policy_made_by_go_outlives_our_owners() {
        let go = "-A CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -m comment --comment \
                  \"CNI firewall plugin rules (ingressPolicy: same-bridge)\" -j CNI-ISOLATION-STAGE-2";
        let mut table = made(parsed(go), &intent("c1", Some(IngressPolicy::SameBridge)));
        remove(&mut table, &owner("c1", "eth0"), &[]);
        assert_eq!(of_bridge(&table, "br0").len(), 2);
        assert_eq!(table.rules(rules::OWNERS).next().unwrap().comment(), Some(rules::FOREIGN));
    }

    #[test]
    fn comments_of_older_go_plugins_count() {
        let wanted = intent("c1", Some(IngressPolicy::SameBridge));
        let older = made(empty(), &wanted).print().replace("same-bridge|isolated", "same-bridge");
        assert_eq!(changes(&made(parsed(&older), &wanted)), []);
    }
}
