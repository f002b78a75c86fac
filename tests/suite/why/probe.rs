//! `--probe`: a real packet and its trace, and nothing of it that stays.

use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use cni_tests::conf::Backend;
use cni_tests::packets::Outside;
use cni_tests::story::Story;
use cni_tests::{Netns, Sandbox};

use super::command;
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![improved("shows_the_rules_on_the_way", shows_rules), improved("leaves_nothing_when_killed", killed)]
}

fn tables(node: &Netns) -> String {
    node.sh(&["nft", "list", "tables"])
}

fn shows_rules(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Nftables);
    let _web = story.attach("web", &[(8080, 80, "tcp")]);
    let to = format!("{}:8080", Outside::NODE_V4);
    let out = command(sb).args(["--probe", "outside", &to]).output().expect("why starts");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("connected"), "{text}");
    assert!(text.contains("cni_ports forwards rule dnat"), "the rule that translates: {text}");
    assert!(!tables(&story.node).contains("cni_why"), "{}", tables(&story.node));
}

fn killed(sb: &Sandbox) {
    let story = Story::start(sb, Backend::Nftables);
    let _web = story.attach("web", &[(8080, 80, "tcp")]);
    // Nothing answers at an address that nobody has: the probe waits for a second.
    story.outside.ns.sh(&["ip", "route", "add", "10.77.0.0/24", "via", Outside::NODE_V4]);
    let mut probe = command(sb);
    let mut probe =
        probe.args(["--probe", "outside", "10.77.0.200:80"]).stdout(Stdio::null()).spawn().expect("why starts");
    let waits_for = |there: bool| {
        (0..400).any(|_| {
            sleep(Duration::from_millis(10));
            tables(&story.node).contains("cni_why") == there
        })
    };
    let was_there = waits_for(true);
    probe.kill().expect("killed");
    probe.wait().expect("ended");
    assert!(was_there, "the table of the probe never was there");
    assert!(waits_for(false), "it stays: {}", tables(&story.node));
}
