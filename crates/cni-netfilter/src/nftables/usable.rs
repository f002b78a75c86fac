//! Whether the kernel can do what masquerading and published ports need.

use cni_plugin::Family;

use super::owned::apply::rehearse;
use super::wire::NftError;
use super::{Nftables, localnet, masquerade, ports};

impl Nftables {
    /// Asks the kernel whether it can do everything that masquerading and published ports need. Nothing changes; modules may get
    /// loaded.
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn usable(&self) -> Result<(), NftError> {
        let skeletons = [
            (
                masquerade::skeleton(),
                "masquerade in tables of family inet",
                "nft_masq and nft_chain_nat, Linux 5.2 or newer",
            ),
            (ports::skeleton(Family::V4), "forward IPv4 ports", "nft_nat, nft_chain_nat, nft_fib_ipv4 and nft_ct"),
            (ports::skeleton(Family::V6), "forward IPv6 ports", "nft_nat, nft_chain_nat, nft_fib_ipv6 and nft_ct"),
            (localnet::skeleton(), "filter by interface in nftables", "nf_tables"),
        ];
        // An abort waits for RCU like a commit does, so all at once first.
        if rehearse(&self.socket, skeletons.iter().map(|(skeleton, ..)| skeleton)).is_ok() {
            return Ok(());
        }
        for (skeleton, feature, module) in &skeletons {
            rehearse(&self.socket, [skeleton]).map_err(|refused| refused.or_unusable(feature, module))?;
        }
        Ok(())
    }
}
