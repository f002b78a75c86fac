//! DEL and GC against the tables.

use cni_plugin::{NetworkName, Owner};

use super::attach::again;
use super::error::IptablesError;
use super::guard;
use super::names::{self, Kind};
use super::plan::{Wanted, remove_chains};
use super::rules::Script;
use super::run::Run;
use super::save::Table;
use super::tool::{Family, concurrently, restore, save};
use crate::PortForward;

/// What was published by the rules that were read and removed.
type Outcome = Result<Vec<PortForward>, IptablesError>;

/// Which families a removal looks at.
enum Scope {
    /// These, because the caller knows of rules there.
    Asked(Vec<Family>),
    /// Both, because it doesn't. A node may do without IPv6 then.
    Unknown,
}

impl Scope {
    fn families(&self) -> &[Family] {
        match self {
            Self::Asked(families) => families,
            Self::Unknown => &Family::ALL,
        }
    }

    /// The table, or `None` if it can't be there.
    fn read(&self, family: Family) -> Result<Option<Table>, IptablesError> {
        match (self, family, save(family, "nat")) {
            (Self::Unknown, Family::V6, Err(IptablesError::MissingTool { .. } | IptablesError::Refused { .. })) => {
                Ok(None)
            }
            (_, _, read) => read.map(Some),
        }
    }
}

/// Removes what `owner` has and returns what of it had to be read. In the families of `hinted`, or in both if there are none, `expected` says what that
/// should be.
pub(super) fn remove(
    kind: Kind,
    owner: &Owner,
    hinted: &[Family],
    expected: impl Fn(Family) -> Vec<Wanted> + Sync,
) -> Vec<Outcome> {
    let scope = if hinted.is_empty() { Scope::Unknown } else { Scope::Asked(hinted.to_vec()) };
    concurrently(scope.families(), |family| {
        let expected = expected(family);
        if !expected.is_empty() && delete(family, &expected)? {
            return Ok(Vec::new());
        }
        clear(&scope, family, |table| names::of_owner(table, kind, owner))
    })
}

/// Bets that exactly `expected` is there; false if that was wrong and nothing was done.
fn delete(family: Family, expected: &[Wanted]) -> Result<bool, IptablesError> {
    let mut script = Script::default();
    script.table("nat");
    expected.iter().for_each(|wanted| wanted.delete(&mut script));
    match restore(family, &script.commit_and_finish()?) {
        Ok(_) => Ok(true),
        Err(error) if error.is_refusal() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what `owner` has of its own: after a failed ADD, when what Go made for the container may serve another of its
/// interfaces.
pub(super) fn take_back(kind: Kind, owner: &Owner, families: &[Family]) {
    let scope = Scope::Asked(families.to_vec());
    let clear = |family| clear(&scope, family, |table| names::owned(table, kind, owner));
    // The error that led here is the one to report; what can't be taken back now is DEL's to remove.
    drop(concurrently(families, clear));
}

/// Removes what owners in `network` other than `valid` have.
pub(super) fn retain(kind: Kind, network: &NetworkName, valid: &[Owner]) -> Vec<Outcome> {
    concurrently(&Family::ALL, |family| {
        clear(&Scope::Unknown, family, |table| names::of_others(table, kind, network, valid))
    })
}

/// Removes the chains that `stale` picks, with all that leads to them.
fn clear(scope: &Scope, family: Family, stale: impl Fn(&Table) -> Vec<String>) -> Outcome {
    again(|| {
        let Some(table) = scope.read(family)? else { return Ok(Vec::new()) };
        let chains = stale(&table);
        if chains.is_empty() {
            return Ok(Vec::new());
        }
        let mut script = Script::default();
        script.table("nat");
        remove_chains(&table, &chains, &mut script);
        restore(family, &script.commit_and_finish()?)?;
        let rules = chains.iter().filter_map(|chain| table.chain(chain)).flatten();
        Ok(rules.filter_map(Run::read).flat_map(Run::forwards).collect())
    })
}

/// Removes the guards of interfaces that `stays` denies.
pub(super) fn retain_guards(stays: impl Fn(&str) -> bool) -> Result<(), IptablesError> {
    again(|| match guard::retain(&save(Family::V4, guard::TABLE)?, &stays)? {
        text if text.is_empty() => Ok(()),
        text => restore(Family::V4, &text).map(drop),
    })
}
