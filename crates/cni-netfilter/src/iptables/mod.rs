//! The iptables backend: the same chain names and rule texts as the Go plugins', so that either implementation can
//! check and delete what the other added; one `iptables-restore` for a family and call.
//!
//! ADD and DEL first try an optimistic transaction, which fails as a whole if what it assumes is wrong: the shared skeleton
//! is there and the attachment's chain isn't (ADD), or is and has the expected entries (DEL). Then, and in GC,
//! `iptables-save` is read and one more transaction carries out what the plan changes.
//!
//! An intent's room (`masquerade`, `ports`, `localnet`, `forwarding`) says which rules there should be; `owned` plans,
//! compares and removes; `tool` runs the tools.

pub(crate) mod dns_redirect;
mod forwarding;
mod inventory;
mod localnet;
mod masquerade;
mod owned;
mod ports;
#[cfg(any(test, fuzzing))]
mod properties;
#[cfg(test)]
mod tests;
mod tool;
mod vxlan_peers;

use cni_plugin::{Difference, Family, NetworkName, Owner};
use ipnetwork::IpNetwork;

use crate::intent::{
    Attachments, Displaced, DnsRedirect, Forwarding, IsThere, Masquerade, PortForward, PortForwards, VxlanPeers,
};
use crate::links::index_exists;
use owned::ChainKind;
use tool::{Table, Tools, concurrently, in_each};

pub(crate) use forwarding::legacy;
pub use ports::PortsCheck;
#[cfg(any(test, fuzzing))]
pub use properties::saved_table_holds;
pub use tool::{IptablesError, legacy_in_use};
pub(crate) use tool::{Variant, command, legacy_is_loaded};

/// The iptables tools of this node, of the variant (nft or legacy) that PATH has.
///
/// All methods work on the network namespace of the calling thread. `ip6tables` is needed only for IPv6 intents.
#[derive(Debug)]
pub struct Iptables {
    holder_is_there: IsThere,
}

impl Iptables {
    /// Looks for the tools of either family in PATH; starts no process.
    pub fn find() -> Result<Self, IptablesError> {
        Self::find_for(Family::V4).or_else(|error| Self::find_for(Family::V6).map_err(|_| error))
    }

    /// Looks for the tools of one family.
    pub(crate) fn find_for(family: Family) -> Result<Self, IptablesError> {
        for verb in ["restore", "save"] {
            tool::find(&format!("{}-{verb}", command(family)))?;
        }
        Ok(Self::for_removal())
    }

    /// The same, asking this whether a holder is there.
    pub(crate) fn asking(self, holder_is_there: IsThere) -> Self {
        Self { holder_is_there }
    }

    /// For removals, and questions about what others have: these use netlink where the tools are missing or don't work.
    pub(crate) fn for_removal() -> Self {
        Self { holder_is_there: index_exists }
    }

    /// Fails with [`IptablesError::Unreadable`] if the family's tool can't show the table. Starts it.
    pub(crate) fn shows(family: Family, table: &'static str) -> Result<(), IptablesError> {
        match Tools::of(family).save(table) {
            Err(error @ IptablesError::Unreadable { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// What the tools in PATH talk to, if their name tells.
    pub(crate) fn variant() -> Option<Variant> {
        Variant::of_path()
    }

    /// Fails with [`IptablesError::NoMarkChain`] if no family has this chain in `nat`. Starts a process for each.
    pub fn require_mark_chain(&self, chain: &str) -> Result<(), IptablesError> {
        // A table that can't be read says nothing, and the chain may be in one family only.
        let lacks = |family| Tools::of(family).save("nat").is_ok_and(|table| !table.has_chain(chain));
        let is_lacking = concurrently(&Family::ALL, lacks).into_iter().all(|lacks| lacks);
        let (chain, tool) = (chain.to_owned(), command(Family::V4));
        if is_lacking { Err(IptablesError::NoMarkChain { chain, tool }) } else { Ok(()) }
    }

    /// The chain that leads to the ports of all attachments.
    pub(crate) const PORTS_CHAIN: &str = ports::DNAT;

    /// The chains of the `filter` table of which one is there if anything of an owner is.
    pub const FORWARDING_CHAINS: [&'static str; 2] = [forwarding::OWNERS, forwarding::ACCEPTS];

    /// The names that the chain of `owner`'s masquerading may have, the Go plugins' included.
    pub fn masquerade_chains(owner: &Owner) -> Vec<String> {
        masquerade::CHAINS.all_names(owner)
    }

    /// The names that the chains of `owner`'s ports may have, the Go plugins' included.
    pub fn port_chains(owner: &Owner) -> Vec<String> {
        ports::CHAINS.all_names(owner)
    }

    /// True if the kernel answers the family's tool, decided as the Go plugins do when no backend is configured.
    /// Starts one process, so ask only then.
    pub fn usable(&self, family: Family) -> bool {
        tool::usable(family)
    }

    /// Masquerades what the intents' addresses send. Idempotent: what is there already stays, what is missing is added.
    ///
    /// If one family fails, the other's rules of the same owners are removed again and the first error is returned.
    pub fn add_masquerade(&self, intents: &[Masquerade]) -> Result<(), IptablesError> {
        let families = Family::among(intents.iter().map(|intent| intent.address));
        let added = in_each(&families, |family| masquerade::add(family, intents));
        Self::settle(&masquerade::CHAINS, intents.iter().map(|intent| &intent.owner), &families, added).map(drop)
    }

    /// What of [`Iptables::add_masquerade`] isn't there.
    pub fn check_masquerade(&self, intents: &[Masquerade]) -> Result<Vec<Difference>, IptablesError> {
        let families = Family::among(intents.iter().map(|intent| intent.address));
        Ok(in_each(&families, |family| masquerade::check(family, intents))?.concat())
    }

    /// Removes the owner's masquerading, Go's included. Idempotent; needs no hints, but is faster with the container's
    /// addresses.
    ///
    /// A chain that the Go plugins made is taken for the owner's if the owner has none of its own.
    pub fn remove_masquerade(&self, owner: &Owner, hints: &[IpNetwork]) -> Result<(), IptablesError> {
        let families = Family::among(hints.iter().map(IpNetwork::ip));
        let expected = |family| masquerade::hinted(owner, hints, family);
        owned::remove(&masquerade::CHAINS, owner, &families, expected).map(drop)
    }

    /// Takes [`Iptables::add_masquerade`] back after a failed ADD. Other than [`Iptables::remove_masquerade`], it leaves alone
    /// what Go made, which may serve another interface of the container, and where nothing is to be removed no lock is
    /// waited for.
    pub fn take_back_masquerade(&self, owner: &Owner) -> Result<(), IptablesError> {
        owned::take_back(&masquerade::CHAINS, owner)
    }

    /// Removes the masquerading of all owners in `network` but `valid`. Other networks' rules and rules that name no
    /// network are left alone.
    pub fn retain_masquerade(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), IptablesError> {
        owned::retain(&masquerade::CHAINS, network, valid).map(drop)
    }

    /// Publishes the intents' ports; at most one intent for an owner and family. Idempotent, and the latest call says
    /// what the owner's ports are.
    ///
    /// Fails with [`IptablesError::PortHeld`] if another container has one of the ports on an overlapping host address;
    /// then, and if one family fails, the owners' ports are removed in both. Two calls at the same time may
    /// both fail or both succeed: the caller must hold a lock.
    ///
    /// A holder whose container is gone for certain ([`PortForwards::link`]) is evicted with all its ports in that
    /// family. Returns those.
    pub fn add_ports(&self, intents: &[PortForwards]) -> Result<Vec<Displaced>, IptablesError> {
        let families = ports::families(intents);
        let added = in_each(&families, |family| ports::add(family, intents, self.holder_is_there));
        let added = Self::settle(&ports::CHAINS, intents.iter().map(|intent| &intent.owner), &families, added)?;
        Ok(added.concat())
    }

    /// Fails as [`Iptables::add_ports`] does if another container holds one of the ports, evicts holders that are gone, and
    /// adds nothing: for ports that are published by other means.
    pub fn free_ports(&self, intents: &[PortForwards]) -> Result<Vec<Displaced>, IptablesError> {
        let free = |family| ports::free(family, intents, self.holder_is_there);
        Ok(in_each(&ports::families(intents), free)?.concat())
    }

    /// What of [`Iptables::add_ports`] isn't there: rules, entry rules, and shared skeleton.
    pub fn check_ports(&self, intents: &[PortForwards]) -> Result<PortsCheck, IptablesError> {
        let checked = in_each(&ports::families(intents), |family| ports::check(family, intents))?;
        let made_by_go = checked.iter().all(|check| check.made_by_go);
        Ok(PortsCheck { differences: checked.into_iter().flat_map(|check| check.differences).collect(), made_by_go })
    }

    /// Removes the owner's published ports, Go's included. Idempotent; needs no hints, but is faster with what ADD was
    /// given. The skeleton is shared and stays.
    ///
    /// Returns what was published, as far as it wasn't in `hints`.
    pub fn remove_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<Vec<PortForward>, IptablesError> {
        let expected = |family| ports::hinted(owner, hints, family);
        Ok(ports::published(&owned::remove(&ports::CHAINS, owner, &ports::families(hints), expected)?))
    }

    /// Takes [`Iptables::add_ports`] back, as [`Iptables::take_back_masquerade`] does.
    pub fn take_back_ports(&self, owner: &Owner) -> Result<(), IptablesError> {
        owned::take_back(&ports::CHAINS, owner)
    }

    /// Removes the published ports of all owners in `network` but `valid`. Other networks' rules and rules that name no
    /// network are left alone. Returns what was published.
    pub fn retain_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<PortForward>, IptablesError> {
        Ok(ports::published(&owned::retain(&ports::CHAINS, network, valid)?))
    }

    /// The names that the chain of `owner`'s redirection of DNS may have.
    pub fn dns_chains(owner: &Owner) -> Vec<String> {
        dns_redirect::CHAINS.all_names(owner)
    }

    /// Redirects DNS, and accepts what is redirected in `INPUT`. Idempotent. If one family fails, the other's rules are
    /// removed again and the first error is returned.
    pub fn add_dns_redirect(&self, wanted: &DnsRedirect) -> Result<(), IptablesError> {
        let added = dns_redirect::add(wanted);
        let families = Family::among(wanted.targets.iter().map(|target| target.client));
        Self::settle(&dns_redirect::CHAINS, [&wanted.owner].into_iter(), &families, added)
    }

    /// What of [`Iptables::add_dns_redirect`] isn't there.
    pub fn check_dns_redirect(&self, wanted: &DnsRedirect) -> Result<Vec<Difference>, IptablesError> {
        dns_redirect::check(wanted)
    }

    /// Removes the owner's redirection of DNS. Idempotent; needs no hint, but is faster with what ADD was given.
    pub fn remove_dns_redirect(&self, owner: &Owner, hint: Option<&DnsRedirect>) -> Result<(), IptablesError> {
        dns_redirect::remove(owner, hint)
    }

    /// Takes [`Iptables::add_dns_redirect`] back after a failed ADD; where there is nothing of it, no lock is waited for.
    pub fn take_back_dns_redirect(&self, owner: &Owner) -> Result<(), IptablesError> {
        dns_redirect::take_back(owner)
    }

    /// Removes the redirections of all owners in `network` but `valid`.
    pub fn retain_dns_redirect(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), IptablesError> {
        dns_redirect::retain(network, valid)
    }

    /// Removes what accepts redirected DNS in `INPUT`. Idempotent.
    pub fn remove_dns_accept(&self) -> Result<(), IptablesError> {
        dns_redirect::remove_accepts()
    }

    /// Drops packets from or for 127.0.0.0/8 that arrive by another interface than `lo`. Idempotent; it stays.
    pub fn add_localnet_guard(&self) -> Result<(), IptablesError> {
        localnet::add()
    }

    /// What of [`Iptables::add_localnet_guard`] isn't there, and what is in front of it.
    pub fn check_localnet_guard(&self) -> Result<Vec<Difference>, IptablesError> {
        localnet::check()
    }

    /// Makes these the UDP ports that only their peers may send to, and no others. Idempotent.
    pub fn set_vxlan_peers(&self, wanted: &[VxlanPeers]) -> Result<(), IptablesError> {
        vxlan_peers::set(wanted)
    }

    /// What of one port's part of [`Iptables::set_vxlan_peers`] isn't there.
    pub fn check_vxlan_peers(&self, wanted: &VxlanPeers) -> Result<Vec<Difference>, IptablesError> {
        vxlan_peers::check(wanted)
    }

    /// Accepts what the intent's addresses send and the replies to it, and keeps the bridge's policy. Idempotent; the
    /// latest call says what the owner has and what the bridge's policy is. An address that another owner had becomes
    /// this one's.
    ///
    /// If one family fails, what the owner has in the other is removed again and the first error is returned.
    pub fn add_forwarding(&self, intent: &Forwarding) -> Result<(), IptablesError> {
        let families = Family::among(intent.addresses.iter().copied());
        let added = in_each(&families, |family| forwarding::add(family, intent));
        if added.is_err() {
            // The first error is the one to report; what can't be taken back now is DEL's to remove.
            drop(in_each(&families, |family| forwarding::remove_all(family, &intent.owner, &[])));
        }
        added.map(drop)
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
        let families = Family::among(intent.addresses.iter().copied());
        Ok(in_each(&families, |family| forwarding::check(family, intent, attached))?.concat())
    }

    /// Removes what the owner has, and what Go made for the addresses of `hint` unless they are another owner's; the
    /// policies of bridges that no owner is behind any more, too. Idempotent; needs no hint, but is faster with what the
    /// owner is thought to have, and then leaves a family without any address alone.
    pub fn remove_forwarding(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<(), IptablesError> {
        let hint = hint.filter(|hint| !hint.is_empty());
        let removed = match hint {
            Some(hint) => {
                let families = Family::among(hint.addresses.iter().copied());
                in_each(&families, |family| forwarding::remove(family, owner, hint))
            }
            None => in_each(&Family::ALL, |family| forwarding::remove_all(family, owner, &[])),
        };
        removed.map(drop)
    }

    /// Removes what owners in `network` other than `valid` have. What Go made names no owner and stays.
    pub fn retain_forwarding(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), IptablesError> {
        in_each(&Family::ALL, |family| forwarding::retain(family, network, valid)).map(drop)
    }

    /// Takes back what the families that succeeded did if another one failed.
    fn settle<'a, T>(
        kind: &ChainKind,
        owners: impl Iterator<Item = &'a Owner>,
        families: &[Family],
        outcome: Result<T, IptablesError>,
    ) -> Result<T, IptablesError> {
        if outcome.is_err() {
            let mut owners: Vec<&Owner> = owners.collect();
            owners.dedup();
            // The error that led here is the one to report; what can't be taken back now is DEL's to remove.
            owners.iter().for_each(|owner| drop(owned::take_back_in(kind, owner, families)));
        }
        outcome
    }
}

/// Plans for an empty node in the language of `iptables-save`: a table for each family that has something, and a comment
/// that names the tool.
impl Iptables {
    /// What [`Iptables::add_masquerade`] makes.
    pub fn print_masquerade(intents: &[Masquerade]) -> String {
        print(|family| masquerade::plan(intents, family))
    }

    /// What [`Iptables::add_ports`] makes.
    pub fn print_ports(intents: &[PortForwards]) -> String {
        print(|family| ports::plan(intents, family))
    }

    /// What [`Iptables::add_dns_redirect`] makes in `nat`.
    pub fn print_dns_redirect(wanted: &DnsRedirect) -> String {
        print(|family| dns_redirect::plan(wanted, family))
    }

    /// What [`Iptables::add_localnet_guard`] makes.
    pub fn print_localnet_guard() -> String {
        print(localnet::plan)
    }

    /// What [`Iptables::add_forwarding`] makes.
    pub fn print_forwarding(intent: &Forwarding) -> String {
        print(|family| forwarding::plan(intent, family))
    }
}

fn print(plan: impl Fn(Family) -> Table) -> String {
    let planned = Family::ALL.map(|family| (family, plan(family)));
    let planned = planned.iter().filter(|(_, table)| !table.changes().commands().is_empty());
    planned
        .map(|(family, table)| format!("# {}-save -t {}\n{}", command(*family), table.name(), table.print()))
        .collect()
}
