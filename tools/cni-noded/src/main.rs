//! `cni-noded`: a node's part in a container network of several nodes.
//!
//! It learns from a [`source`] which nodes there are and which part of the network each of them hands out, and keeps what leads to
//! them ([`backend`]): routes, VXLAN entries, or the peers of the plugin `vxlan`. It writes the node's network configuration when its own part is
//! known. A source that can't be asked changes nothing.
//!
//! One thread decides and acts ([`agent`]); a thread each waits for the source, for the kernel, for signals and for HTTP
//! clients. None of them holds anything that has to be given back, so the process may end at any instant: what it has
//! made stays, and the next one finds it by what is written on it.

mod agent;
mod backend;
mod config;
mod log;
mod network;
mod node;
mod serve;
mod settings;
mod source;
mod status;
mod view;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
A node's part in a container network of several nodes

Usage: cni-noded [--config FILE]   run; the default is /etc/cni/noded.json
       cni-noded --check           say whether the configuration is right
       cni-noded --version, --help
";

/// Where the configuration is, unless the command line says otherwise.
const CONFIG: &str = "/etc/cni/noded.json";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Run(PathBuf),
    Check(PathBuf),
    Say(String),
}

fn main() -> ExitCode {
    match task(std::env::args_os().skip(1)).and_then(perform) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(&error);
            ExitCode::FAILURE
        }
    }
}

fn task(mut words: impl Iterator<Item = OsString>) -> Result<Task, String> {
    let (mut path, mut is_check) = (PathBuf::from(CONFIG), false);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--config" | "-c") => path = words.next().ok_or("--config needs a file")?.into(),
            Some("--check") => is_check = true,
            Some("--version" | "-V") => return Ok(Task::Say(format!("cni-noded {}\n", env!("CARGO_PKG_VERSION")))),
            Some("--help" | "-h") => return Ok(Task::Say(USAGE.to_owned())),
            _ => return Err(format!("unknown argument {word:?}: cni-noded --help lists all")),
        }
    }
    Ok(if is_check { Task::Check(path) } else { Task::Run(path) })
}

fn perform(task: Task) -> Result<(), String> {
    match task {
        Task::Say(text) => io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string()),
        Task::Check(path) => settings(&path).map(drop),
        Task::Run(path) => agent::run(settings(&path)?),
    }
}

fn settings(path: &Path) -> Result<settings::Settings, String> {
    let config = config::read(path).map_err(|error| error.to_string())?;
    settings::Settings::new(config).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_to_do() {
        let task = |words: &[&str]| task(words.iter().map(OsString::from));
        assert_eq!(task(&[]), Ok(Task::Run(CONFIG.into())));
        assert_eq!(task(&["--check", "-c", "/x"]), Ok(Task::Check("/x".into())));
        assert!(task(&["--config"]).is_err() && task(&["run"]).is_err());
    }
}
