//! The choice of the backend, and whether it can be used.

use cni_plugin::Family;
use ipnetwork::IpNetwork;

use super::{FilterError, Netfilter};
use crate::intent::{Backend, Purpose};
use crate::iptables::{Iptables, Variant, command, legacy_is_loaded};
use crate::nftables::{NftError, Nftables};

impl Netfilter {
    /// The backend to use: the configured one, else as the Go plugins choose: iptables where its tools are and the kernel
    /// answers them for IPv4, else nftables. Also nftables where iptables does not work for one of the families of `networks`, or
    /// its tools can't show the table that the rules go to. If `networks` is empty, they are unknown.
    ///
    /// Starts a process only where neither the tools' variant nor the kernel tells the answer.
    pub fn choose(
        &self,
        configured: Option<Backend>,
        purpose: Purpose,
        networks: &[IpNetwork],
    ) -> Result<Backend, FilterError> {
        first_usable(
            configured,
            || self.iptables_suits(purpose, networks),
            || self.nftables().and_then(Nftables::usable),
        )
    }

    fn iptables_suits(&self, purpose: Purpose, networks: &[IpNetwork]) -> Result<(), FilterError> {
        let needed = Family::among(networks.iter().map(IpNetwork::ip));
        self.answers(Family::V4)?;
        needed.iter().filter(|family| **family != Family::V4).try_for_each(|family| self.answers(*family))?;
        let needed = if needed.is_empty() { Family::ALL.to_vec() } else { needed };
        needed.into_iter().try_for_each(|family| self.shows(family, purpose))
    }

    fn answers(&self, family: Family) -> Result<(), FilterError> {
        let tools = Iptables::find_for(family)?;
        let answers = || self.nftables().is_ok_and(|nft| nft.chain_exists(family.into(), "filter", "INPUT").is_ok());
        let is_answered = match Iptables::variant() {
            Some(Variant::Nft) => answers(),
            Some(Variant::Legacy) => legacy_is_loaded(family),
            None => false,
        };
        if is_answered { Ok(()) } else { Self::ask(&tools, family) }
    }

    fn ask(tools: &Iptables, family: Family) -> Result<(), FilterError> {
        let error = FilterError::IptablesUnusable { tool: command(family), family };
        tools.usable(family).then_some(()).ok_or(error)
    }

    /// Fails if the family's tools can't show the table for this purpose. They are asked only where the kernel has something
    /// in it that iptables doesn't write.
    pub(super) fn shows(&self, family: Family, purpose: Purpose) -> Result<(), FilterError> {
        let place = (family, purpose.table());
        if self.shown.borrow().contains(&place) {
            return Ok(());
        }
        let has_foreign = |nft: &Nftables| nft.has_foreign_rules(family.into(), purpose.table()).unwrap_or_default();
        if Iptables::variant() != Some(Variant::Legacy) && self.nftables().is_ok_and(has_foreign) {
            Iptables::shows(family, purpose.table())?;
        }
        self.shown.borrow_mut().push(place);
        Ok(())
    }

    /// Fails, naming what is missing, if `backend` doesn't work here for this purpose in one of the families of `networks`;
    /// without any, if it works in no family.
    pub fn usable(&self, backend: Backend, purpose: Purpose, networks: &[IpNetwork]) -> Result<(), FilterError> {
        match backend {
            Backend::Iptables => {
                let needed = Family::among(networks.iter().map(IpNetwork::ip));
                if needed.is_empty() {
                    // The first family that works at all decides.
                    let works = |family| Self::works(family).map(|()| family);
                    let family = works(Family::V4).or_else(|error| works(Family::V6).map_err(|_| error))?;
                    return self.shows(family, purpose);
                }
                needed.into_iter().try_for_each(|family| Self::works(family).and_then(|()| self.shows(family, purpose)))
            }
            Backend::Nftables if purpose == Purpose::Forwarding => Ok(self.nftables()?.can_forward()?),
            Backend::Nftables => Ok(self.nftables()?.usable()?),
        }
    }

    fn works(family: Family) -> Result<(), FilterError> {
        Self::ask(&Iptables::find_for(family)?, family)
    }
}

/// The configured backend, which is not asked anything; else iptables before nftables.
fn first_usable(
    configured: Option<Backend>,
    iptables: impl FnOnce() -> Result<(), FilterError>,
    nftables: impl FnOnce() -> Result<(), NftError>,
) -> Result<Backend, FilterError> {
    if let Some(backend) = configured {
        return Ok(backend);
    }
    let Err(iptables) = iptables() else { return Ok(Backend::Iptables) };
    match nftables() {
        Ok(()) => Ok(Backend::Nftables),
        Err(nftables) => Err(FilterError::NoBackend { iptables: Box::new(iptables), nftables: Box::new(nftables) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TOOLS: Result<(), FilterError> =
        Err(FilterError::IptablesUnusable { tool: "iptables", family: Family::V4 });

    fn no_nftables() -> Result<(), NftError> {
        Err(NftError::Contended { what: "find nftables".to_owned(), attempts: 1 })
    }

    #[test]
    fn a_configured_backend_is_taken_unasked() {
        for backend in [Backend::Iptables, Backend::Nftables] {
            let chosen = first_usable(Some(backend), || unreachable!(), || unreachable!());
            assert_eq!(chosen.unwrap(), backend);
        }
    }

    #[test]
    fn iptables_comes_first_and_nftables_is_asked_only_without_it() {
        assert_eq!(first_usable(None, || Ok(()), || unreachable!()).unwrap(), Backend::Iptables);
        assert_eq!(first_usable(None, || NO_TOOLS, || Ok(())).unwrap(), Backend::Nftables);
    }

    #[test]
    fn without_any_the_error_says_why_for_both() {
        let error = first_usable(None, || NO_TOOLS, no_nftables).unwrap_err().to_string();
        assert!(error.contains("iptables -S INPUT") && error.contains("find nftables"), "{error}");
    }
}
