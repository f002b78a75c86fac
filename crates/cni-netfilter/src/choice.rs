//! Which backend, and whether it can be used.

use crate::filter::{FilterError, Netfilter};
use crate::intent::Backend;
use crate::iptables::{Family, Iptables, Variant};
use crate::nftables::{Nftables, TableFamily};

impl Netfilter {
    /// The backend to use: the configured one, else as the Go plugins choose: iptables where its tools are and the kernel
    /// answers them, else nftables. Starts a process only where neither their variant nor the kernel's modules tell that.
    pub fn choose(&self, configured: Option<Backend>) -> Result<Backend, FilterError> {
        if let Some(backend) = configured {
            return Ok(backend);
        }
        let Err(iptables) = self.iptables_answered() else { return Ok(Backend::Iptables) };
        match self.nftables().and_then(Nftables::usable) {
            Ok(()) => Ok(Backend::Nftables),
            Err(nftables) => Err(FilterError::NoBackend { iptables: Box::new(iptables), nftables: Box::new(nftables) }),
        }
    }

    fn iptables_answered(&self) -> Result<(), FilterError> {
        let tools = Iptables::find()?;
        let answers = || self.nftables().is_ok_and(|nft| nft.chain_exists(TableFamily::Ip, "filter", "INPUT").is_ok());
        let is_answered = match Iptables::variant() {
            Some(Variant::Nft) => answers(),
            Some(Variant::Legacy) => Family::V4.legacy_is_loaded(),
            None => false,
        };
        if is_answered { Ok(()) } else { Self::ask(&tools, Family::V4) }
    }

    fn ask(tools: &Iptables, family: Family) -> Result<(), FilterError> {
        tools.usable(family).then_some(()).ok_or(FilterError::IptablesUnusable { tool: family.command() })
    }

    /// Fails, naming what is missing, if `backend` doesn't work here; of iptables, for IPv4 and, if `ipv6` says so, IPv6.
    pub fn usable(&self, backend: Backend, ipv6: bool) -> Result<(), FilterError> {
        match backend {
            Backend::Iptables => {
                let tools = Iptables::find()?;
                Self::ask(&tools, Family::V4)?;
                if ipv6 {
                    Iptables::find_ipv6().map_err(FilterError::from).and_then(|()| Self::ask(&tools, Family::V6))
                } else {
                    Ok(())
                }
            }
            Backend::Nftables => Ok(self.nftables()?.usable()?),
        }
    }
}
