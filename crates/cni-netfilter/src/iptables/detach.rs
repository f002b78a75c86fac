//! DEL and GC against the tables.

use std::sync::atomic::{AtomicBool, Ordering};

use cni_plugin::{NetworkName, Owner};

use super::attach::again;
use super::error::IptablesError;
use super::names::{self, Kind};
use super::plan::{Wanted, remove_chains};
use super::read::Reading;
use super::rules::Script;
use super::run::Run;
use super::save::Table;
use super::tool::{Family, concurrently, restore};
use super::trace::Trace;
use crate::PortForward;

/// What was published by the rules that were read and removed.
type Outcome = Result<Vec<PortForward>, IptablesError>;

/// Removes what `owner` has and returns what of it had to be read. In the families of `hinted`, `expected` says what that
/// should be; another one is looked at if it can have something of the owner's.
///
/// What Go made in a family that the owner isn't known to use may serve another interface of the container. It goes if the
/// owner's rules in a family that it does use were Go's, or if nothing is known.
pub(super) fn remove(
    kind: Kind,
    owner: &Owner,
    hinted: &[Family],
    expected: impl Fn(Family) -> Vec<Wanted> + Sync,
) -> Vec<Outcome> {
    let is_hinted = |family: &Family| hinted.contains(family);
    let mut others = Family::ALL.to_vec();
    others.retain(|family| !is_hinted(family) && Trace::of(kind, owner, *family) != Trace::Nothing);
    let is_gos = AtomicBool::new(hinted.is_empty());
    let mut outcomes = concurrently(hinted, |family| {
        let expected = expected(family);
        if !expected.is_empty() && delete(family, &expected)? {
            return Ok(Vec::new());
        }
        let dispensable = || Trace::of(kind, owner, family) == Trace::Nothing;
        clear(family, dispensable, |table| {
            let chains = names::of_owner(table, kind, owner);
            is_gos.fetch_or(!chains.is_empty() && names::owned(table, kind, owner).is_empty(), Ordering::Relaxed);
            chains
        })
    });
    outcomes.extend(concurrently(&others, |family| {
        // Somebody's legacy rules are no reason for a node without IPv6 to have its tools.
        let dispensable = || family == Family::V6 && Trace::of(kind, owner, family) != Trace::Chain;
        let is_gos = is_gos.load(Ordering::Relaxed);
        let stale = if is_gos { names::of_owner } else { names::owned };
        clear(family, dispensable, |table| stale(table, kind, owner))
    }));
    outcomes
}

/// The families in which something of the owner's can be.
pub(super) fn traced(kind: Kind, owner: &Owner) -> Vec<Family> {
    Family::ALL.into_iter().filter(|family| Trace::of(kind, owner, *family) != Trace::Nothing).collect()
}

/// Bets that exactly `expected` is there; false if that was wrong, or the tool doesn't work, and nothing was done.
fn delete(family: Family, expected: &[Wanted]) -> Result<bool, IptablesError> {
    let mut script = Script::default();
    script.table("nat");
    expected.iter().for_each(|wanted| wanted.delete(&mut script));
    match restore(family, &script.commit_and_finish()?) {
        Ok(_) => Ok(true),
        Err(error) if error.is_refusal() || error.is_about_tools() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what `owner` has of its own: after a failed ADD, when what Go made for the container may serve another of its
/// interfaces. The table is read first, so that where nothing has to be taken back no lock is waited for.
pub(super) fn take_back(kind: Kind, owner: &Owner, families: &[Family]) -> Vec<Outcome> {
    let clear = |family| clear(family, || false, |table| names::owned(table, kind, owner));
    concurrently(families, clear)
}

/// Removes what owners in `network` other than `valid` have.
pub(super) fn retain(kind: Kind, network: &NetworkName, valid: &[Owner]) -> Vec<Outcome> {
    concurrently(&Family::ALL, |family| {
        clear(family, || family == Family::V6, |table| names::of_others(table, kind, network, valid))
    })
}

/// Removes the chains that `stale` picks, with all that leads to them. A table that can't be read is an error unless it is
/// `dispensable`.
fn clear(family: Family, dispensable: impl Fn() -> bool, stale: impl Fn(&Table) -> Vec<String>) -> Outcome {
    again(|| {
        let reading = match Reading::of(family, "nat", &dispensable) {
            Err(error) if error.is_about_tools() && dispensable() => return Ok(Vec::new()),
            read => read?,
        };
        let table = &reading.table;
        let chains = stale(table);
        if chains.is_empty() {
            return Ok(Vec::new());
        }
        let mut script = Script::default();
        script.table("nat");
        remove_chains(table, &chains, &mut script);
        reading.remove(family, &script.commit_and_finish()?)?;
        let rules = chains.iter().filter_map(|chain| table.chain(chain)).flatten();
        Ok(rules.filter_map(Run::read).flat_map(Run::forwards).collect())
    })
}
