//! What must hold for whatever `iptables-save` prints.

use super::firewall_model::Model;
use super::run::Run;
use super::save::Table;
use super::{guard, rules};

/// A table of any text: it is read, each of its rules is written and read again as the same, and what is computed from it is text
/// that `iptables-restore` takes line by line, or an error.
pub fn saved_table_holds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let table = Table::parse(&text);
    for rule in table.rules() {
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
            let again = Table::parse(&written);
            assert_eq!(again.chain(&rule.chain), Some(&[rule.clone()][..]), "{written:?}");
        }
        if let Some(comment) = rule.comment() {
            assert!(rules::comment(comment).len() <= 255);
        }
        if let Some(run) = Run::read(rule) {
            assert!(run.forwards().take(70_000).count() <= 65_536);
        }
    }
    if let Ok(script) = guard::completed(&table) {
        assert!(script.ends_with("COMMIT\n"), "{script:?}");
    }
    let mut model = Model::new(&table);
    for rule in table.rules() {
        assert!(model.has(rule));
        model.delete(rule);
    }
    assert!(table.rules().all(|rule| !model.has(rule)), "each is deleted once");
    let _ = model.script().finish();
}
