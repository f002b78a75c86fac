//! What is compared: a directory of plugins with a packet filter, and how one of its plugins is called.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A column or a row of a table.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    /// `None`: what the node does without plugins, which is the floor.
    pub(crate) dir: Option<PathBuf>,
    /// `None`: as the plugins choose.
    pub(crate) backend: Option<String>,
}

impl FromStr for Contestant {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let (dir, backend) = word.split_once('=').map_or((word, None), |(dir, backend)| (dir, Some(backend)));
        let dir = PathBuf::from(dir).canonicalize().map_err(|e| format!("{dir}: {e}"))?;
        Ok(Self { dir: Some(dir), backend: backend.map(str::to_owned) })
    }
}

impl Contestant {
    /// No plugin at all.
    pub(crate) const FLOOR: Self = Self { dir: None, backend: None };

    /// For tables.
    pub(crate) fn label(&self) -> String {
        match &self.dir {
            None => "no plugin".to_owned(),
            Some(dir) => format!("{}, {}", dir.display(), self.backend.as_deref().unwrap_or("default")),
        }
    }

    /// True if the rules are in nftables. Plugins that choose take iptables where its tools are, as they are here.
    pub(crate) fn uses_nftables(&self) -> bool {
        self.backend.as_deref() == Some("nftables")
    }

    /// `conf` with the backend under `key`, if one is asked for.
    pub(crate) fn with_backend(&self, mut conf: Value, key: &str) -> Value {
        if let Some(backend) = &self.backend {
            conf[key] = backend.as_str().into();
        }
        conf
    }

    /// Starts the plugin that `conf` names, feeds it and waits for its end, which must be a success: how long that took, and
    /// its stdout.
    pub(crate) fn call(&self, verb: &str, conf: &Value, id: &str, netns: &str) -> (Duration, Vec<u8>) {
        self.call_with(verb, conf, id, netns, None)
    }

    /// The same with a `PATH` for the tools that it finds.
    pub(crate) fn call_with(
        &self,
        verb: &str,
        conf: &Value,
        id: &str,
        netns: &str,
        path: Option<&str>,
    ) -> (Duration, Vec<u8>) {
        let dir = self.dir.as_ref().expect("the floor calls no plugin");
        let plugin = dir.join(conf["type"].as_str().unwrap());
        let mut command = Command::new(&plugin);
        command.envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_NETNS", netns), ("CNI_IFNAME", "eth0")]);
        command.envs(path.map(|path| ("PATH", path))).env("CNI_PATH", dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let stdin = conf.to_string();
        let start = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", plugin.display()));
        // VERSION may end without having read it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let out = child.wait_with_output().unwrap();
        let time = start.elapsed();
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{} {verb}: {stdout} {stderr}", plugin.display());
        (time, out.stdout)
    }
}
