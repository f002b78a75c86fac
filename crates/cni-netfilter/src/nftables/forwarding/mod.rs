//! Forwarding: `inet cni_firewall`, the verbs.
//!
//! Policies of this backend also drop packets to and from bridges with a policy of the iptables backend or the Go plugin: see
//! [`iptables`].

mod evaluate;
mod foreign;
pub(super) mod iptables;
pub(super) mod skeleton;

use std::net::IpAddr;

use cni_plugin::{Difference, Family, IfName, NetworkName, Owner};
use rustix::io::Errno;

use self::skeleton::{ADMIN, CLOSED, INSIDE, ISOLATE, OWNED, PASS, REFUSE, TABLE, accepted, behind, skeleton};
use super::Nftables;
use super::owned::comment::is_stale;
use super::owned::{Plan, apply, check, index, remove};
use super::ruleset::{Chain, Element, Found, Key, SetId, Value, chain, data, element};
use super::wire::{Batch, NftError, TableFamily};
use crate::intent::{Forwarding, Ingress, IngressPolicy};

/// The comment on what a bridge's policy consists of. It is the same for all owners, so each may change it.
const POLICY: &str = "ingressPolicy";
/// Followed by a bridge: the chain without rules that all elements of containers behind it lead to.
const BRIDGE: &str = "bridge-";
/// How often the removal of a policy is tried while others delete the same things.
const RELEASE_ATTEMPTS: u32 = 8;

/// What ends with a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovedForwarding {
    /// The addresses that are no longer accepted.
    pub addresses: Vec<IpAddr>,
    /// The bridges that no longer have a policy.
    pub bridges: Vec<IfName>,
}

fn bridge_chain(bridge: &str) -> String {
    format!("{BRIDGE}{bridge}")
}

/// What an owner has: an element for each address, and another if it is behind a bridge with a policy.
fn own(intent: &Forwarding) -> Vec<Element> {
    let element = |set: SetId, address: &IpAddr, value, name| Element {
        key: Key::new(set, data::address(*address)),
        value,
        comment: intent.owner.comment(),
        name,
    };
    let accepts = intent.addresses.iter().map(|address| {
        element(accepted(Family::of(*address)), address, Value::Nothing, format!("accept of {address}"))
    });
    let behind = intent.ingress.iter().flat_map(|ingress| {
        intent.addresses.iter().map(|address| {
            let chain = bridge_chain(ingress.bridge.as_str());
            let name = format!("place of {address} behind {}", ingress.bridge);
            element(behind(Family::of(*address)), address, Value::Goto(chain), name)
        })
    });
    accepts.chain(behind).collect()
}

/// Wherever an owner of these addresses may be.
fn places(addresses: &[IpAddr]) -> Vec<Key> {
    let sets = |address: &IpAddr| [accepted(Family::of(*address)), behind(Family::of(*address))];
    addresses.iter().flat_map(|a| sets(a).map(|set| Key::new(set, data::address(*a)))).collect()
}

/// The addresses whose accepts were removed.
fn addresses(removed: &[Found]) -> Vec<IpAddr> {
    let is_accept = |found: &&Found| Family::ALL.map(accepted).contains(&found.key.set);
    removed.iter().filter(is_accept).filter_map(|found| data::read_address(&found.key.bytes)).collect()
}

/// The keys of a bridge's policy.
fn policy_keys(bridge: &str) -> [Key; 2] {
    let name = data::interface(bridge);
    [Key::new(INSIDE, [&name[..], &name[..]].concat()), Key::new(CLOSED, name)]
}

/// What a bridge's policy consists of.
fn policy(ingress: &Ingress) -> [Element; 2] {
    let target = match ingress.policy {
        IngressPolicy::SameBridge => PASS,
        IngressPolicy::Isolated => REFUSE,
    };
    let name = format!("ingressPolicy {} of {}", ingress.policy, ingress.bridge);
    let [inside, closed] = policy_keys(ingress.bridge.as_str());
    let element = |key, value| Element { key, value, comment: POLICY.to_owned(), name: name.clone() };
    [element(inside, Value::Goto(target.to_owned())), element(closed, Value::Nothing)]
}

fn plan(intent: &Forwarding) -> Result<Plan, NftError> {
    let mut plan = Plan::new(skeleton(), own(intent));
    if let Some(ingress) = &intent.ingress {
        plan.shared_chains.push((TABLE, Chain::regular(bridge_chain(ingress.bridge.as_str()), Vec::new())));
        plan.elements.extend(policy(ingress));
    }
    plan.register(&OWNED, &intent.owner, None);
    plan.deduplicate()?;
    Ok(plan)
}

fn admin_chain() -> Chain {
    Chain::regular(ADMIN, Vec::new())
}

/// The administrator's chain has to exist before a rule can lead to it.
fn declare_admin_chain(batch: &mut Batch) {
    batch.add_table(TABLE, []);
    admin_chain().declare(TABLE, batch);
}

impl Nftables {
    /// Accepts what the intent's addresses send and the replies to it, and keeps the bridge's policy. Idempotent; the
    /// latest call decides about the policy, and an address that another owner had becomes this one's.
    ///
    /// Where iptables-nft has its chain `FORWARD`, the accept counts there too; and so does the policy in its chains, which
    /// are made if `iptables_may_come`.
    ///
    /// Returns the bridges whose policy ends with this, because others had these addresses, or the owner another bridge.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_forwarding(&self, intent: &Forwarding, iptables_may_come: bool) -> Result<Vec<IfName>, NftError> {
        let keys: Vec<Key> = own(intent).into_iter().map(|element| element.key).collect();
        let found = element::look_up(&self.socket, &keys)?;
        let again = index::look_up(&self.socket, [TABLE], &intent.owner.comment())?.iter().any(Option::is_some);
        if !chain::exists(&self.socket, TABLE, ADMIN)? {
            let mut batch = Batch::default();
            declare_admin_chain(&mut batch);
            self.socket.commit(&batch, None)?;
        }
        // IPAM gave the addresses to this owner, so another one that has them is gone.
        let mut released = Vec::new();
        let of_others = |comment: &str| !intent.owner.wrote(comment);
        if found.iter().flatten().any(|found| of_others(&found.comment)) {
            let removed = remove::keys(&self.socket, &[&OWNED], &keys, &of_others)?;
            released.extend(self.release(&remove::targets(&removed, TABLE))?);
        }
        let is_new = match &intent.ingress {
            Some(ingress) => !chain::exists(&self.socket, TABLE, &bridge_chain(ingress.bridge.as_str()))?,
            None => false,
        };
        apply::apply(&self.socket, &plan(intent)?)?;
        if again {
            // It may have been behind another bridge.
            released.extend(self.release_bridges()?);
        }
        self.repair_skeleton()?;
        iptables::add(&self.socket, intent, is_new, iptables_may_come)?;
        Ok(released)
    }

    /// What of [`Nftables::add_forwarding`] isn't there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_forwarding(&self, intent: &Forwarding, iptables_may_come: bool) -> Result<Vec<Difference>, NftError> {
        let mut differences = check::check(&self.socket, &plan(intent)?)?;
        differences.extend(iptables::check(&self.socket, intent, iptables_may_come)?);
        Ok(differences)
    }

    /// The bridges that have a policy here.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn closed_bridges(&self) -> Result<Vec<IfName>, NftError> {
        // Answers that there is none on a kernel without nf_tables too.
        if !self.chain_exists(TableFamily::Inet, TABLE.name, ISOLATE)? {
            return Ok(Vec::new());
        }
        let name = |found: Found| String::from_utf8(found.key.bytes).ok()?.trim_end_matches('\0').parse().ok();
        Ok(element::dump(&self.socket, CLOSED)?.into_iter().filter_map(name).collect())
    }

    /// Keeps `bridges`, which have a policy here, apart from those with a policy in the tables of iptables-nft, for what
    /// `addresses` have to do with. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_apart(&self, bridges: &[IfName], addresses: &[IpAddr]) -> Result<(), NftError> {
        let names: Vec<&str> = bridges.iter().map(IfName::as_str).collect();
        iptables::keep_apart(&self.socket, &Family::among(addresses.iter().copied()), &names, false)
    }

    /// What of [`Nftables::keep_apart`] isn't there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_apart(&self, bridges: &[IfName], addresses: &[IpAddr]) -> Result<Vec<Difference>, NftError> {
        let names: Vec<&str> = bridges.iter().map(IfName::as_str).collect();
        iptables::check_apart(&self.socket, &Family::among(addresses.iter().copied()), &names, false)
    }

    /// Removes what the owner has, and the policy of a bridge that no container is behind any more. Idempotent.
    ///
    /// This takes constant time if `hint` is all that the owner has, or if it has nothing; else all elements are read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_forwarding(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<RemovedForwarding, NftError> {
        let hints = hint.map(|hint| places(&hint.addresses)).unwrap_or_default();
        let removed = remove::of_owner(&self.socket, &[&OWNED], &hints, owner)?;
        let bridges = self.release(&remove::targets(&removed, TABLE))?;
        Ok(RemovedForwarding { addresses: addresses(&removed), bridges })
    }

    /// Removes what owners of `network` that are not in `valid` have, and the policies of bridges that no container is behind.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_forwarding(&self, network: &NetworkName, valid: &[Owner]) -> Result<RemovedForwarding, NftError> {
        let removed = remove::matching(&self.socket, &[&OWNED], is_stale(network, valid))?;
        let bridges = self.release_bridges()?;
        iptables::retain(&self.socket, |names| {
            let keys: Vec<_> = names.iter().map(|name| Key::new(CLOSED, data::interface(name))).collect();
            Ok(element::look_up(&self.socket, &keys)?.iter().map(Option::is_some).collect())
        })?;
        Ok(RemovedForwarding { addresses: addresses(&removed), bridges })
    }

    /// Those of `addresses` that are accepted for no owner.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn unowned(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, NftError> {
        let key = |address: &IpAddr| Key::new(accepted(Family::of(*address)), data::address(*address));
        let found = element::look_up(&self.socket, &addresses.iter().map(key).collect::<Vec<_>>())?;
        Ok(addresses.iter().zip(found).filter_map(|(address, found)| found.is_none().then_some(*address)).collect())
    }

    /// Asks the kernel whether it can do what forwarding needs; see [`Nftables::usable`].
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn can_forward(&self) -> Result<(), NftError> {
        let mut batch = Batch::default();
        declare_admin_chain(&mut batch);
        skeleton().install(&mut batch);
        apply::refuse_foreign(&self.socket, skeleton())?;
        let refused = self.socket.rehearse(&batch);
        refused.map_err(|refused| refused.or_unusable("filter what is forwarded in nftables", "nf_tables and nft_ct"))
    }

    /// Repairs the shared rules, of which [`apply::apply`] only notices that they aren't there: a chain may have been emptied or
    /// changed by hand, and then a policy that drops nothing would hold for all.
    fn repair_skeleton(&self) -> Result<(), NftError> {
        let skeleton = skeleton();
        if check::has_its_rules(&self.socket, &skeleton)? {
            return Ok(());
        }
        let mut batch = Batch::default();
        skeleton.install(&mut batch);
        self.socket.commit(&batch, None)
    }

    fn release_bridges(&self) -> Result<Vec<IfName>, NftError> {
        self.release(&chain::starting_with(&self.socket, TABLE, BRIDGE)?)
    }

    /// Removes the policies of the bridges with these chains unless a container is behind them, and returns those bridges.
    fn release(&self, chains: &[String]) -> Result<Vec<IfName>, NftError> {
        let mut released = Vec::new();
        for chain in chains {
            let Some(Ok(bridge)) = chain.strip_prefix(BRIDGE).map(str::parse::<IfName>) else { continue };
            if self.release_bridge(chain, &bridge)? {
                released.push(bridge);
            }
        }
        Ok(released)
    }

    /// Removes a bridge's chain and policy unless a container is behind it; returns whether it did. An ADD at the same time wins,
    /// because the kernel refuses to delete a chain that an element jumps to.
    fn release_bridge(&self, chain: &str, bridge: &IfName) -> Result<bool, NftError> {
        let keys = policy_keys(bridge.as_str());
        for _ in 0..RELEASE_ATTEMPTS {
            if chain::uses(&self.socket, TABLE, chain)?.is_none_or(|uses| uses > 0) {
                return Ok(false);
            }
            let found = element::look_up(&self.socket, &keys)?;
            let mut batch = Batch::default();
            batch.delete_elements(found.iter().flatten().map(|found| &found.key));
            iptables::release(&self.socket, bridge.as_str(), &mut batch)?;
            batch.delete_chain(TABLE, chain);
            match self.socket.commit(&batch, None) {
                // Something of it has been deleted in between.
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                Err(error) if error.errno() == Some(Errno::BUSY) => return Ok(false),
                outcome => return outcome.map(|()| true),
            }
        }
        Ok(false)
    }

    /// What [`Nftables::add_forwarding`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// As that has them before it turns to the kernel.
    pub fn print_forwarding(intent: &Forwarding) -> Result<String, NftError> {
        let mut plan = plan(intent)?;
        plan.shared_chains.push((TABLE, admin_chain()));
        Ok(plan.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(ingress: Option<(&str, IngressPolicy)>) -> Forwarding {
        let (network, container_id) = ("n".parse().unwrap(), "c1".parse().unwrap());
        Forwarding {
            owner: Owner { network, container_id, ifname: "eth0".parse().unwrap() },
            addresses: vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            admin_chain: crate::intent::ChainName::ADMIN.parse().unwrap(),
            ingress: ingress.map(|(bridge, policy)| Ingress { bridge: bridge.parse().unwrap(), policy }),
            published_only: None,
        }
    }

    fn names(elements: &[Element]) -> Vec<(&str, Value)> {
        elements.iter().map(|element| (element.key.set.name, element.value.clone())).collect()
    }

    #[test]
    fn an_address_is_accepted_and_behind_a_bridge_that_has_a_policy() {
        let accepts = [("accept4", Value::Nothing), ("accept6", Value::Nothing)];
        assert_eq!(names(&plan(&intent(None)).unwrap().elements), accepts);
        let goto = |chain: &str| Value::Goto(chain.to_owned());
        for (policy, target) in [(IngressPolicy::SameBridge, PASS), (IngressPolicy::Isolated, REFUSE)] {
            let plan = plan(&intent(Some(("cni0", policy)))).unwrap();
            let behind = [("behind4", goto("bridge-cni0")), ("behind6", goto("bridge-cni0"))];
            let shared = [("inside", goto(target)), ("closed", Value::Nothing)];
            assert_eq!(names(&plan.elements), [&accepts[..], &behind, &shared].concat());
            let chains: Vec<_> = plan.shared_chains.iter().map(|(_, chain)| chain.name.as_str()).collect();
            assert_eq!(chains, ["bridge-cni0"]);
        }
    }

    /// DEL knows the addresses, and not whether their owner was behind a bridge.
    #[test]
    fn a_removal_looks_wherever_an_addition_may_have_put_an_address() {
        let intent = intent(Some(("cni0", IngressPolicy::Isolated)));
        let mut added: Vec<Key> = own(&intent).into_iter().map(|element| element.key).collect();
        let mut looked_for = places(&intent.addresses);
        added.sort();
        looked_for.sort();
        assert_eq!(added, looked_for);
    }

    #[test]
    fn only_accepts_are_reported_as_removed_addresses() {
        let found = |element: Element| Found { key: element.key, value: element.value, comment: element.comment };
        let intent = intent(Some(("cni0", IngressPolicy::Isolated)));
        let removed: Vec<Found> = plan(&intent).unwrap().elements.into_iter().map(found).collect();
        assert_eq!(addresses(&removed), intent.addresses);
    }

    #[test]
    fn a_policy_is_found_by_the_bridge_alone() {
        let policy = policy(&Ingress { bridge: "cni0".parse().unwrap(), policy: IngressPolicy::Isolated });
        assert_eq!(policy.map(|element| element.key), policy_keys("cni0"));
        let name = b"cni0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(policy_keys("cni0").map(|key| key.bytes), [[&name[..], name].concat(), name.to_vec()]);
    }
}
