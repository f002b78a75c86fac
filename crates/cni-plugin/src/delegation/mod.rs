//! Calling other plugins (SPEC.md, "Section 4: Plugin Delegation"): IPAM above all.

pub(crate) mod ipam;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::Value;

use crate::process::child::{Child, ChildError};
use crate::process::deadline;
use crate::protocol::env::Vars;
use crate::protocol::error::{CniError, code};
use crate::protocol::verb::Verb;

/// The plugins that this one may call, and what they get: this call's environment and stdin, unchanged but for the verb.
#[derive(Debug, Clone)]
pub struct Delegates {
    path: Vec<PathBuf>,
    vars: Vars,
    stdin: Vec<u8>,
}

impl Delegates {
    /// Delegates found in `path`, called with `vars` and `stdin`.
    pub fn new(path: Vec<PathBuf>, vars: Vars, stdin: Vec<u8>) -> Self {
        Self { path, vars, stdin }
    }

    /// The configuration as it was on stdin, byte for byte.
    pub(crate) fn stdin(&self) -> &[u8] {
        &self.stdin
    }

    /// The executable for a plugin type: the first regular file of that name in `CNI_PATH`.
    ///
    /// A type with a path separator is refused, or it would start any executable of the node (CVE-2021-20206).
    pub(crate) fn find(&self, plugin_type: &str) -> Result<PathBuf, CniError> {
        if plugin_type.is_empty() {
            return Err(CniError::plugin("no plugin name provided: the delegate's \"type\" is empty"));
        }
        if plugin_type.contains('/') || plugin_type == "." || plugin_type == ".." {
            return Err(CniError::plugin(format!(
                "invalid plugin name: {plugin_type:?} (a type is a file name, without '/')"
            )));
        }
        if self.path.is_empty() {
            let msg = format!("required env variables [CNI_PATH] missing: plugin {plugin_type:?} is searched there");
            return Err(CniError::new(code::ENVIRONMENT, msg));
        }
        let is_file = |candidate: &PathBuf| candidate.metadata().is_ok_and(|metadata| metadata.is_file());
        self.path.iter().map(|dir| dir.join(plugin_type)).find(is_file).ok_or_else(|| {
            let path: Vec<String> = self.path.iter().map(|dir| dir.display().to_string()).collect();
            CniError::plugin(format!("failed to find plugin {plugin_type:?} in path [{}]", path.join(" ")))
        })
    }

    /// Starts a delegate and returns while it runs; [`Running::finish`] waits for it, at most [`deadline::DELEGATE`].
    pub(crate) fn start(&self, plugin_type: &str, verb: Verb) -> Result<Running, CniError> {
        let file = self.find(plugin_type)?;
        let mut command = Command::new(&file);
        command.env_clear().envs(&self.vars).env("CNI_COMMAND", verb.as_str());
        let child = Child::start(command, Some(self.stdin.clone()), deadline::DELEGATE)
            .map_err(|error| CniError::plugin(format!("cannot start {}: {error}", file.display())))?;
        Ok(Running { child, plugin_type: plugin_type.to_owned() })
    }

    /// Runs a delegate to its end and returns its stdout.
    pub(crate) fn run(&self, plugin_type: &str, verb: Verb) -> Result<Vec<u8>, CniError> {
        self.start(plugin_type, verb)?.finish()
    }
}

/// A running delegate. Dropped, it is waited for: its effects must be complete before they can be undone.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    plugin_type: String,
}

impl Running {
    /// Waits for the end and returns the delegate's stdout, or the error object that it printed.
    pub(crate) fn finish(self) -> Result<Vec<u8>, CniError> {
        let plugin_type = &self.plugin_type;
        let output = self.child.finish().map_err(|error| match error {
            ChildError::System(error) => CniError::plugin(format!("cannot wait for plugin {plugin_type:?}: {error}")),
            hung => CniError::plugin(format!("plugin {plugin_type:?}: {hung}: find out what it waits for")),
        })?;
        let _ = std::io::stderr().write_all(&output.stderr);
        if output.status.success() { Ok(output.stdout) } else { Err(reported_error(plugin_type, &output)) }
    }
}

/// The error object that a delegate printed, unchanged; without one, what it wrote to stderr. JSON with neither a code nor a
/// message is no error object.
fn reported_error(plugin_type: &str, output: &Output) -> CniError {
    #[derive(Deserialize)]
    struct Reported {
        #[serde(default)]
        code: Option<u32>,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let reported = crate::protocol::json::parse(&output.stdout).ok().filter(Value::is_object);
    let reported = reported.and_then(|value| crate::protocol::json::decode::<Reported>(value).ok());
    if let Some(error) = reported.filter(|error| error.code.is_some() || !error.msg.is_empty()) {
        return CniError { code: error.code.unwrap_or(code::PLUGIN), msg: error.msg, details: error.details };
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let msg = if !stdout.trim().is_empty() {
        format!("netplugin failed but error parsing its diagnostic message {stdout:?}")
    } else if stderr.trim().is_empty() {
        format!("netplugin failed with no error message: {}", output.status)
    } else {
        format!("netplugin failed: {:?}", stderr.trim_end())
    };
    CniError::plugin(format!("plugin {plugin_type:?}: {msg}"))
}
