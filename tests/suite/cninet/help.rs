//! Help, the manual page, completions, and what is said to words that mean nothing.

use cni_tests::Sandbox;

use super::{WIDTH, cninet, printed, refused};
use crate::case::{Case, improved};

/// Every command.
const COMMANDS: [&str; 18] = [
    "ls",
    "inspect",
    "ps",
    "leaks",
    "connect",
    "disconnect",
    "create",
    "rm",
    "prune",
    "gc",
    "reload",
    "add",
    "check",
    "del",
    "status",
    "completions",
    "man",
    "help",
];

/// All cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("alone_and_help_fit_one_screen", one_screen),
        improved("every_command_has_help", every_command),
        improved("wrong_words_are_refused", wrong_words),
        improved("completions_and_manual", documents),
    ]
}

fn fits(text: &str, lines: usize) {
    assert!(text.lines().count() <= lines, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
}

fn one_screen(sb: &Sandbox) {
    let alone = printed(sb, &[]);
    fits(&alone, 24);
    assert_eq!(printed(sb, &["help"]), alone);
    assert_eq!(printed(sb, &["--help"]).trim(), alone.trim());
    assert!(printed(sb, &["--version"]).starts_with("cninet "));
}

fn every_command(sb: &Sandbox) {
    for command in COMMANDS {
        let help = printed(sb, &[command, "--help"]);
        fits(&help, 24);
        assert!(help.contains(&format!("Usage: cninet {command}")), "{help}");
        assert!(printed(sb, &["help", command]).contains(&format!("Usage: cninet {command}")));
    }
}

fn wrong_words(sb: &Sandbox) {
    refused(sb, &["nonsense"], &["nonsense"]);
    refused(sb, &["help", "nonsense"], &["nonsense", "cninet help"]);
    for (words, named) in [
        (&["ps", "--ip", "x"][..], "--ip"),
        (&["ps", "--port", "70000"], "70000"),
        (&["connect", "red"], "<CONTAINER>"),
        (&["rm"], "<NAME>"),
        (&["create", "a/b"], "a/b"),
        (&["create", "a", "--driver", "x"], "bridge"),
        (&["completions", "x"], "bash"),
        (&["add", "red"], "<NETNS>"),
    ] {
        let outcome = cninet(sb, words);
        assert_eq!(outcome.code, Some(2), "{outcome}");
        assert!(outcome.stderr.contains(named), "{outcome}");
    }
}

fn documents(sb: &Sandbox) {
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef cninet"), ("fish", "complete -c cninet")] {
        let text = printed(sb, &["completions", shell]);
        assert!(text.contains(part), "{shell}");
        assert!(COMMANDS.iter().all(|command| text.contains(command)), "{shell}");
    }
    let manual = printed(sb, &["man"]);
    assert!(manual.contains(".TH cninet 8") || manual.contains(".TH \"cninet\" 8"), "{}", &manual[..200]);
    assert!(COMMANDS.iter().all(|command| *command == "help" || manual.contains(&format!("cninet {command}"))));
}
