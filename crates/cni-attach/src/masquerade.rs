//! `ipMasq`: packets that leave the network get the node's address.

use std::net::IpAddr;
use std::rc::Rc;

use cni_netfilter::{Backend, FilterError, Masquerade, Netfilter, Purpose, UnknownBackend};
use cni_plugin::addr::parse_ip;
use cni_plugin::{CniError, Difference, Family, IpConfig, IpamConfig, Owner, Undo};
use ipnetwork::IpNetwork;

/// What the configuration says about masquerading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasqueradeSettings {
    /// `ipMasq`
    pub enabled: bool,
    /// `ipMasqBackend`; `None` is for the node to decide.
    pub backend: Option<Backend>,
    /// The families that it is for.
    pub families: Vec<Family>,
    /// `ipMasqTo`: the source that packets get, at most one of each family.
    pub to: Vec<IpAddr>,
}

/// Why `ipMasqTo` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MasqueradeError {
    /// An element that is no address.
    #[error(
        "ipMasqTo[{index}]: {value:?} is not an address that packets can leave the node with: expected a unicast IP address"
    )]
    Address {
        /// The position in the list.
        index: usize,
        /// As configured.
        value: String,
    },
    /// Two addresses of a family.
    #[error("ipMasqTo: {first} and {second} are both {family}: one address of each family is allowed")]
    Two {
        /// The first one.
        first: IpAddr,
        /// The second one.
        second: IpAddr,
        /// Of both.
        family: Family,
    },
    /// An address without masquerading.
    #[error("ipMasqTo is {0}, but {1}: change that, or remove ipMasqTo")]
    Unused(IpAddr, &'static str),
}

impl MasqueradeSettings {
    /// The keys `ipMasq` and `ipMasqBackend`; the latter is refused also where it is not used.
    ///
    /// # Errors
    /// An unknown backend.
    pub fn resolve(enabled: bool, backend: &str) -> Result<Self, UnknownBackend> {
        Ok(Self {
            enabled,
            backend: Backend::configured("ipMasqBackend", backend)?,
            families: Family::ALL.to_vec(),
            to: Vec::new(),
        })
    }

    /// The same with the key `ipMasqTo`.
    ///
    /// # Errors
    /// What is no address, a second one of a family, and one where nothing is masqueraded.
    pub fn leaving_with(mut self, to: Option<&[String]>) -> Result<Self, MasqueradeError> {
        for (index, text) in to.into_iter().flatten().enumerate() {
            let is_source = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
            let address = parse_ip(text).filter(is_source);
            let address = address.ok_or_else(|| MasqueradeError::Address { index, value: text.clone() })?;
            let family = Family::of(address);
            if let Some(first) = self.to_of(family) {
                return Err(MasqueradeError::Two { first, second: address, family });
            }
            if !self.enabled {
                return Err(MasqueradeError::Unused(address, "nothing is masqueraded (ipMasq, ipam)"));
            }
            if !self.families.contains(&family) {
                return Err(MasqueradeError::Unused(address, "its family is not in ipMasqFamilies"));
            }
            self.to.push(address);
        }
        Ok(self)
    }

    fn to_of(&self, family: Family) -> Option<IpAddr> {
        self.to.iter().copied().find(|to| Family::of(*to) == family)
    }

    /// One entry for each of these addresses that is to be masqueraded.
    pub fn wanted(&self, owner: &Owner, ips: &[IpConfig]) -> Vec<Masquerade> {
        if !self.enabled {
            return Vec::new();
        }
        let mut wanted = Masquerade::of_each(owner, ips);
        wanted.retain(|wanted| self.families.contains(&Family::of(wanted.address)));
        wanted.iter_mut().for_each(|wanted| wanted.to = self.to_of(Family::of(wanted.address)));
        wanted
    }

    /// The backend that ADD uses; `None` if nothing is masqueraded. To be called before anything is changed, as it may be
    /// that no backend can be used.
    ///
    /// # Errors
    /// As [`Netfilter::choose`].
    pub fn choose(&self, filter: &Netfilter, ipam: &IpamConfig) -> Result<Option<Backend>, FilterError> {
        let choose = || filter.choose(self.backend, Purpose::Masquerade, &self.networks(ipam));
        self.enabled.then(choose).transpose()
    }

    /// Says whether ADD could masquerade now; changes nothing.
    ///
    /// # Errors
    /// Code 50 with the reason.
    pub fn status(&self, filter: &Netfilter, ipam: &IpamConfig) -> Result<(), CniError> {
        let networks = self.networks(ipam);
        let usable = self.choose(filter, ipam).and_then(|backend| match backend {
            Some(backend) => filter.usable(backend, Purpose::Masquerade, &networks),
            None => Ok(()),
        });
        usable.map_err(|error| CniError::from(error).unavailable())
    }

    /// What of `wanted` is missing or altered.
    ///
    /// # Errors
    /// As [`Netfilter::check_masquerade`].
    pub fn check(&self, filter: &Netfilter, wanted: &[Masquerade]) -> Result<Vec<Difference>, FilterError> {
        if self.enabled { filter.check_masquerade(self.backend, wanted) } else { Ok(Vec::new()) }
    }

    /// host-local's subnets in the families that are masqueraded.
    fn networks(&self, ipam: &IpamConfig) -> Vec<IpNetwork> {
        let mut networks = ipam.subnets();
        networks.retain(|network| self.families.contains(&Family::of(network.ip())));
        networks
    }
}

/// Masquerades as `wanted` says with the backend that [`MasqueradeSettings::choose`] chose, if it chose one. Pushes the removal to
/// `undo`. Idempotent. `filter` should ask [`crate::pair::is_there`] ([`Netfilter::asking`]).
///
/// # Errors
/// As [`Netfilter::add_masquerade`].
pub fn add(
    filter: &Rc<Netfilter>,
    backend: Option<Backend>,
    wanted: &[Masquerade],
    undo: &mut Undo,
) -> Result<(), FilterError> {
    backend.map_or(Ok(()), |backend| filter.add_masquerade(backend, wanted, undo))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(addresses: &[&str], enabled: bool) -> Result<Vec<IpAddr>, String> {
        let addresses: Vec<String> = addresses.iter().map(|text| (*text).to_owned()).collect();
        let settings = MasqueradeSettings::resolve(enabled, "").unwrap().leaving_with(Some(&addresses));
        settings.map(|settings| settings.to).map_err(|error| error.to_string())
    }

    #[test]
    fn one_address_a_family_that_packets_can_have() {
        assert_eq!(to(&["192.0.2.7", "2001:db8::7"], true).map(|to| to.len()), Ok(2));
        assert_eq!(to(&[], false), Ok(Vec::new()));
        for bad in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "192.0.2.0/24", "eth0", ""] {
            let refused = to(&["2001:db8::7", bad], true).unwrap_err();
            assert!(refused.contains("ipMasqTo[1]") && refused.contains(&format!("{bad:?}")), "{refused}");
        }
        assert!(to(&["192.0.2.7", "192.0.2.8"], true).unwrap_err().contains("192.0.2.8"));
        assert!(to(&["192.0.2.7"], false).unwrap_err().contains("ipMasq"));
    }
}
