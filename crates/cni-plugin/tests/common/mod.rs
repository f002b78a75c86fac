//! A plugin that records what it is asked for, and a way to call it without a process.
#![allow(dead_code)] // Each test file uses its share of this.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::rc::Rc;

use cni_plugin::{
    Attachment, CniError, CniResult, Detachment, Interface, IpConfig, Ipam, Owner, Plugin, Request, Route, SpecVersion,
    Surroundings, Undo, run,
};
use serde::Deserialize;
use serde_json::Value;

/// What it wrote down, in order.
pub type Log = Rc<RefCell<Vec<String>>>;

/// The recorder.
#[derive(Default)]
pub struct Recorder {
    pub log: Log,
}

/// Its keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    pub mtu: u32,
    pub fail_after_effect: bool,
    pub ipam: Option<IpamKeys>,
    pub pass_through: bool,
    pub no_address: bool,
}

/// `ipam`
#[derive(Debug, Deserialize)]
pub struct IpamKeys {
    #[serde(rename = "type")]
    pub kind: String,
}

impl Recorder {
    fn note(&self, text: String) {
        self.log.borrow_mut().push(text);
    }
}

impl Plugin for Recorder {
    const NAME: &'static str = "recorder";
    type Config = Config;

    fn add(&self, request: &Request<Config>, at: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
        self.note(format!("ADD {} {}", at.owner, at.netns.display()));
        let log = Rc::clone(&self.log);
        undo.push("the effect", move || {
            log.borrow_mut().push("undone".to_owned());
            Ok::<(), String>(())
        });
        if request.config.fail_after_effect {
            return Err(CniError::plugin("failed on purpose"));
        }
        if request.config.pass_through {
            return Ok(request.require_prev_result()?.clone());
        }
        if let Some(ipam) = &request.config.ipam {
            return Ipam::new(&request.delegates, &ipam.kind, request.version).start_add(undo)?.finish();
        }
        Ok(if request.config.no_address { CniResult::default() } else { full_result() })
    }

    fn del(&self, request: &Request<Config>, at: &Detachment) -> Result<(), CniError> {
        let prev = if request.prev_result.is_some() { "with" } else { "without" };
        self.note(format!("DEL {} {:?} {prev} prevResult", at.owner, at.netns));
        Ok(())
    }

    fn check(&self, request: &Request<Config>, _at: &Attachment) -> Result<(), CniError> {
        self.note(format!("CHECK mtu {}", request.config.mtu));
        Ok(())
    }

    fn gc(&self, _request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
        let valid: Vec<String> = valid.iter().map(ToString::to_string).collect();
        self.note(format!("GC [{}]", valid.join(", ")));
        Ok(())
    }

    fn status(&self, _request: &Request<Config>) -> Result<(), CniError> {
        self.note("STATUS".to_owned());
        Ok(())
    }
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
    let recorder = Recorder::default();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut surroundings = Surroundings {
        vars: vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(),
        stdin: &mut stdin.as_bytes(),
        stdout: &mut stdout,
        stderr: &mut stderr,
        own_netns: PathBuf::from(own_netns),
    };
    let status = run(&recorder, &mut surroundings);
    Outcome {
        status,
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
        log: recorder.log.borrow().clone(),
    }
}

/// Every version's text.
pub fn versions() -> impl Iterator<Item = &'static str> {
    SpecVersion::ALL.iter().map(|version| version.as_str())
}
