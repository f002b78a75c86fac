//! Runs host-local, ours and the Go plugin, on a state directory of the test's own.

#![allow(dead_code)] // each test binary uses its part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // as in tests proper

pub(crate) mod kill;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The plugin under test.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_host-local");
/// The Go plugin, of Debian's package containernetworking-plugins.
pub(crate) const GO: &str = "/usr/lib/cni/host-local";

/// The Go plugin's path, if it is there; says so if not.
pub(crate) fn go() -> Option<&'static str> {
    let found = Path::new(GO).exists();
    if !found {
        eprintln!("skipped: no {GO} (apt install containernetworking-plugins)");
    }
    found.then_some(GO)
}

/// A network with its state in a temporary directory.
pub(crate) struct Network {
    pub(crate) data_dir: PathBuf,
    pub(crate) ranges: Value,
    _temporary: Option<TempDir>,
}

impl Network {
    pub(crate) fn new(ranges: Value) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self { data_dir: temporary.path().into(), ranges, _temporary: Some(temporary) }
    }

    pub(crate) fn in_dir(data_dir: &Path, ranges: Value) -> Self {
        Self { data_dir: data_dir.into(), ranges, _temporary: None }
    }

    /// A configuration of the newest version.
    pub(crate) fn conf(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "net",
               "ipam": {"type": "host-local", "dataDir": self.data_dir, "ranges": self.ranges}})
    }

    /// One that Debian's Go plugin (1.1.1) takes as well.
    pub(crate) fn conf_1_0(&self) -> Value {
        let mut conf = self.conf();
        conf["cniVersion"] = json!("1.0.0");
        conf
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.data_dir.join("net")
    }

    pub(crate) fn add(&self, plugin: &str, id: &str) -> Result<Vec<IpAddr>, String> {
        addresses(&call(plugin, "ADD", id, &self.conf_1_0()))
    }

    pub(crate) fn del(&self, plugin: &str, id: &str) -> Result<(), String> {
        verdict(&call(plugin, "DEL", id, &self.conf_1_0()))
    }

    /// Every reservation: address and content.
    pub(crate) fn reservations(&self) -> BTreeMap<IpAddr, String> {
        let Ok(entries) = fs::read_dir(self.dir()) else { return BTreeMap::new() };
        entries
            .filter_map(|entry| {
                let entry = entry.unwrap();
                let ip = entry.file_name().to_str()?.parse().ok()?;
                Some((ip, fs::read_to_string(entry.path()).unwrap()))
            })
            .collect()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::create_dir_all(self.dir()).unwrap();
        fs::write(self.dir().join(name), content).unwrap();
    }
}

/// The command for one call, without its stdin.
pub(crate) fn command(program: &str, verb: &str, id: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", "/var/run/netns/none")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the command with the configuration on its stdin.
pub(crate) fn run(command: &mut Command, conf: &Value) -> Output {
    let mut child = command.spawn().unwrap();
    // A plugin that was killed doesn't read.
    let _ = child.stdin.take().unwrap().write_all(conf.to_string().as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn call(plugin: &str, verb: &str, id: &str, conf: &Value) -> Output {
    run(&mut command(plugin, verb, id), conf)
}

/// Nothing, or the message of the error.
pub(crate) fn verdict(output: &Output) -> Result<(), String> {
    if output.status.success() { Ok(()) } else { Err(error(output)["msg"].as_str().unwrap().to_owned()) }
}

/// The error object on stdout.
pub(crate) fn error(output: &Output) -> Value {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// The addresses of a result.
pub(crate) fn addresses(output: &Output) -> Result<Vec<IpAddr>, String> {
    verdict(output)?;
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ips = result["ips"].as_array().unwrap();
    Ok(ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect())
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
