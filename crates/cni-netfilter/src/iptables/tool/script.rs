//! The input of one `iptables-restore --noflush`.

use super::error::IptablesError;
use super::rule::{Rule, quoted};

/// `iptables-restore` reads lines into 10 240 bytes and takes what is beyond for the next line, so a longer line could
/// smuggle in a command. Longer lines than this, well below that, are refused.
const LINE_MAX: usize = 8192;

/// One line of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScriptCommand {
    /// Prints a chain in the form that [`super::Table`] reads; fails the block if there is none. Has to come first: the legacy
    /// variant can't print a jump to a chain that an earlier line of the same block creates.
    List(String),
    /// Fails the block unless the rule exists.
    Check(Rule),
    Append(Rule),
    /// Puts the rule first in its chain.
    Insert(Rule),
    /// Fails the block unless the rule exists.
    Delete(Rule),
    /// Fails the block if the chain exists.
    Create(String),
    /// Creates the chain, or empties it.
    Reset(String),
    Flush(String),
    /// Fails the block if the chain has rules, or other rules jump to it.
    DeleteChain(String),
}

impl ScriptCommand {
    fn line(&self) -> String {
        match self {
            Self::List(chain) => format!("-S {}", quoted(chain)),
            Self::Check(rule) => format!("-C {}", rule.text()),
            Self::Append(rule) => format!("-A {}", rule.text()),
            Self::Insert(rule) => format!("-I {}", rule.text()),
            Self::Delete(rule) => format!("-D {}", rule.text()),
            Self::Create(chain) => format!("-N {}", quoted(chain)),
            Self::Reset(chain) => format!(":{chain} - [0:0]"),
            Self::Flush(chain) => format!("-F {}", quoted(chain)),
            Self::DeleteChain(chain) => format!("-X {}", quoted(chain)),
        }
    }
}

/// A block of commands for one table. It is applied as a whole or not at all; that holds for either variant, and for
/// `-C` and `-N` inside the block too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    table: &'static str,
    commands: Vec<ScriptCommand>,
}

impl Script {
    pub(crate) fn new(table: &'static str) -> Self {
        Self { table, commands: Vec::new() }
    }

    pub(crate) fn push(&mut self, command: ScriptCommand) {
        self.commands.push(command);
    }

    /// Fails the block unless each of `rules` exists.
    pub(crate) fn check<'a>(&mut self, rules: impl IntoIterator<Item = &'a Rule>) {
        self.commands.extend(rules.into_iter().cloned().map(ScriptCommand::Check));
    }

    pub(crate) fn append<'a>(&mut self, rules: impl IntoIterator<Item = &'a Rule>) {
        self.commands.extend(rules.into_iter().cloned().map(ScriptCommand::Append));
    }

    /// Fails the block unless each of `rules` exists.
    pub(crate) fn delete<'a>(&mut self, rules: impl IntoIterator<Item = &'a Rule>) {
        self.commands.extend(rules.into_iter().cloned().map(ScriptCommand::Delete));
    }

    pub(crate) fn table(&self) -> &'static str {
        self.table
    }

    pub(crate) fn commands(&self) -> &[ScriptCommand] {
        &self.commands
    }

    /// The text.
    ///
    /// # Errors
    /// [`IptablesError::Unwritable`] if the tool would not read a line as the one command that it is.
    pub(crate) fn text(&self) -> Result<String, IptablesError> {
        let mut text = format!("*{}\n", self.table);
        for command in &self.commands {
            let line = command.line();
            let why = if line.contains(['\n', '\r', '\0']) {
                "line breaks and zero bytes are not allowed"
            } else if line.len() > LINE_MAX {
                "iptables-restore reads no lines as long as that"
            } else {
                text.push_str(&line);
                text.push('\n');
                continue;
            };
            return Err(IptablesError::Unwritable { value: line.chars().take(80).collect(), why });
        }
        text.push_str("COMMIT\n");
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_start_a_line_of_its_own() {
        for hostile in ["a\n-F", "a\r-F", "a\0b", &"x".repeat(10_300)] {
            let mut script = Script::new("nat");
            script.append([&Rule::new("X", ["--comment", hostile])]);
            assert!(matches!(script.text(), Err(IptablesError::Unwritable { .. })), "{hostile:?}");
        }
    }

    #[test]
    fn a_block_is_what_restore_reads() {
        let mut script = Script::new("nat");
        script.push(ScriptCommand::List("A".to_owned()));
        script.push(ScriptCommand::Reset("B".to_owned()));
        script.append([&Rule::new("B", ["-m", "comment", "--comment", "two words"])]);
        script.push(ScriptCommand::DeleteChain("a b".to_owned()));
        let expected = "*nat\n-S A\n:B - [0:0]\n-A B -m comment --comment \"two words\"\n-X \"a b\"\nCOMMIT\n";
        assert_eq!(script.text().unwrap(), expected);
    }
}
