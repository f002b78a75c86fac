//! What must hold for whatever `iptables-save` prints.

use super::localnet;
use super::ports::PortRange;
use super::tool::{Table, comment};

/// A table of any text: it is read, each of its rules is written and read again as the same, and what is computed from it is text
/// that `iptables-restore` takes line by line, or an error.
pub fn saved_table_holds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let table = Table::parse("nat", &text);
    for rule in table.all_rules() {
        assert!(table.has(rule), "{rule}");
        // An interface's name is printed without quotes by the tool, and with them by us, where it needs any.
        let interface = rule.value("-i").or(rule.value("-o"));
        let plain = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if plain(&rule.chain)
            && !rule.chain.is_empty()
            && interface.is_none()
            && !rule.args.iter().any(|a| a.contains(['\n', '\r']))
        {
            let written = rule.to_string();
            let again = Table::parse("nat", &written);
            assert_eq!(again.rules(&rule.chain).collect::<Vec<_>>(), [rule], "{written:?}");
        }
        if let Some(text) = rule.comment() {
            assert!(comment(text).len() <= 255);
        }
        if let Some(run) = PortRange::read(rule) {
            assert!(run.forwards().take(70_000).count() <= 65_536);
        }
    }
    let mut guarded = table.clone();
    localnet::complete(&mut guarded);
    if let Ok(script) = guarded.changes().text() {
        assert!(script.ends_with("COMMIT\n"), "{script:?}");
    }
    let mut changed = table.clone();
    for rule in table.all_rules() {
        assert!(changed.has(rule));
        changed.delete(rule);
    }
    assert!(table.all_rules().all(|rule| !changed.has(rule)), "each is deleted once");
    let _ = changed.changes().text();
}
