//! What network configurations say about masquerading, the same for every plugin that has `ipMasq`.

use std::rc::Rc;
use std::str::FromStr;

use cni_plugin::{Difference, IpConfig, Owner, Undo};
use ipnetwork::IpNetwork;

use crate::filter::{FilterError, Netfilter};
use crate::intent::{Backend, Masquerade, Purpose};

/// A backend that doesn't exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown ipmasq backend {0:?}: ipMasqBackend is \"iptables\" or \"nftables\"")]
pub struct UnknownBackend(pub String);

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        match text {
            "iptables" => Ok(Self::Iptables),
            "nftables" => Ok(Self::Nftables),
            other => Err(UnknownBackend(other.to_owned())),
        }
    }
}

impl Backend {
    /// The one that this isn't.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Iptables => Self::Nftables,
            Self::Nftables => Self::Iptables,
        }
    }

    /// The value of `ipMasqBackend`: empty is for the node to decide.
    pub fn configured(text: &str) -> Result<Option<Self>, UnknownBackend> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
    }
}

impl Masquerade {
    /// One for every address: what goes elsewhere than to its own subnet.
    pub fn of_each(owner: &Owner, ips: &[IpConfig]) -> Vec<Self> {
        let of = |ip: &IpConfig| Self { owner: owner.clone(), address: ip.address.ip(), subnet: ip.address };
        ips.iter().map(of).collect()
    }
}

impl Netfilter {
    /// Masquerades as `wanted` says, all of it `owner`'s, and pushes the removal to `undo`. Idempotent.
    ///
    /// The removal is pushed first: a transaction each family, and the second may fail. An owner that has one of the addresses
    /// too, and that is alive on another network as `is_alive` says of its key, is named on stderr.
    pub fn masquerade(
        self: &Rc<Self>,
        backend: Backend,
        owner: &Owner,
        wanted: &[Masquerade],
        is_alive: &dyn Fn(&str) -> bool,
        undo: &mut Undo,
    ) -> Result<(), FilterError> {
        let (taken_back, taken) = (Rc::clone(self), owner.clone());
        let hints: Vec<IpNetwork> = wanted.iter().map(|of| of.subnet).collect();
        undo.push("the masquerade rules", move || taken_back.take_back_masquerade(&taken, &hints));
        let holders = self.add_masquerade(backend, wanted, is_alive)?;
        for alive in holders.alive {
            eprintln!(
                "an address of {owner} is masqueraded for {alive}, which has it too, and ends with that: give the \
                 networks different subnets"
            );
        }
        Ok(())
    }

    /// What of `wanted` is missing or altered in the backend that ADD would use now. Before an upgrade or a change of the
    /// configuration it may have been the other one: where nothing is wrong with that, nothing is wrong.
    pub fn compare_masquerade(
        &self,
        configured: Option<Backend>,
        wanted: &[Masquerade],
    ) -> Result<Vec<Difference>, FilterError> {
        let networks: Vec<IpNetwork> = wanted.iter().map(|of| of.subnet).collect();
        let backend = self.choose(configured, Purpose::Masquerade, &networks)?;
        let differences = self.check_masquerade(backend, wanted)?;
        if !differences.is_empty() && self.check_masquerade(backend.other(), wanted).is_ok_and(|found| found.is_empty())
        {
            return Ok(Vec::new());
        }
        Ok(differences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_exactly_these_names() {
        assert_eq!(Backend::configured(""), Ok(None));
        assert_eq!(Backend::configured("nftables"), Ok(Some(Backend::Nftables)));
        for bad in ["pf", "NFTABLES", " "] {
            assert_eq!(Backend::configured(bad), Err(UnknownBackend(bad.to_owned())));
        }
    }
}
