//! Whether a family's rules can be an owner's, as far as that can be told without starting a tool.

use cni_plugin::Owner;

use super::names::Kind;
use super::tool::Family;
use crate::nftables::Nftables;

/// What is known of an owner's rules in one family's `nat` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trace {
    /// There are none.
    Nothing,
    /// The legacy variant has rules, of whomever.
    Legacy,
    /// The nft variant has a chain by one of the owner's names.
    Chain,
}

impl Trace {
    /// Constant time. The netlink socket is closed again, which takes as long as the kernel's grace period if something
    /// was deleted just before: so ask first.
    pub(super) fn of(kind: Kind, owner: &Owner, family: Family) -> Self {
        let table = family.into();
        let has_chain = |nftables: Nftables| {
            kind.all_names(owner).iter().any(|chain| nftables.chain_exists(table, "nat", chain).unwrap_or_default())
        };
        if Nftables::open().is_ok_and(has_chain) {
            Self::Chain
        } else if family.legacy_in_use("nat") {
            Self::Legacy
        } else {
            Self::Nothing
        }
    }
}
