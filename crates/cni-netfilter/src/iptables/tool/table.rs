//! One table: as it was read, and as it will be after the changes that a plan makes to it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::rule::Rule;
use super::script::{Script, ScriptCommand};

/// The kernel's hooks. They exist whenever the table does.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The rules of a chain by position, with an index from meaning to positions that the first lookup builds: each further lookup
/// and change is fast however many rules there are.
#[derive(Debug, Default, Clone)]
struct Chain {
    rules: BTreeMap<i64, Rule>,
    places: OnceCell<HashMap<Vec<String>, BTreeSet<i64>>>,
}

impl Chain {
    fn insert(&mut self, rule: Rule) {
        let place = self.rules.first_key_value().map_or(0, |(place, _)| place - 1);
        self.put(place, rule);
    }

    fn append(&mut self, rule: Rule) {
        let place = self.rules.last_key_value().map_or(0, |(place, _)| place + 1);
        self.put(place, rule);
    }

    fn put(&mut self, place: i64, rule: Rule) {
        if let Some(places) = self.places.get_mut() {
            places.entry(rule.meaning()).or_default().insert(place);
        }
        self.rules.insert(place, rule);
    }

    fn places(&self) -> &HashMap<Vec<String>, BTreeSet<i64>> {
        self.places.get_or_init(|| {
            let mut places: HashMap<Vec<String>, BTreeSet<i64>> = HashMap::new();
            for (place, rule) in &self.rules {
                places.entry(rule.meaning()).or_default().insert(*place);
            }
            places
        })
    }

    fn count(&self, rule: &Rule) -> usize {
        self.places().get(&rule.meaning()).map_or(0, BTreeSet::len)
    }

    /// Removes the first such rule.
    fn delete(&mut self, rule: &Rule) -> Option<Rule> {
        self.places();
        let place = self.places.get_mut()?.get_mut(&rule.meaning())?.pop_first()?;
        self.rules.remove(&place)
    }
}

/// Where a new rule goes in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Last,
}

/// One table: its chains by name, and the changes so far, which the chains already show.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    chains: BTreeMap<String, Chain>,
    changes: Script,
}

impl Table {
    /// A table without chains.
    pub(crate) fn empty(name: &'static str) -> Self {
        Self { chains: BTreeMap::new(), changes: Script::new(name) }
    }

    /// A table of these chains and rules, in their order.
    pub(super) fn of(
        name: &'static str,
        chains: impl IntoIterator<Item = String>,
        rules: impl IntoIterator<Item = Rule>,
    ) -> Self {
        let mut table = Self::empty(name);
        table.chains = chains.into_iter().map(|name| (name, Chain::default())).collect();
        rules.into_iter().for_each(|rule| table.chains.entry(rule.chain.clone()).or_default().append(rule));
        table
    }

    /// Reads what `iptables-save -t <name>` and `iptables -t <name> -S` print; lines that declare neither a chain nor a rule
    /// are skipped.
    pub(crate) fn parse(name: &'static str, text: &str) -> Self {
        let mut table = Self::empty(name);
        for line in text.lines() {
            if let Some(declaration) = line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")) {
                let chain = declaration.split(' ').next().unwrap_or_default();
                table.chains.entry(chain.to_owned()).or_default();
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = words(rule).into_iter();
                // No chain's name begins like an option.
                if let Some(chain) = words.next().filter(|chain| !chain.starts_with('-')) {
                    table.chains.entry(chain.clone()).or_default().append(Rule { chain, args: words.collect() });
                }
            }
        }
        table
    }

    pub(crate) fn has_chain(&self, chain: &str) -> bool {
        self.chains.contains_key(chain)
    }

    /// The chain's rules in their order; none if it doesn't exist.
    pub(crate) fn rules(&self, chain: &str) -> impl DoubleEndedIterator<Item = &Rule> + Clone {
        self.chains.get(chain).into_iter().flat_map(|chain| chain.rules.values())
    }

    /// How many rules in the chain that `rule` names mean the same.
    pub(crate) fn count(&self, rule: &Rule) -> usize {
        self.chains.get(&rule.chain).map_or(0, |chain| chain.count(rule))
    }

    pub(crate) fn has(&self, rule: &Rule) -> bool {
        self.count(rule) > 0
    }

    /// The names of all chains.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// Every rule of the table.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = &Rule> + Clone {
        self.chains.values().flat_map(|chain| chain.rules.values())
    }

    /// Every rule that jumps to `chain`.
    pub(crate) fn jumps_to<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Rule> + Clone {
        self.all_rules().filter(move |rule| rule.target() == Some(chain))
    }

    pub(crate) fn create_missing(&mut self, chain: &str) {
        if !self.has_chain(chain) {
            self.chains.insert(chain.to_owned(), Chain::default());
            self.changes.push(ScriptCommand::Create(chain.to_owned()));
        }
    }

    /// Creates the chain, or empties it.
    pub(crate) fn reset(&mut self, chain: &str) {
        self.chains.insert(chain.to_owned(), Chain::default());
        self.changes.push(ScriptCommand::Reset(chain.to_owned()));
    }

    pub(crate) fn add(&mut self, rule: Rule, place: Place) {
        let chain = self.chains.entry(rule.chain.clone()).or_default();
        match place {
            Place::First => {
                chain.insert(rule.clone());
                self.changes.push(ScriptCommand::Insert(rule));
            }
            Place::Last => {
                chain.append(rule.clone());
                self.changes.push(ScriptCommand::Append(rule));
            }
        }
    }

    /// Adds the rule unless it is there, and deletes it as often as it is there more than once.
    pub(crate) fn have_once(&mut self, rule: Rule, place: Place) {
        match self.count(&rule) {
            0 => self.add(rule, place),
            n => (1..n).for_each(|_| self.delete(&rule)),
        }
    }

    /// Deletes the first such rule, if there is one, as the tool does.
    pub(crate) fn delete(&mut self, rule: &Rule) {
        let deleted = self.chains.get_mut(&rule.chain).and_then(|chain| chain.delete(rule));
        if let Some(rule) = deleted {
            self.changes.push(ScriptCommand::Delete(rule));
        }
    }

    /// Deletes all such rules.
    pub(crate) fn delete_all(&mut self, rule: &Rule) {
        (0..self.count(rule)).for_each(|_| self.delete(rule));
    }

    /// Deletes `chains` and every rule that jumps to one of them.
    pub(crate) fn remove_chains(&mut self, chains: &[String]) {
        let gone: BTreeSet<&str> = chains.iter().map(String::as_str).collect();
        let leads_there = |rule: &&Rule| {
            !gone.contains(rule.chain.as_str()) && rule.target().is_some_and(|target| gone.contains(target))
        };
        let jumps: Vec<Rule> = self.all_rules().filter(leads_there).cloned().collect();
        jumps.iter().for_each(|rule| self.delete(rule));
        chains.iter().for_each(|chain| self.changes.push(ScriptCommand::Flush(chain.clone())));
        chains.iter().for_each(|chain| self.changes.push(ScriptCommand::DeleteChain(chain.clone())));
        chains.iter().for_each(|chain| drop(self.chains.remove(chain)));
    }

    /// The table as if the changes so far had been carried out and it had been read again.
    pub(crate) fn settled(mut self) -> Self {
        self.changes = Script::new(self.changes.table());
        self
    }

    pub(crate) fn name(&self) -> &'static str {
        self.changes.table()
    }

    /// The changes so far, as one block.
    pub(crate) fn changes(&self) -> &Script {
        &self.changes
    }

    /// The table in the form of `iptables-save`: first the hooks, then the other chains by name.
    pub(crate) fn print(&self) -> String {
        let mut text = format!("*{}\n", self.changes.table());
        let hooks = HOOKS.into_iter().filter(|hook| self.has_chain(hook));
        let chains: Vec<&str> = hooks.chain(self.names().filter(|name| !HOOKS.contains(name))).collect();
        for name in &chains {
            let policy = if HOOKS.contains(name) { "ACCEPT" } else { "-" };
            text.push_str(&format!(":{name} {policy} [0:0]\n"));
        }
        chains.into_iter().flat_map(|chain| self.rules(chain)).for_each(|rule| text.push_str(&format!("{rule}\n")));
        text + "COMMIT\n"
    }
}

/// Splits a line as `iptables-restore` does: at spaces outside of double quotes; a backslash inside them takes the next
/// character literally. But an interface's name is printed as it is, without quotes, whatever characters it has
/// (`save_iface` in iptables/xshared.c); none is a space.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut in_quotes = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let is_interface = || words.last().is_some_and(|option: &String| option == "-i" || option == "-o");
        match c {
            c if c != ' ' && !in_quotes && is_interface() => word.get_or_insert_default().push(c),
            '"' => {
                in_quotes = !in_quotes;
                word.get_or_insert_default();
            }
            '\\' if in_quotes => word.get_or_insert_default().extend(chars.next()),
            ' ' if !in_quotes => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_restore_does() {
        assert_eq!(words(r#"X -m comment --comment "a \"b\" \\c" -j Y"#)[4], r#"a "b" \c"#);
        assert_eq!(words(r#"a "" b"#), ["a", "", "b"]);
        assert_eq!(words("  a  b "), ["a", "b"]);
        assert_eq!(words(r#""open"#), ["open"]);
        assert_eq!(words(r#"! -i a"b\c -o d"e -j "F G""#), ["!", "-i", r#"a"b\c"#, "-o", r#"d"e"#, "-j", "F G"]);
    }

    #[test]
    fn a_saved_table_is_read() {
        let table = Table::parse("nat", include_str!("../testdata/go-v4.save"));
        let dnat: Vec<&Rule> = table.rules("CNI-HOSTPORT-DNAT").collect();
        assert_eq!(dnat.len(), 4);
        assert_eq!(dnat[0].comment(), Some(r#"dnat name: "test-net" id: "c1abc""#));
        assert_eq!(table.jumps_to("CNI-HOSTPORT-DNAT").count(), 2);
        assert!(!table.has_chain("CNI-NONE") && table.changes().commands().is_empty());
        assert_eq!(Table::parse("nat", "-N A\n-A A -j RETURN\n").rules("A").count(), 1);
    }

    #[test]
    fn changes_are_seen_and_written_down() {
        let rule = |source: &str| Rule::new("A", ["-s", source, "-j", "B"]);
        let text = "-N A\n-N B\n-A A -s 10.0.0.1/32 -j B\n-A A -s 10.0.0.2/32 -j B\n-A A -s 10.0.0.1/32 -j B\n";
        let mut table = Table::parse("nat", text);
        assert_eq!(table.count(&rule("10.0.0.1")), 2);
        table.have_once(rule("10.0.0.1/32"), Place::Last);
        table.have_once(rule("10.0.0.3/32"), Place::First);
        table.delete(&rule("10.0.0.9"));
        let sources: Vec<_> = table.rules("A").filter_map(|rule| rule.value("-s")).collect();
        assert_eq!(sources, ["10.0.0.3/32", "10.0.0.2/32", "10.0.0.1/32"], "the first of two goes");
        table.remove_chains(&["B".to_owned()]);
        assert!(!table.has_chain("B") && table.rules("A").next().is_none());
        let expected = [
            ScriptCommand::Delete(rule("10.0.0.1/32")),
            ScriptCommand::Insert(rule("10.0.0.3/32")),
            ScriptCommand::Delete(rule("10.0.0.3/32")),
            ScriptCommand::Delete(rule("10.0.0.2/32")),
            ScriptCommand::Delete(rule("10.0.0.1/32")),
            ScriptCommand::Flush("B".to_owned()),
            ScriptCommand::DeleteChain("B".to_owned()),
        ];
        assert_eq!(table.changes().commands(), expected);
        assert!(table.settled().changes().commands().is_empty());
    }
}
