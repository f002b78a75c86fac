//! Reads what `iptables-save -t <table>` and `iptables -S` print.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Rule;

/// One table: its chains by name, each with its rules in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Table {
    chains: BTreeMap<String, Vec<Rule>>,
}

impl Table {
    /// A table of these chains and rules, in their order.
    pub(super) fn new(chains: impl IntoIterator<Item = String>, rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut table = Self { chains: chains.into_iter().map(|name| (name, Vec::new())).collect() };
        for rule in rules {
            table.chains.entry(rule.chain.clone()).or_default().push(rule);
        }
        table
    }

    /// Reads the text; lines that declare neither a chain nor a rule are skipped.
    pub(super) fn parse(text: &str) -> Self {
        let mut table = Self::default();
        for line in text.lines() {
            if let Some(declaration) = line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")) {
                let name = declaration.split(' ').next().unwrap_or_default();
                table.chains.entry(name.to_owned()).or_default();
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = words(rule).into_iter();
                // No chain's name begins like an option.
                if let Some(chain) = words.next().filter(|chain| !chain.starts_with('-')) {
                    let rules = table.chains.entry(chain.clone()).or_default();
                    rules.push(Rule { chain, args: words.collect() });
                }
            }
        }
        table
    }

    /// The chain's rules; `None` if there is no such chain.
    pub(super) fn chain(&self, name: &str) -> Option<&[Rule]> {
        self.chains.get(name).map(Vec::as_slice)
    }

    /// True if a rule that means the same is in the chain that `rule` names.
    pub(super) fn has(&self, rule: &Rule) -> bool {
        self.chain(&rule.chain).is_some_and(|rules| rules.iter().any(|there| there.same_as(rule)))
    }

    /// The names of all chains.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// Every rule of the table.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.values().flatten()
    }

    /// The chains in or to which a rule has `text` in its comment.
    pub(super) fn chains_named_by(&self, text: &str) -> BTreeSet<&str> {
        let named = self.rules().filter(|rule| rule.comment().is_some_and(|comment| comment.contains(text)));
        named.flat_map(|rule| [Some(rule.chain.as_str()), rule.target()]).flatten().collect()
    }

    /// Every rule that jumps to `chain`.
    pub(super) fn jumps_to<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules().filter(move |rule| rule.target() == Some(chain))
    }
}

/// Splits a line as `iptables-restore` does: at spaces outside of double quotes, a backslash inside them takes the next
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
        let table = Table::parse(include_str!("testdata/go-v4.save"));
        let dnat = table.chain("CNI-HOSTPORT-DNAT").unwrap();
        assert_eq!(dnat.len(), 4);
        assert_eq!(dnat[0].comment(), Some(r#"dnat name: "test-net" id: "c1abc""#));
        assert_eq!(table.jumps_to("CNI-HOSTPORT-DNAT").count(), 2);
        assert!(table.chain("CNI-NONE").is_none());
        assert_eq!(Table::parse("-N A\n-A A -j RETURN\n").chain("A").unwrap().len(), 1);
    }
}
