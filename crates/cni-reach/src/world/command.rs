//! Tools and files, as one namespace shows them.

use std::process::Command;
use std::time::Duration;

use cni_net::NetNs;
use cni_plugin::child;

/// Listing a large rule set takes `nft` some seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// What the tool prints, run inside `namespace`.
pub(crate) fn output(namespace: &NetNs, words: &[&str]) -> Result<String, String> {
    let Some((tool, arguments)) = words.split_first() else { return Err("no command".to_owned()) };
    let run = || {
        let mut command = Command::new(tool);
        command.args(arguments);
        child::run(command, LIMIT)
    };
    let output = namespace.run(run).map_err(|error| error.to_string())?;
    let output = output.map_err(|error| format!("{tool}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A file below `/proc`, read inside `namespace`.
pub(crate) fn read(namespace: &NetNs, path: &str) -> Result<String, String> {
    let text = namespace.run(|| std::fs::read_to_string(path)).map_err(|error| error.to_string())?;
    text.map_err(|error| format!("{path}: {error}"))
}
