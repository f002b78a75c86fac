//! The guard of 127.0.0.0/8 on a kernel without nf_tables: packets from or for there that arrive by another interface than
//! `lo` are dropped. The other guard's documentation says why (`nftables/localnet.rs`).
//!
//! It sits in `raw`, which sees a packet before connection tracking, NAT and any filter. The node's own connections to
//! published ports are masqueraded on the way out, so their replies are for another address.

use cni_plugin::{Difference, Family};

use super::owned::{Skeleton, change};
use super::tool::{IptablesError, Place, Reading, Rule, Script, Table, Tools};

const TABLE: &str = "raw";
/// Earlier versions have rules for single interfaces in it, which do no harm.
const CHAIN: &str = "CNI-HOSTPORT-GUARD";

fn tools() -> Tools {
    Tools::of(Family::V4)
}

fn skeleton() -> Skeleton {
    // The chain's only rule has a comment, as the nft variant ignores interfaces when it looks for a rule (1.8.11), and the
    // rules of earlier versions would be taken for it.
    let drops = Rule::commented(CHAIN, &[], "CNI portfwd localnet guard", &["-j", "DROP"]);
    let enters = ["-s", "-d"].map(|side| Rule::new("PREROUTING", [side, "127.0.0.0/8", "!", "-i", "lo", "-j", CHAIN]));
    let rules = [drops].into_iter().chain(enters).map(|rule| (rule, Place::First)).collect();
    Skeleton { chains: vec![CHAIN.to_owned()], rules }
}

/// Adds what is missing. Idempotent: one process where nothing is.
pub(super) fn add() -> Result<(), IptablesError> {
    let mut script = Script::new(TABLE);
    skeleton().require(&mut script);
    match tools().restore(&script) {
        Err(error) if error.is_refusal() => change(|| Reading::of(tools(), TABLE), complete),
        outcome => outcome.map(drop),
    }
}

/// Adds what `table` lacks.
pub(super) fn complete(table: &mut Table) {
    skeleton().complete(table);
}

/// What is missing, and what is in front of it.
pub(super) fn check() -> Result<Vec<Difference>, IptablesError> {
    Ok(skeleton().differences(&Reading::of(tools(), TABLE)?.table, &format!("iptables -t {TABLE}")))
}

/// The table that [`add`] makes of an empty one; of IPv6 there is none.
pub(super) fn plan(family: Family) -> Table {
    let mut table = Table::empty(TABLE);
    if family == Family::V4 {
        complete(&mut table);
    }
    table
}
