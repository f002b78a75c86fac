//! Questions about the kernel: is a chain there, and can it do what the backend needs.

use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, NfTablesMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage};
use rustix::io::Errno;

use super::batch::Batch;
use super::error::{NftError, absent};
use super::expr::Ip;
use super::frame::{Family, Frame, TableId};
use super::{Nftables, chains, check, localnet, macspoof, masquerade, portframe};

/// The family of a table, as the nft language calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFamily {
    /// `inet`: IPv4 and IPv6.
    Inet,
    /// `ip`: IPv4.
    Ip,
    /// `ip6`: IPv6.
    Ip6,
    /// `bridge`.
    Bridge,
}

impl TableFamily {
    /// `NFPROTO_…` (linux/netfilter.h).
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }
}

impl Nftables {
    /// True if there is such a chain, of anybody, `iptables-nft` included. Constant time; a table or module that does not
    /// exist has no chains.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that.
    pub fn chain_exists(&self, family: TableFamily, table: &str, chain: &str) -> Result<bool, NftError> {
        let attributes = vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(chain.to_owned())];
        let message = NfTablesMessage::GetChain(ChainMessage { attributes });
        let question = NetfilterMessage::new(NetfilterHeader::new(family.number().into(), 0, 0), message);
        let mut exists = false;
        for answer in self.socket.ask("look for a chain", vec![question])? {
            exists = match answer {
                // nfnetlink's answer if there is no nf_tables.
                Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) => false,
                answer => !absent(answer)?,
            };
        }
        Ok(exists)
    }

    /// True if there is such a chain and anything in it.
    pub(crate) fn has_rules(&self, family: TableFamily, table: &str, chain: &str) -> Result<bool, NftError> {
        Ok(!check::rules_of_any(&self.socket, family.number(), table, chain)?.is_empty())
    }

    /// The names of the chains of either family that begin with `prefix` in a table of iptables-nft. Lists all chains.
    pub(crate) fn chains_of_iptables(&self, table: &'static str, prefix: &str) -> Result<Vec<String>, NftError> {
        let of = |ip| chains::chains_with(&self.socket, TableId { family: Family::Only(ip), name: table }, prefix);
        Ok([of(Ip::V4)?, of(Ip::V6)?].concat())
    }

    /// Asks the kernel whether it can do everything that the backend needs: it checks all our tables and rules, and
    /// throws them away again. Nothing changes; modules may get loaded.
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn usable(&self) -> Result<(), NftError> {
        let frames = [
            (
                masquerade::frame(),
                "masquerade in tables of family inet",
                "nft_masq and nft_chain_nat, Linux 5.2 or newer",
            ),
            (portframe::frame(Ip::V4), "forward IPv4 ports", "nft_nat, nft_chain_nat, nft_fib_ipv4 and nft_ct"),
            (portframe::frame(Ip::V6), "forward IPv6 ports", "nft_nat, nft_chain_nat, nft_fib_ipv6 and nft_ct"),
            (localnet::frame(), "filter by interface in nftables", "nf_tables"),
        ];
        // An abort waits for RCU like a commit does, so all at once first.
        if self.rehearse(frames.iter().map(|(frame, ..)| frame)).is_ok() {
            return Ok(());
        }
        for (frame, feature, module) in &frames {
            self.rehearse([frame]).map_err(|source| unusable(feature, module, source))?;
        }
        Ok(())
    }

    /// Asks the kernel in the same way whether it can publish ports in IPv4 or, failing that, in IPv6.
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing for IPv4.
    pub fn can_publish(&self) -> Result<(), NftError> {
        let v4 = self.rehearse([&portframe::frame(Ip::V4), &localnet::frame()]);
        v4.or_else(|error| self.rehearse([&portframe::frame(Ip::V6)]).map_err(|_| error)).map_err(|source| {
            NftError::Unusable {
                feature: "forward ports".to_owned(),
                module: "nft_nat, nft_chain_nat, nft_fib_ipv4 and nft_ct",
                source: Box::new(source),
            }
        })
    }

    /// Asks the kernel in the same way whether it can check source addresses on bridges.
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn can_guard_macs(&self) -> Result<(), NftError> {
        let refused = self.rehearse([&macspoof::frame()]);
        refused.map_err(|source| {
            unusable("filter frames on bridges in nftables", "nf_tables with CONFIG_NF_TABLES_BRIDGE", source)
        })
    }

    fn rehearse<'a>(&self, frames: impl IntoIterator<Item = &'a Frame>) -> Result<(), NftError> {
        let mut batch = Batch::default();
        for frame in frames {
            frame.install(&mut batch);
        }
        self.socket.rehearse(&batch)
    }
}

/// That the kernel lacks a feature, if it is for that reason that it refused.
pub(super) fn unusable(feature: &str, module: &'static str, refused: NftError) -> NftError {
    if !refused.is_about_the_kernel() {
        return refused;
    }
    NftError::Unusable { feature: feature.to_owned(), module, source: Box::new(refused) }
}
