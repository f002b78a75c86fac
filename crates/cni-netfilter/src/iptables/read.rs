//! How a table is read: by its tool, and where that can't, over netlink.
//!
//! iptables-nft shows nothing of a table in which one rule isn't its own, and says so with exit status 0. Such a table isn't
//! empty. Its tool still adds and deletes rules in it; but a tool that is missing or broken does nothing at all. As the rules
//! of iptables-nft are nf_tables objects, they can be read without it, and removed.

use std::collections::{HashMap, VecDeque};

use super::error::IptablesError;
use super::rules::Rule;
use super::save::Table;
use super::tool::{Family, restore, save};
use crate::nftables::{Nftables, XtRemoval, XtTable};

/// Reads `table`; one that its tool cannot show, over netlink.
pub(super) fn read(family: Family, table: &str) -> Result<Table, IptablesError> {
    match save(family, table) {
        Err(error @ IptablesError::Unreadable { .. }) => {
            over_netlink(family, table).map(|read| read.table).ok_or(error)
        }
        outcome => outcome,
    }
}

/// A table of which something is to be removed.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) table: Table,
    through: Through,
}

/// By what it was read and will be changed.
#[derive(Debug)]
enum Through {
    Tool,
    /// The handles of the rules of each chain, in their order.
    Netlink(HashMap<String, Vec<u64>>),
}

impl Reading {
    /// Reads `table`; over netlink if its tool can't, so that what iptables-nft made can be removed without it. If there are
    /// legacy rules too, this goes to stderr unless they are `dispensable`: they may be anybody's, and without the tool
    /// nobody can tell.
    pub(super) fn of(family: Family, table: &str, dispensable: impl Fn() -> bool) -> Result<Self, IptablesError> {
        let error = match save(family, table) {
            Err(error) if error.is_about_tools() => error,
            read => return Ok(Self { table: read?, through: Through::Tool }),
        };
        let is_unreadable = matches!(error, IptablesError::Unreadable { .. });
        let Some(reading) = over_netlink(family, table) else { return Err(error) };
        if !is_unreadable && family.legacy_in_use(table) && !dispensable() {
            eprintln!("there are legacy iptables rules, and whether any are this plugin's cannot be told: {error}");
        }
        Ok(reading)
    }

    /// Carries out a script that only deletes, as it was made for [`Reading::table`].
    pub(super) fn remove(&self, family: Family, script: &str) -> Result<(), IptablesError> {
        match &self.through {
            Through::Tool => restore(family, script).map(drop),
            Through::Netlink(handles) => {
                let name = script.lines().find_map(|line| line.strip_prefix('*')).unwrap_or_default();
                let removal = self.removal(handles, script);
                Ok(Nftables::open()?.remove_of_iptables(family.into(), name, &removal)?)
            }
        }
    }

    /// What `script` deletes, by handles.
    fn removal(&self, handles: &HashMap<String, Vec<u64>>, script: &str) -> XtRemoval {
        let named = |command: &str| {
            let chain = move |line: &str| line.strip_prefix(command).map(str::to_owned);
            script.lines().filter_map(chain).collect()
        };
        let lines = script.lines().filter_map(|line| line.strip_prefix("-D "));
        let deleted = Table::parse(&lines.map(|line| format!("-A {line}\n")).collect::<String>());
        let mut rules = Vec::new();
        for chain in deleted.names() {
            let numbers = handles.get(chain).map(Vec::as_slice).unwrap_or_default();
            let mut there: HashMap<Vec<String>, VecDeque<u64>> = HashMap::new();
            for (rule, handle) in self.table.chain(chain).unwrap_or_default().iter().zip(numbers) {
                there.entry(rule.meaning()).or_default().push_back(*handle);
            }
            let handle = |rule: &Rule| there.get_mut(&rule.meaning()).and_then(VecDeque::pop_front);
            let found = deleted.chain(chain).unwrap_or_default().iter().filter_map(handle);
            rules.extend(found.map(|handle| (chain.to_owned(), handle)));
        }
        XtRemoval { rules, flushed: named("-F "), chains: named("-X ") }
    }
}

/// `None` if the kernel can't be asked either.
fn over_netlink(family: Family, table: &str) -> Option<Reading> {
    let nftables = match Nftables::open() {
        Ok(nftables) => nftables,
        Err(error) => return error.is_absent().then(|| Reading::from(XtTable::default())),
    };
    nftables.read_iptables(family.into(), table).ok().map(Reading::from)
}

impl From<XtTable> for Reading {
    fn from(read: XtTable) -> Self {
        let mut handles: HashMap<String, Vec<u64>> = HashMap::new();
        for rule in &read.rules {
            handles.entry(rule.chain.clone()).or_default().push(rule.handle);
        }
        let rules = read.rules.into_iter().map(|rule| Rule { chain: rule.chain, args: rule.args });
        Self { table: Table::new(read.chains, rules), through: Through::Netlink(handles) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::XtRule;

    #[test]
    fn a_script_becomes_handles() {
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
        let reading = Reading::from(read);
        let Through::Netlink(handles) = &reading.through else { panic!("read over netlink") };
        let script = "*nat\n-D A -s 10.0.0.2/32 -j B\n-D A -s 10.0.0.2/32 -j B\n-D A -j GONE\n-F B\n-X B\nCOMMIT\n";
        let removal = reading.removal(handles, script);
        assert_eq!(removal.rules, [("A".to_owned(), 3), ("A".to_owned(), 5)]);
        assert_eq!((removal.flushed, removal.chains), (vec!["B".to_owned()], vec!["B".to_owned()]));
    }
}
