//! The iptables backend: the same chain names and rule texts as the Go plugins', so that either implementation can
//! check and delete what the other added; one `iptables-restore` for a family and call.
//!
//! ADD and DEL first bet on the usual case with a transaction that fails as a whole if the bet is lost: the shared
//! frame is there and the attachment's chain isn't (ADD), or is and has the expected entries (DEL). Then, and in GC,
//! `iptables-save` is read and one more transaction carries out what the comparison says.

mod attach;
mod compare;
mod detach;
mod error;
mod firewall;
pub(crate) mod firewall_legacy;
mod firewall_model;
mod firewall_plan;
mod firewall_rules;
mod guard;
mod held;
mod masquerade;
mod names;
mod plan;
mod ports;
#[cfg(any(test, fuzzing))]
mod properties;
mod read;
mod rules;
mod run;
mod save;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tool;
mod trace;

use cni_plugin::{Difference, NetworkName, Owner};
use ipnetwork::IpNetwork;

pub use error::IptablesError;
#[cfg(any(test, fuzzing))]
pub use properties::saved_table_holds;
pub use tool::Family;
pub(crate) use tool::Variant;

use crate::links::{IsThere, index_exists};
use crate::{Evicted, Masquerade, PortForward, PortForwards};
use names::Kind;
use tool::concurrently;

/// The iptables tools of this node, of either variant (nft or legacy): whichever PATH says.
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
            tool::find(&format!("{}-{verb}", family.command()))?;
        }
        Ok(Self::whatever_is_there())
    }

    /// The same, asking this whether a holder is there.
    pub(crate) fn asking(self, holder_is_there: IsThere) -> Self {
        Self { holder_is_there }
    }

    /// For removals, and questions about what others have: where the tools are missing or don't work, these do with netlink.
    pub(crate) fn whatever_is_there() -> Self {
        Self { holder_is_there: index_exists }
    }

    /// Fails with [`IptablesError::Unreadable`] if the family's tool can't show the table. Starts it.
    pub(crate) fn shows(family: Family, table: &str) -> Result<(), IptablesError> {
        match tool::save(family, table) {
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
        // A table that can't be read says nothing, and neither does one without the chain of the other family's.
        let lacks = |family| tool::save(family, "nat").is_ok_and(|table| table.chain(chain).is_none());
        let lacking = concurrently(&Family::ALL, lacks).into_iter().all(|lacks| lacks);
        let (chain, tool) = (chain.to_owned(), Family::V4.command());
        if lacking { Err(IptablesError::NoMarkChain { chain, tool }) } else { Ok(()) }
    }

    /// The chain that leads to everybody's ports.
    pub(crate) const PORTS_CHAIN: &str = ports::DNAT;

    /// The names that the chain of `owner`'s masquerading may have, the Go plugins' included.
    pub fn masquerade_chains(owner: &Owner) -> Vec<String> {
        Kind::Masquerade.all_names(owner)
    }

    /// The names that the chains of `owner`'s ports may have, the Go plugins' included.
    pub fn port_chains(owner: &Owner) -> Vec<String> {
        Kind::Ports.all_names(owner)
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
        let families = present(|family| intents.iter().any(|intent| Family::of(intent.address) == family));
        let added = concurrently(&families, |family| attach::add_masquerade(family, intents));
        let owners: Vec<&Owner> = intents.iter().map(|intent| &intent.owner).collect();
        self.settle(Kind::Masquerade, &owners, &families, added).map(drop)
    }

    /// What of [`Iptables::add_masquerade`] isn't there.
    pub fn check_masquerade(&self, intents: &[Masquerade]) -> Result<Vec<Difference>, IptablesError> {
        let families = present(|family| intents.iter().any(|intent| Family::of(intent.address) == family));
        flatten(concurrently(&families, |family| attach::check_masquerade(family, intents)))
    }

    /// Removes the owner's masquerading, Go's included. Idempotent; needs no hints, but is faster with the container's
    /// addresses.
    ///
    /// A chain that the Go plugins made is taken for the owner's if the owner has none of its own.
    pub fn remove_masquerade(&self, owner: &Owner, hints: &[IpNetwork]) -> Result<(), IptablesError> {
        let families = present(|family| hints.iter().any(|hint| Family::of(hint.ip()) == family));
        let expected = |family| masquerade::hinted(owner, hints, family);
        collected(detach::remove(Kind::Masquerade, owner, &families, expected)).map(drop)
    }

    /// Takes [`Iptables::add_masquerade`] back: as [`Iptables::remove_masquerade`], but leaves alone what Go made, and where
    /// nothing is to be removed nothing is waited for.
    pub fn take_back_masquerade(&self, owner: &Owner) -> Result<(), IptablesError> {
        collected(detach::take_back(Kind::Masquerade, owner, &detach::traced(Kind::Masquerade, owner))).map(drop)
    }

    /// Takes [`Iptables::add_ports`] back, in the same way.
    pub fn take_back_ports(&self, owner: &Owner) -> Result<(), IptablesError> {
        collected(detach::take_back(Kind::Ports, owner, &detach::traced(Kind::Ports, owner))).map(drop)
    }

    /// Removes the masquerading of all owners in `network` but `valid`. Other networks' rules and rules that name no
    /// network are left alone.
    pub fn retain_masquerade(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), IptablesError> {
        collected(detach::retain(Kind::Masquerade, network, valid)).map(drop)
    }

    /// Publishes the intents' ports; at most one intent for an owner and family. Idempotent, and the latest call says
    /// what the owner's ports are.
    ///
    /// Fails with [`IptablesError::PortHeld`] if another container has one of the ports on an overlapping host address;
    /// then, and if one family fails, the owners' ports are removed in both. Of two calls at the very same moment each may
    /// see the other's ports, or neither: the caller has to keep others away.
    ///
    /// A holder whose container is gone for certain ([`PortForwards::link`]) is evicted with all its ports in that
    /// family. Returns those.
    pub fn add_ports(&self, intents: &[PortForwards]) -> Result<Vec<Evicted>, IptablesError> {
        let families = present(|family| !ports::of_family(intents, family).is_empty());
        let added = concurrently(&families, |family| {
            attach::add_ports(family, &ports::of_family(intents, family), self.holder_is_there)
        });
        let owners: Vec<&Owner> = intents.iter().map(|intent| &intent.owner).collect();
        Ok(self.settle(Kind::Ports, &owners, &families, added)?.concat())
    }

    /// Fails as [`Iptables::add_ports`] does if somebody holds one of the ports, evicts whoever is gone, and adds nothing: for
    /// ports that are published by other means.
    pub fn free_ports(&self, intents: &[PortForwards]) -> Result<Vec<Evicted>, IptablesError> {
        let families = present(|family| !ports::of_family(intents, family).is_empty());
        let freed = concurrently(&families, |family| {
            attach::free_ports(family, &ports::of_family(intents, family), self.holder_is_there)
        });
        Ok(collected(freed)?.concat())
    }

    /// What of [`Iptables::add_ports`] isn't there: rules, entry rules, and shared frame.
    pub fn check_ports(&self, intents: &[PortForwards]) -> Result<Vec<Difference>, IptablesError> {
        self.check_ports_and_maker(intents).map(|(differences, _)| differences)
    }

    /// The same, and whether all the rules are as the Go plugin made them.
    pub(crate) fn check_ports_and_maker(
        &self,
        intents: &[PortForwards],
    ) -> Result<(Vec<Difference>, bool), IptablesError> {
        let families = present(|family| !ports::of_family(intents, family).is_empty());
        let check = |family| attach::check_ports(family, &ports::of_family(intents, family));
        let checked = collected(concurrently(&families, check))?;
        let is_gos = checked.iter().all(|(_, is_gos)| *is_gos);
        Ok((checked.into_iter().flat_map(|(differences, _)| differences).collect(), is_gos))
    }

    /// Removes the owner's published ports, Go's included. Idempotent; needs no hints, but is faster with what ADD was
    /// given. The frame is shared and stays.
    ///
    /// Returns what was published, as far as it wasn't in `hints`.
    pub fn remove_ports(&self, owner: &Owner, hints: &[PortForwards]) -> Result<Vec<PortForward>, IptablesError> {
        let families = present(|family| !ports::of_family(hints, family).is_empty());
        let expected = |family| {
            let hints = ports::of_family(hints, family).into_iter().filter(|hint| hint.owner == *owner);
            hints.map(ports::wanted).collect()
        };
        Ok(collected(detach::remove(Kind::Ports, owner, &families, expected))?.concat())
    }

    /// Removes the published ports of all owners in `network` but `valid`. Other networks' rules and rules that name no
    /// network are left alone. Returns what was published.
    pub fn retain_ports(&self, network: &NetworkName, valid: &[Owner]) -> Result<Vec<PortForward>, IptablesError> {
        Ok(collected(detach::retain(Kind::Ports, network, valid))?.concat())
    }

    /// Drops what arrives from or for 127.0.0.0/8 by another interface than `lo`. Idempotent.
    pub fn guard_localnet(&self) -> Result<(), IptablesError> {
        guard::add()
    }

    /// What of [`Iptables::guard_localnet`] isn't there.
    pub fn check_localnet_guard(&self) -> Result<Vec<Difference>, IptablesError> {
        guard::check()
    }

    /// Takes back what the families that succeeded did if another one failed.
    fn settle<T>(
        &self,
        kind: Kind,
        owners: &[&Owner],
        families: &[Family],
        outcomes: Vec<Result<T, IptablesError>>,
    ) -> Result<Vec<T>, IptablesError> {
        let settled = collected(outcomes);
        if settled.is_err() {
            let mut owners = owners.to_vec();
            owners.dedup();
            // The error that led here is the one to report; what can't be taken back now is DEL's to remove.
            owners.iter().for_each(|owner| drop(detach::take_back(kind, owner, families)));
        }
        settled
    }
}

fn present(has: impl Fn(Family) -> bool) -> Vec<Family> {
    Family::ALL.into_iter().filter(|family| has(*family)).collect()
}

/// The first error, after all have been tried.
fn all(outcomes: Vec<Result<(), IptablesError>>) -> Result<(), IptablesError> {
    outcomes.into_iter().collect()
}

/// The same for outcomes that say something.
fn collected<T>(outcomes: Vec<Result<T, IptablesError>>) -> Result<Vec<T>, IptablesError> {
    outcomes.into_iter().collect()
}

fn flatten(outcomes: Vec<Result<Vec<Difference>, IptablesError>>) -> Result<Vec<Difference>, IptablesError> {
    Ok(collected(outcomes)?.concat())
}
