//! A plugin that records what it is asked for, and a way to call it without a process.
#![allow(dead_code)] // Each test file uses its share of this.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::PathBuf;

use cni_plugin::{
    Attachment, CniError, CniResult, Interface, IpConfig, IpamConfig, Plugin, Request, Route, SpecVersion,
    Surroundings, Undo, run,
};
use serde::Deserialize;
use serde_json::Value;

thread_local! {
    /// What it wrote down, in order.
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Its keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    pub mtu: u32,
    pub fail_after_effect: bool,
    pub ipam: Option<IpamConfig>,
    pub pass_through: bool,
    pub no_address: bool,
}

fn note(text: String) -> Result<(), CniError> {
    LOG.with_borrow_mut(|log| log.push(text));
    Ok(())
}

/// The recorder.
pub const RECORDER: Plugin<Config> = Plugin {
    name: "recorder",
    release: "v1.2.3",
    versions: SpecVersion::ALL,
    add,
    del: |request, at| {
        let prev = if request.prev_result.is_some() { "with" } else { "without" };
        note(format!("DEL {} {:?} {prev} prevResult", at.owner, at.netns))
    },
    check: |request, _| note(format!("CHECK mtu {}", request.config.mtu)),
    gc: |_, valid| {
        let valid: Vec<String> = valid.iter().map(ToString::to_string).collect();
        note(format!("GC [{}]", valid.join(", ")))
    },
    status: |_| note("STATUS".to_owned()),
};

fn add(request: &Request<Config>, at: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    note(format!("ADD {} {}", at.owner, at.netns.display()))?;
    undo.push("the effect", || note("undone".to_owned()));
    if request.config.fail_after_effect {
        return Err(CniError::plugin("failed on purpose"));
    }
    if request.config.pass_through {
        return Ok(request.require_prev_result()?.clone());
    }
    if let Some(ipam) = &request.config.ipam {
        return request.ipam(&ipam.plugin_type).start_add(undo)?.finish();
    }
    Ok(if request.config.no_address { CniResult::default() } else { full_result() })
}

/// A result with everything that a version may have to leave out.
pub fn full_result() -> CniResult {
    CniResult {
        interfaces: vec![
            Interface { name: "br0".into(), mac: "02:00:00:00:00:01".into(), mtu: 1400, ..Interface::default() },
            Interface { name: "eth0".into(), sandbox: "/run/netns/x".into(), ..Interface::default() },
        ],
        ips: vec![
            ip(Some(1), "10.0.0.2/24", "10.0.0.1"),
            ip(Some(1), "10.0.1.2/24", ""),
            ip(Some(0), "fd00::2/64", "fd00::1"),
        ],
        routes: vec![
            Route { mtu: 1300, table: Some(0), ..Route::new("0.0.0.0/0".parse().unwrap(), "10.0.0.1".parse().ok()) },
            Route::new("::/0".parse().unwrap(), None),
        ],
        ..CniResult::default()
    }
}

fn ip(interface: Option<i64>, address: &str, gateway: &str) -> IpConfig {
    IpConfig { interface, address: address.parse().unwrap(), gateway: gateway.parse().ok() }
}

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    pub status: u8,
    pub stdout: String,
    pub stderr: String,
    pub log: Vec<String>,
}

impl Outcome {
    /// stdout as the one JSON document that it must be.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {:?}", self.stdout))
    }

    /// The error's code and message.
    pub fn error(&self) -> (u64, String) {
        assert_eq!(self.status, 1, "{self:?}");
        let error = self.json();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
    }
}

/// Variables that make `verb` acceptable.
pub fn vars(verb: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", "c1".to_owned()),
        ("CNI_NETNS", "/run/netns/not-there".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", "/nowhere".to_owned()),
    ]
}

/// Calls the recorder.
pub fn call(vars: &[(&str, String)], stdin: &str) -> Outcome {
    call_in(vars, stdin, "/nowhere/own-netns")
}

/// Calls the recorder, in a namespace of this path.
pub fn call_in(vars: &[(&str, String)], stdin: &str, own_netns: &str) -> Outcome {
    LOG.take();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut surroundings = Surroundings {
        vars: vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(),
        stdin: &mut stdin.as_bytes(),
        interactive: false,
        stdout: &mut stdout,
        stderr: &mut stderr,
        own_netns: PathBuf::from(own_netns),
    };
    let status = run(&RECORDER, &mut surroundings);
    Outcome {
        status,
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
        log: LOG.take(),
    }
}

/// Every version's text.
pub fn versions() -> impl Iterator<Item = &'static str> {
    SpecVersion::ALL.iter().map(|version| version.as_str())
}
