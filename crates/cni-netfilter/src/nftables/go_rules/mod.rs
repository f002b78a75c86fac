//! What the Go plugins leave in their own nftables tables: found by the comments of their rules, compared, and removed.

pub(super) mod mac_guard;
pub(super) mod masquerade;
pub(super) mod ports;

use std::collections::BTreeSet;

use rustix::io::Errno;

use super::ruleset::rule;
use super::wire::{Batch, NftError, Socket, Table};

/// How often a deletion is tried while other programs delete the same rules.
const ATTEMPTS: u32 = 5;

/// Commits what `build` makes, and builds it again if other programs delete at the same time what it is about.
fn commit_retrying(
    socket: &Socket,
    what: &str,
    build: impl Fn(&mut Batch) -> Result<(), NftError>,
) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::default();
        build(&mut batch)?;
        match socket.commit(&batch, None) {
            // A handle is never used again, so what is gone is gone.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            outcome => return outcome,
        }
    }
    Err(NftError::Contended { what: what.to_owned(), attempts: ATTEMPTS })
}

/// Removes those rules of these chains that `matches`, given rule and comment. Idempotent.
fn remove_rules(
    socket: &Socket,
    table: Table<'_>,
    chains: &[&str],
    matches: impl Fn(&rule::ListedRule, &str) -> bool,
) -> Result<(), NftError> {
    commit_retrying(socket, &format!("delete rules of {table}"), |batch| {
        let mut found = BTreeSet::new();
        rule::scan_commented(socket, table, chains, |rule, comment| {
            if matches(&rule, comment) {
                found.insert((rule.chain, rule.handle));
            }
        })?;
        found.iter().for_each(|(chain, handle)| batch.delete_rule(table, chain, *handle));
        Ok(())
    })
}
