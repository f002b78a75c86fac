//! Carries plans out.

use cni_plugin::Family;

use super::chain::OwnedChain;
use super::names::ChainKind;
use crate::iptables::tool::{IptablesError, Reading, Script, Table, Tools};

/// How often a change is tried: it fails if another process repairs the same skeleton at the same time.
const ATTEMPTS: usize = 5;

/// Adds what `family` lacks of `wanted`. Idempotent.
///
/// The first transaction assumes that the skeleton is there and the chains aren't; only if it fails is the table read.
pub(crate) fn add(kind: &ChainKind, family: Family, wanted: &[OwnedChain]) -> Result<(), IptablesError> {
    let mut script = Script::new(kind.table);
    wanted.iter().for_each(|wanted| wanted.create(&mut script));
    match Tools::of(family).restore(&script) {
        Err(error) if error.is_refusal() => change(
            || Reading::of(Tools::of(family), kind.table),
            |table| wanted.iter().for_each(|wanted| wanted.complete(table)),
        ),
        outcome => outcome.map(drop),
    }
}

/// The table that [`add`] makes of an empty one.
pub(crate) fn plan(kind: &ChainKind, wanted: &[OwnedChain]) -> Table {
    let mut table = Table::empty(kind.table);
    wanted.iter().for_each(|wanted| wanted.complete(&mut table));
    table
}

/// Reads a table, plans its changes and carries them out; again while the tool refuses because others acted in between.
pub(crate) fn change(
    read: impl Fn() -> Result<Reading, IptablesError>,
    plan: impl Fn(&mut Table),
) -> Result<(), IptablesError> {
    try_change(read, |table| {
        plan(table);
        Ok(())
    })
}

/// [`change`] with a plan that may fail. Returns what the last plan returned.
pub(crate) fn try_change<T>(
    read: impl Fn() -> Result<Reading, IptablesError>,
    plan: impl Fn(&mut Table) -> Result<T, IptablesError>,
) -> Result<T, IptablesError> {
    again(|| {
        let mut reading = read()?;
        let planned = plan(&mut reading.table)?;
        reading.apply()?;
        Ok(planned)
    })
}

/// Repeats `attempt` while the tool refuses because others acted in between.
pub(crate) fn again<T>(attempt: impl Fn() -> Result<T, IptablesError>) -> Result<T, IptablesError> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if error.is_refusal() => {}
            outcome => return outcome,
        }
    }
    attempt()
}
