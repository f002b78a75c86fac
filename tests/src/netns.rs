//! A network namespace of a sandbox, and how to do things inside it.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::{tools, verdict};

/// A network namespace: the node's own, or one that `ip netns` made.
#[derive(Debug, Clone)]
pub struct Netns {
    /// The name for messages and for `ip netns`; `node` for the node's own.
    pub name: String,
    /// Where it is mounted; `None` for the node's own, in which the case's thread already is.
    mounted: Option<PathBuf>,
}

impl Netns {
    /// The namespace in which the calling thread is.
    pub(crate) fn node() -> Self {
        Self { name: "node".to_owned(), mounted: None }
    }

    /// Makes a namespace `name` with `lo` up. The mount disappears with the sandbox's mount namespace.
    pub(crate) fn create(name: &str) -> Self {
        sh(&["ip", "netns", "add", name]);
        Self::existing(name)
    }

    /// The namespace `name`, which exists already.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), mounted: Some(PathBuf::from("/run/netns").join(name)) }
    }

    /// The path for `CNI_NETNS`.
    pub fn path(&self) -> String {
        match &self.mounted {
            Some(path) => path.display().to_string(),
            None => "/proc/self/ns/net".to_owned(),
        }
    }

    /// Unmounts the namespace; its links go when the last socket and process in it do.
    pub fn delete(&self) {
        sh(&["ip", "netns", "del", &self.name]);
    }

    /// Runs `action` with a thread inside the namespace, and hands on its result or panic.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let Some(path) = &self.mounted else { return action() };
        thread::scope(|scope| {
            let inside = move || {
                let file = File::open(path).unwrap_or_else(|e| panic!("netns {}: {e}", path.display()));
                setns(file, CloneFlags::CLONE_NEWNET).expect("setns");
                action()
            };
            let ended = scope.spawn(move || verdict::caught(inside)).join().expect("panics are caught inside");
            ended.unwrap_or_else(|stop| verdict::resume(stop))
        })
    }

    /// Runs a command that must succeed inside the namespace; returns its stdout.
    pub fn sh(&self, words: &[&str]) -> String {
        self.run(|| sh(words))
    }

    /// Runs a command inside the namespace; true if it exits 0. For questions whose answer may be no.
    pub fn holds(&self, words: &[&str]) -> bool {
        self.run(|| output(words).status.success())
    }
}

/// Runs a command that must succeed where the thread is; returns its stdout.
pub fn sh(words: &[&str]) -> String {
    let out = output(words);
    assert!(out.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn output(words: &[&str]) -> std::process::Output {
    assert!(
        tools::is_listed(words[0]),
        "{} is not in tests/tools, so a fresh machine lacks it: add its line",
        words[0]
    );
    Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{}: {e}", words[0]))
}
