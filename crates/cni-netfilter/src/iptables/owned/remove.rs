//! DEL and GC of chains that attachments own.

use std::sync::atomic::{AtomicBool, Ordering};

use cni_plugin::{Family, NetworkName, Owner};

use super::apply::again;
use super::chain::OwnedChain;
use super::names::ChainKind;
use crate::iptables::tool::{IptablesError, Reading, Rule, Script, Table, Tools, Trace, in_each};

/// The rules that were read and removed.
type Outcome = Result<Vec<Rule>, IptablesError>;

/// Removes what `owner` has and returns what of it had to be read. In the families of `hinted`, `expected` says what that
/// should be; another family is read only if it can have something of the owner's.
///
/// The Go plugin's rules in a family that the owner isn't known to use may belong to another interface of the container. They
/// are removed if the owner's rules in its known families are the Go plugin's, or if no family is known.
pub(crate) fn remove(
    kind: &'static ChainKind,
    owner: &Owner,
    hinted: &[Family],
    expected: impl Fn(Family) -> Vec<OwnedChain> + Sync,
) -> Outcome {
    let trace = |family| Trace::of(family, kind.table, &kind.all_names(owner));
    let others: Vec<Family> =
        Family::ALL.into_iter().filter(|family| !hinted.contains(family) && trace(*family) != Trace::Nothing).collect();
    let made_by_go = AtomicBool::new(hinted.is_empty());
    let of_hinted = in_each(hinted, |family| {
        let expected = expected(family);
        if !expected.is_empty() && delete(kind, family, &expected)? {
            return Ok(Vec::new());
        }
        clear(
            kind,
            family,
            || trace(family) == Trace::Nothing,
            |table| {
                let chains = kind.of_owner(table, owner);
                made_by_go.fetch_or(!chains.is_empty() && kind.owned(table, owner).is_empty(), Ordering::Relaxed);
                chains
            },
        )
    });
    let of_others = in_each(&others, |family| {
        // Other programs' legacy rules are no reason for a node without IPv6 to have its tools.
        let dispensable = || family == Family::V6 && trace(family) != Trace::Chain;
        let made_by_go = made_by_go.load(Ordering::Relaxed);
        clear(kind, family, dispensable, |table| {
            if made_by_go { kind.of_owner(table, owner) } else { kind.owned(table, owner) }
        })
    });
    Ok([of_hinted?, of_others?].concat().concat())
}

/// Assumes that exactly `expected` is there; false if that was wrong, or the tool doesn't work, and nothing was done.
fn delete(kind: &ChainKind, family: Family, expected: &[OwnedChain]) -> Result<bool, IptablesError> {
    let mut script = Script::new(kind.table);
    expected.iter().for_each(|wanted| wanted.delete(&mut script));
    match Tools::of(family).restore(&script) {
        Ok(_) => Ok(true),
        Err(error) if error.is_refusal() || error.is_about_tools() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what `owner` has of its own: after a failed ADD, when what Go made for the container may serve another of its
/// interfaces. The table is read first, so that where nothing has to be taken back no lock is waited for.
pub(crate) fn take_back(kind: &ChainKind, owner: &Owner) -> Result<(), IptablesError> {
    let can_have = |family: &Family| Trace::of(*family, kind.table, &kind.all_names(owner)) != Trace::Nothing;
    take_back_in(kind, owner, &Family::ALL.into_iter().filter(can_have).collect::<Vec<_>>())
}

/// [`take_back`] in certain families.
pub(crate) fn take_back_in(kind: &ChainKind, owner: &Owner, families: &[Family]) -> Result<(), IptablesError> {
    in_each(families, |family| clear(kind, family, || false, |table| kind.owned(table, owner))).map(drop)
}

/// Removes what owners in `network` other than `valid` have.
pub(crate) fn retain(kind: &ChainKind, network: &NetworkName, valid: &[Owner]) -> Outcome {
    let clear = |family| clear(kind, family, || family == Family::V6, |table| kind.of_others(table, network, valid));
    Ok(in_each(&Family::ALL, clear)?.concat())
}

/// Removes the chains that `stale` picks, with all that leads to them. A table that can't be read is an error unless it is
/// `dispensable`.
fn clear(
    kind: &ChainKind,
    family: Family,
    dispensable: impl Fn() -> bool,
    stale: impl Fn(&Table) -> Vec<String>,
) -> Outcome {
    again(|| {
        let mut reading = match Reading::for_removal(Tools::of(family), kind.table, &dispensable) {
            Err(error) if error.is_about_tools() && dispensable() => return Ok(Vec::new()),
            read => read?,
        };
        let chains = stale(&reading.table);
        let rules = chains.iter().flat_map(|chain| reading.table.rules(chain)).cloned().collect();
        if !chains.is_empty() {
            reading.table.remove_chains(&chains);
        }
        reading.apply()?;
        Ok(rules)
    })
}
