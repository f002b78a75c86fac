//! The guard of 127.0.0.0/8 on a kernel without nf_tables: what arrives for or from there by another interface than `lo` is
//! dropped. The other guard's documentation says why (`nftables/localnet.rs`).
//!
//! It sits in `raw`, which sees a packet before connection tracking, NAT and any filter. The node's own connections to
//! published ports are masqueraded on the way out, so their replies are for another address.

use cni_plugin::Difference;

use super::attach::again;
use super::error::IptablesError;
use super::plan::{Frame, Place};
use super::read::read;
use super::rules::{Rule, Script};
use super::save::Table;
use super::tool::{Family, restore};

const TABLE: &str = "raw";
/// Earlier versions have rules for single interfaces in it, which do no harm.
const CHAIN: &str = "CNI-HOSTPORT-GUARD";

fn frame() -> Frame {
    // The chain's only target has a comment, as the nft variant ignores interfaces when it looks for a rule (1.8.11), and the
    // former rules would be taken for it.
    let comment = ["-m", "comment", "--comment", "CNI portfwd localnet guard"];
    let drops = Rule::new(CHAIN, comment.into_iter().chain(["-j", "DROP"]));
    let enters = ["-s", "-d"].map(|side| Rule::new("PREROUTING", [side, "127.0.0.0/8", "!", "-i", "lo", "-j", CHAIN]));
    let rules = [(drops, Place::First)].into_iter().chain(enters.map(|rule| (rule, Place::First)));
    Frame { chains: vec![CHAIN], rules: rules.collect() }
}

/// Adds what is missing. Idempotent: one process where nothing is.
pub(super) fn add() -> Result<(), IptablesError> {
    let mut bet = Script::default();
    bet.table(TABLE);
    frame().require(&mut bet);
    match restore(Family::V4, &bet.commit_and_finish()?) {
        Err(error) if error.is_refusal() => again(|| {
            let script = completed(&read(Family::V4, TABLE)?)?;
            restore(Family::V4, &script).map(drop)
        }),
        outcome => outcome.map(drop),
    }
}

/// The transaction that adds what `table` lacks.
pub(super) fn completed(table: &Table) -> Result<String, IptablesError> {
    let mut script = Script::default();
    script.table(TABLE);
    frame().complete(table, &mut script);
    script.commit_and_finish()
}

/// What is missing, and what is in front of it.
pub(super) fn check() -> Result<Vec<Difference>, IptablesError> {
    Ok(frame().differences(&read(Family::V4, TABLE)?, &format!("iptables -t {TABLE}")))
}
