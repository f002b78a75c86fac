//! Reads a table to change it: by its tool, and over netlink where the tool cannot.
//!
//! iptables-nft shows nothing of a table in which one rule isn't its own, and says so with exit status 0. Such a table isn't
//! empty, and its tool still adds and deletes rules in it; but a tool that is missing or broken does nothing at all. As the
//! rules of iptables-nft are nf_tables objects, they can be read without it, and removed.

use std::collections::{HashMap, VecDeque};

use cni_plugin::Family;

use super::{IptablesError, Rule, ScriptCommand, Table, Tools, legacy_in_use};
use crate::nftables::{Nftables, XtRemoval, XtTable};

/// The handles of the rules of a chain with the same meaning, in their order.
type Handles = HashMap<(String, Vec<String>), VecDeque<u64>>;

/// A table that was read, to be changed.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) table: Table,
    tools: Tools,
    /// If it was read over netlink.
    handles: Option<Handles>,
}

impl Reading {
    /// Reads `table`; one that its tool cannot show, over netlink.
    pub(crate) fn of(tools: Tools, table: &'static str) -> Result<Self, IptablesError> {
        match tools.save(table) {
            Err(error @ IptablesError::Unreadable { .. }) => Self::over_netlink(tools, table).ok_or(error),
            read => Ok(Self { table: read?, tools, handles: None }),
        }
    }

    /// Reads `table` to remove from it: over netlink if its tool is missing or broken, so that what iptables-nft made can be
    /// removed without it. If there are legacy rules too, which only the tool could read, stderr says so unless they are
    /// `dispensable`.
    pub(crate) fn for_removal(
        tools: Tools,
        table: &'static str,
        dispensable: impl Fn() -> bool,
    ) -> Result<Self, IptablesError> {
        let error = match tools.save(table) {
            Err(error) if error.is_about_tools() => error,
            read => return Ok(Self { table: read?, tools, handles: None }),
        };
        let is_unreadable = matches!(error, IptablesError::Unreadable { .. });
        let Some(reading) = Self::over_netlink(tools, table) else { return Err(error) };
        if !is_unreadable && legacy_in_use(tools.family(), table) && !dispensable() {
            eprintln!("cannot check the tables of legacy iptables for rules of this plugin: {error}");
        }
        Ok(reading)
    }

    /// `None` if the kernel can't be asked either.
    fn over_netlink(tools: Tools, table: &'static str) -> Option<Self> {
        let read = match Nftables::open() {
            Ok(nftables) => nftables.read_iptables(tools.family().into(), table).ok()?,
            Err(error) => error.is_absent().then(XtTable::default)?,
        };
        Some(Self::of_objects(tools, table, read))
    }

    fn of_objects(tools: Tools, table: &'static str, read: XtTable) -> Self {
        let mut handles = Handles::new();
        let rules = read.rules.into_iter().map(|read| {
            let rule = Rule { chain: read.chain, args: read.args };
            handles.entry((rule.chain.clone(), rule.meaning())).or_default().push_back(read.handle);
            rule
        });
        let rules: Vec<Rule> = rules.collect();
        Self { table: Table::of(table, read.chains, rules), tools, handles: Some(handles) }
    }

    /// Carries out the changes of the table in one transaction: none if there are none, over netlink if it was read so and
    /// they only remove, else with the tool.
    pub(crate) fn apply(mut self) -> Result<(), IptablesError> {
        let changes = self.table.changes();
        if changes.commands().is_empty() {
            return Ok(());
        }
        let Some(removal) = self.handles.as_mut().and_then(|handles| removal(changes.commands(), handles)) else {
            return self.tools.restore(changes).map(drop);
        };
        Ok(Nftables::open()?.remove_of_iptables(self.tools.family().into(), changes.table(), &removal)?)
    }
}

/// What `changes` delete, by handles; `None` if they add something.
fn removal(changes: &[ScriptCommand], handles: &mut Handles) -> Option<XtRemoval> {
    let mut removal = XtRemoval::default();
    for change in changes {
        match change {
            ScriptCommand::Delete(rule) => {
                let handle = handles.get_mut(&(rule.chain.clone(), rule.meaning())).and_then(VecDeque::pop_front);
                removal.rules.extend(handle.map(|handle| (rule.chain.clone(), handle)));
            }
            ScriptCommand::Flush(chain) => removal.flushed.push(chain.clone()),
            ScriptCommand::DeleteChain(chain) => removal.chains.push(chain.clone()),
            _ => return None,
        }
    }
    Some(removal)
}

/// What is known of the chains of an owner in one family's table, as far as that can be found out without starting a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trace {
    /// There are none.
    Nothing,
    /// The legacy variant has rules, of any program.
    Legacy,
    /// The nft variant has one of the chains.
    Chain,
}

impl Trace {
    /// Constant time. The netlink socket is closed again, which takes as long as the kernel's grace period if something
    /// was deleted just before: so ask first.
    pub(crate) fn of(family: Family, table: &str, chains: &[String]) -> Self {
        let has_chain = |nftables: Nftables| {
            chains.iter().any(|chain| nftables.chain_exists(family.into(), table, chain).unwrap_or_default())
        };
        if Nftables::open().is_ok_and(has_chain) {
            Self::Chain
        } else if legacy_in_use(family, table) {
            Self::Legacy
        } else {
            Self::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::XtRule;

    #[test]
    fn deletions_become_handles() {
        let rule = |chain: &str, handle, args: &str| XtRule {
            chain: chain.to_owned(),
            handle,
            args: args.split(' ').map(str::to_owned).collect(),
        };
        let read = XtTable {
            chains: vec!["A".to_owned(), "B".to_owned()],
            rules: vec![
                rule("A", 3, "-s 10.0.0.2/32 -j B"),
                rule("A", 4, "-j ACCEPT"),
                rule("A", 5, "-s 10.0.0.2/32 -j B"),
            ],
        };
        let mut reading = Reading::of_objects(Tools::of(Family::V4), "nat", read);
        reading.table.remove_chains(&["B".to_owned()]);
        let mut handles = reading.handles.unwrap();
        let found = removal(reading.table.changes().commands(), &mut handles).unwrap();
        assert_eq!(found.rules, [("A".to_owned(), 3), ("A".to_owned(), 5)]);
        assert_eq!((found.flushed, found.chains), (vec!["B".to_owned()], vec!["B".to_owned()]));
        assert!(
            removal(&[ScriptCommand::Create("C".to_owned())], &mut handles).is_none(),
            "an addition takes the tool"
        );
    }
}
