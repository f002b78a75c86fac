//! Calling a plugin: finding it, its environment, what it prints.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cni_plugin::child::{Child, ChildError};
use cni_plugin::json;
use serde::Deserialize;

use crate::version::CURRENT;
use crate::{Attachment, go_json};

/// How long a plugin may take: longer than any of ours does, and as long as a container runtime gives it.
const LIMIT: Duration = Duration::from_secs(120);

/// Why a plugin has not done what it should. Displays as libcni's errors do: the plugin's message, then its details.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { "; " })]
pub struct PluginError {
    /// The code of the plugin's error object; 0 if it printed none.
    pub code: u32,
    /// What failed.
    pub msg: String,
    /// More about it; may be empty.
    pub details: String,
}

impl PluginError {
    fn new(msg: impl Into<String>) -> Self {
        Self { code: 0, msg: msg.into(), details: String::new() }
    }
}

/// The directories that plugins are searched in: `CNI_PATH`.
#[derive(Debug, Clone, Default)]
pub struct Plugins {
    dirs: Vec<PathBuf>,
}

/// The variables of a call.
#[derive(Debug, Default)]
pub(crate) struct Call<'a> {
    pub(crate) verb: &'static str,
    /// `None` in GC and STATUS, which are about no attachment.
    pub(crate) attachment: Option<&'a Attachment>,
    pub(crate) stdin: String,
}

impl Plugins {
    /// Plugins in these directories, of which the first that has a plugin counts.
    pub fn new<P: Into<PathBuf>>(dirs: impl IntoIterator<Item = P>) -> Self {
        Self { dirs: dirs.into_iter().map(Into::into).collect() }
    }

    /// The executable of a plugin.
    ///
    /// # Errors
    /// Names the plugin and the directories.
    pub fn find(&self, plugin_type: &str) -> Result<PathBuf, PluginError> {
        if plugin_type.is_empty() || plugin_type.contains('/') {
            return Err(PluginError::new(format!("invalid plugin name: {plugin_type:?}")));
        }
        let is_file = |path: &PathBuf| path.metadata().is_ok_and(|found| found.is_file());
        let found = self.dirs.iter().map(|dir| dir.join(plugin_type)).find(is_file);
        found.ok_or_else(|| {
            let dirs: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
            PluginError::new(format!("failed to find plugin {plugin_type:?} in path [{}]", dirs.join(" ")))
        })
    }

    /// Calls the plugin, and returns its stdout. What it wrote to stderr goes to this process's, if it succeeded.
    pub(crate) fn call(&self, plugin_type: &str, call: Call<'_>) -> Result<Vec<u8>, PluginError> {
        let path = self.find(plugin_type)?;
        let mut command = Command::new(&path);
        command.envs(self.variables(&call));
        run(&path, command, call.stdin)
    }

    /// The variables of the protocol. The process's own environment is passed on as well: a plugin may need `PATH`, and
    /// `TRACEPARENT` is for it.
    fn variables(&self, call: &Call<'_>) -> [(&'static str, OsString); 6] {
        let attachment = call.attachment;
        let path = std::env::join_paths(&self.dirs).unwrap_or_default();
        let text = |value: Option<&str>| OsString::from(value.unwrap_or_default());
        [
            ("CNI_COMMAND", call.verb.into()),
            ("CNI_CONTAINERID", text(attachment.map(|of| of.container_id.as_str()))),
            ("CNI_NETNS", attachment.map(|of| of.netns.clone().into_os_string()).unwrap_or_default()),
            ("CNI_ARGS", attachment.map(Attachment::args_text).unwrap_or_default().into()),
            ("CNI_IFNAME", text(attachment.map(|of| of.ifname.as_str()))),
            ("CNI_PATH", path),
        ]
    }

    /// The versions that a plugin supports. One from before the verb VERSION supports 0.1.0.
    ///
    /// # Errors
    /// If there is no such plugin, or it doesn't answer.
    pub fn versions(&self, plugin_type: &str) -> Result<Vec<String>, PluginError> {
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct Answer {
            cni_version: String,
            supported_versions: Vec<String>,
        }
        let path = self.find(plugin_type)?;
        let mut command = Command::new(&path);
        // Plugins of the first versions wanted these.
        let dummy = [("CNI_NETNS", "dummy"), ("CNI_IFNAME", "dummy"), ("CNI_PATH", "dummy")];
        command.envs([("CNI_COMMAND", "VERSION"), ("CNI_CONTAINERID", ""), ("CNI_ARGS", "")]).envs(dummy);
        let stdout = match run(&path, command, format!("{{\"cniVersion\":{}}}", go_json::string(CURRENT))) {
            Err(error) if error.msg == "unknown CNI_COMMAND: VERSION" => return Ok(vec!["0.1.0".to_owned()]),
            stdout => stdout?,
        };
        let undecodable = |why: String| PluginError::new(format!("decoding version info of {plugin_type}: {why}"));
        let value = json::parse(&stdout).map_err(|error| undecodable(error.to_string()))?;
        let answer: Answer = json::decode(value).map_err(|error| undecodable(error.to_string()))?;
        match (answer.supported_versions.is_empty(), answer.cni_version.as_str()) {
            (false, _) => Ok(answer.supported_versions),
            (true, "0.2.0") => Ok(vec!["0.1.0".to_owned(), "0.2.0".to_owned()]),
            _ => Err(undecodable("missing field supportedVersions".to_owned())),
        }
    }
}

fn run(path: &Path, command: Command, stdin: String) -> Result<Vec<u8>, PluginError> {
    let child = Child::start(command, Some(stdin.into_bytes()), LIMIT)
        .map_err(|error| PluginError::new(format!("cannot start {}: {error}", path.display())))?;
    let output = child.finish().map_err(|error| match error {
        ChildError::System(error) => PluginError::new(format!("cannot wait for {}: {error}", path.display())),
        hung => PluginError::new(hung.to_string()),
    })?;
    if !output.status.success() {
        return Err(reported(&output));
    }
    // Only for people; where it can't be written there is nobody to read it.
    let _ = std::io::stderr().write_all(&output.stderr);
    Ok(output.stdout)
}

/// The error object of a plugin that failed.
fn reported(output: &Output) -> PluginError {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Reported {
        code: u32,
        msg: String,
        details: String,
    }
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let parsed = json::parse(&output.stdout).ok().filter(serde_json::Value::is_object);
    match parsed.and_then(|value| json::decode::<Reported>(value).ok()) {
        Some(Reported { code, msg, details }) => PluginError { code, msg, details },
        None if !stdout.is_empty() => {
            PluginError::new(format!("netplugin failed but error parsing its diagnostic message {stdout:?}"))
        }
        None if !stderr.is_empty() => PluginError::new(format!("netplugin failed: {stderr:?}: {}", output.status)),
        None => PluginError::new(format!("netplugin failed with no error message: {}", output.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn plugin(script: &str) -> (tempfile::TempDir, Plugins) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fake");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let plugins = Plugins::new([dir.path()]);
        (dir, plugins)
    }

    fn failure(script: &str) -> PluginError {
        let (_dir, plugins) = plugin(script);
        plugins.call("fake", Call { verb: "ADD", ..Call::default() }).unwrap_err()
    }

    #[test]
    fn what_a_plugin_says_is_in_the_error() {
        let error = failure(r#"echo '{"code": 7, "msg": "no", "details": "at all"}'; exit 1"#);
        assert_eq!((error.code, error.to_string().as_str()), (7, "no; at all"));
        assert!(failure("echo oops; exit 1").msg.contains("\"oops\\n\""));
        assert!(failure("echo oops >&2; exit 3").msg.contains("\"oops\\n\": exit status: 3"));
        assert!(failure("exit 3").msg.contains("no error message: exit status: 3"));
    }

    #[test]
    fn what_is_not_found_is_named_with_the_directories() {
        let plugins = Plugins::new(["/a", "/b"]);
        assert_eq!(plugins.find("bridge").unwrap_err().msg, "failed to find plugin \"bridge\" in path [/a /b]");
        assert!(plugins.find("../bridge").unwrap_err().msg.contains("invalid plugin name"));
        assert!(plugins.find("").is_err());
    }

    #[test]
    fn versions_of_old_plugins_are_known() {
        let (_dir, plugins) = plugin(r#"echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}'"#);
        assert_eq!(plugins.versions("fake").unwrap(), ["0.4.0", "1.0.0"]);
        let (_dir, plugins) = plugin(r#"echo '{"code": 4, "msg": "unknown CNI_COMMAND: VERSION"}'; exit 1"#);
        assert_eq!(plugins.versions("fake").unwrap(), ["0.1.0"]);
    }
}
