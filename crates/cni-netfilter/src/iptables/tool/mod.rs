//! The iptables tools: finds them, runs them, and turns rules into their input and their output into rules. Knows no intent.

mod error;
mod read;
mod rule;
mod script;
mod table;

use std::env;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cni_plugin::child::{self, ChildError};
use cni_plugin::{Family, deadline, holders_of, overlap};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, getrlimit};

pub use error::IptablesError;
pub(super) use read::{Reading, Trace};
pub(super) use rule::{Rule, RuleSet, comment, host, network, port_numbers};
pub(super) use script::{Script, ScriptCommand};
pub(super) use table::{Place, Table};

/// What the tools of the legacy variant lock (iptables(8), `XTABLES_LOCKFILE`). The nft variant has no lock.
const LOCK_FILE: &str = "/run/xtables.lock";

/// The name of the family's tool: `iptables` or `ip6tables`.
pub(crate) fn command(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// True if the *legacy* variant's table exists in this network namespace: a file read, no process.
///
/// False says that no legacy rule can be there. The nft variant's rules are nf_tables chains in `ip nat`, `ip6 filter` and
/// so on, which netlink lists.
pub fn legacy_in_use(family: Family, table: &str) -> bool {
    fs::read_to_string(legacy_tables(family)).is_ok_and(|names| names.lines().any(|name| name == table))
}

/// True if the kernel has loaded what the legacy variant needs.
pub(crate) fn legacy_is_loaded(family: Family) -> bool {
    fs::exists(legacy_tables(family)).unwrap_or(false)
}

fn legacy_tables(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    }
}

/// What an executable of the tools talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// nf_tables.
    Nft,
    /// The kernel's older interface.
    Legacy,
}

impl Variant {
    /// The variant of the tools in PATH, from the name of the executable that all of them link to; `None` if that name is
    /// unknown.
    pub(crate) fn of_path() -> Option<Self> {
        let executable = fs::canonicalize(find("iptables-restore").ok()?).ok()?;
        let name = executable.file_name()?.to_string_lossy();
        [("legacy", Self::Legacy), ("nft", Self::Nft)]
            .into_iter()
            .find(|(part, _)| name.contains(part))
            .map(|(_, is)| is)
    }
}

/// How long a tool may wait for the xtables lock, in seconds: less than it may run, so that it reports the lock.
fn lock_seconds() -> u64 {
    deadline::at_most(deadline::LOCK).saturating_sub(Duration::from_secs(1)).as_secs().max(1)
}

/// True if the process may open enough files for two tools at the same time: where one fails for lack of them, and the other
/// one works, that would also be so when it is taken back.
fn has_descriptors() -> bool {
    getrlimit(Resource::Nofile).current.is_none_or(|limit| limit >= 64)
}

/// Runs `work` for every family, at the same time if there is a thread to be had, and returns the outcomes in the same order.
pub(super) fn concurrently<T: Send>(families: &[Family], work: impl Fn(Family) -> T + Sync) -> Vec<T> {
    match families {
        [first, second] if has_descriptors() => {
            let (second, first) = overlap(|| work(*second), || work(*first));
            vec![first, second]
        }
        _ => families.iter().map(|family| work(*family)).collect(),
    }
}

/// Runs `work` for every family, as [`concurrently`] does, and returns the first error after all have been tried.
pub(super) fn in_each<T: Send>(
    families: &[Family],
    work: impl Fn(Family) -> Result<T, IptablesError> + Sync,
) -> Result<Vec<T>, IptablesError> {
    concurrently(families, work).into_iter().collect()
}

/// The tools of one family: those that PATH has under the plain names, or those of the legacy variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tools {
    family: Family,
    variant: &'static str,
}

impl Tools {
    /// Those that PATH has under the plain names.
    pub(super) fn of(family: Family) -> Self {
        Self { family, variant: "" }
    }

    /// Those of the legacy variant, under whichever name; `None` if PATH has none.
    pub(super) fn legacy(family: Family) -> Option<Self> {
        let legacy = Self { family, variant: "-legacy" };
        let is_plain = || Variant::of_path() == Some(Variant::Legacy);
        if find(&legacy.name("restore")).is_ok() { Some(legacy) } else { is_plain().then(|| Self::of(family)) }
    }

    pub(super) fn family(self) -> Family {
        self.family
    }

    fn name(self, verb: &str) -> String {
        format!("{}{}-{verb}", command(self.family), self.variant)
    }

    /// Applies `script` with `iptables-restore --noflush` and returns what it printed.
    pub(super) fn restore(self, script: &Script) -> Result<String, IptablesError> {
        let (tool, script) = (self.name("restore"), script.text()?);
        let wait = format!("--wait={}", lock_seconds());
        // A file instead of a pipe: the tool may print a long list before it has read everything.
        let input = memory_file(&script).map_err(|source| IptablesError::Run { tool: tool.clone(), source })?;
        let output = run(&tool, &["--noflush", &wait], Stdio::from(input))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(refusal(tool, &output, &script))
    }

    /// Reads `table`.
    pub(super) fn save(self, table: &'static str) -> Result<Table, IptablesError> {
        let tool = self.name("save");
        let output = run(&tool, &["-t", table], Stdio::null())?;
        if !output.status.success() {
            return Err(refusal(tool, &output, ""));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        if !shows(&text, table) {
            let family = if self.family == Family::V6 { "ip6" } else { "ip" };
            let listing = format!("nft list table {family} {table}");
            return Err(IptablesError::Unreadable { tool, table: table.to_owned(), listing });
        }
        Ok(Table::parse(table, &text))
    }
}

/// False if the tool says of the table that it can't show it: "# Table `nat' is incompatible, use 'nft' tool.", with exit
/// status 0 (`do_output` in iptables/xtables-save.c). Of a table that doesn't exist, it prints nothing.
fn shows(text: &str, table: &str) -> bool {
    text.trim().is_empty() || text.lines().any(|line| line.strip_prefix('*') == Some(table))
}

/// True if the family's rules can be read at all, by the question that the Go plugins ask: whether the first rule of
/// `filter INPUT` can be listed. Exit status 1 says no such chain, which is an answer too.
pub(super) fn usable(family: Family) -> bool {
    let wait = format!("--wait={}", lock_seconds());
    run(command(family), &[&wait, "-t", "filter", "-S", "INPUT", "1"], Stdio::null())
        .is_ok_and(|output| matches!(output.status.code(), Some(0 | 1)))
}

/// Where in PATH the executable `tool` is.
pub(super) fn find(tool: &str) -> Result<PathBuf, IptablesError> {
    let executable =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    env::var_os("PATH")
        .and_then(|path| env::split_paths(&path).map(|folder| folder.join(tool)).find(executable))
        .ok_or_else(|| IptablesError::MissingTool { tool: tool.to_owned() })
}

fn run(tool: &str, args: &[&str], input: Stdio) -> Result<Output, IptablesError> {
    let path = find(tool)?;
    let mut process = Command::new(path);
    process.args(args).stdin(input);
    child::run(process, deadline::TOOL).map_err(|error| match error {
        ChildError::System(source) => IptablesError::Run { tool: tool.to_owned(), source },
        ChildError::Hung { processes, seconds } => IptablesError::Hung { tool: tool.to_owned(), processes, seconds },
    })
}

fn memory_file(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create("iptables-restore", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn refusal(tool: String, output: &Output, script: &str) -> IptablesError {
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("holding the xtables lock") {
        let path = env::var_os("XTABLES_LOCKFILE").map_or_else(|| PathBuf::from(LOCK_FILE), PathBuf::from);
        let mut holders = holders_of(&path);
        if holders.is_empty() {
            holders = "another program".to_owned();
        }
        return IptablesError::LockHeld { tool, path, holders };
    }
    let line = line_number(&stderr);
    let rule = line.and_then(|line| script.lines().nth(line.checked_sub(1)?)).map(str::to_owned);
    let mut message = useful(&stderr);
    if message.is_empty() {
        message = output.status.to_string();
    }
    IptablesError::Refused { tool, line, rule, message }
}

/// stderr in one line, without the advice to read the tool's help.
fn useful(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Try `"));
    lines.collect::<Vec<_>>().join("; ")
}

/// The number in `line 4 failed` and `Error occurred at line: 4`.
fn line_number(stderr: &str) -> Option<usize> {
    stderr.match_indices("line").find_map(|(at, word)| {
        let rest = stderr[at + word.len()..].trim_start_matches([':', ' ']);
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_line_is_found_in_either_variants_words() {
        // As iptables 1.8.9 wrote them.
        assert_eq!(line_number("iptables-nft-restore: line 4 failed: Chain already exists.\n"), Some(4));
        assert_eq!(line_number("iptables-restore: line 12 failed\n"), Some(12));
        let missing = "iptables-restore v1.8.9 (legacy): Couldn't load target `X':No such file or directory\n\n\
                       Error occurred at line: 2\nTry `iptables-restore -h' or 'iptables-restore --help' for more information.\n";
        assert_eq!(line_number(missing), Some(2));
        assert_eq!(
            useful(missing),
            "iptables-restore v1.8.9 (legacy): Couldn't load target `X':No such file or directory; Error occurred at line: 2"
        );
        assert_eq!(line_number("pipeline broken"), None);
    }

    #[test]
    fn a_table_that_is_not_shown_is_not_an_empty_one() {
        assert!(shows("", "nat") && shows("# Generated by\n*nat\n:A - [0:0]\nCOMMIT\n# Completed\n", "nat"));
        // As iptables-nft-save 1.8.9 prints it.
        assert!(!shows("# Table `nat' is incompatible, use 'nft' tool.\n", "nat"));
    }

    #[test]
    fn families_run_at_the_same_time_and_answer_in_order() {
        assert_eq!(concurrently(&Family::ALL, |family| family), Family::ALL);
        assert_eq!(concurrently(&[Family::V6], command), ["ip6tables"]);
    }
}
