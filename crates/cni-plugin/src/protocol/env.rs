//! The parameters in the environment (SPEC.md, "Parameters"), checked in the order of the Go skeleton.
//!
//! Unlike there, `CNI_PATH` is optional, as the specification says: its absence is an error when another plugin is to be called.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::protocol::error::{CniError, code};
use crate::protocol::names::{ContainerId, IfName};
use crate::protocol::verb::Verb;

/// The environment as a map; injected, so that tests need no process.
pub type Vars = BTreeMap<OsString, OsString>;

/// The environment's parameters, for any verb.
#[derive(Debug)]
pub(crate) struct Parameters {
    /// The text of a verb that doesn't exist is an error that is reported after the configuration's.
    pub(crate) verb: Result<Verb, String>,
    pub(crate) container_id: Option<ContainerId>,
    pub(crate) ifname: Option<IfName>,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) args: String,
    pub(crate) path: Vec<PathBuf>,
    pub(crate) netns_override: bool,
}

/// Reads the parameters. A malformed value is refused at once; missing ones are refused together.
pub(crate) fn read(vars: &Vars) -> Result<Parameters, CniError> {
    let command = text(vars, "CNI_COMMAND")?;
    let verb = Verb::parse(&command);
    let attaches = matches!(verb, Some(Verb::Add | Verb::Del | Verb::Check));
    let mut missing = Vec::new();
    let mut require = |name: &'static str, required: bool, present: bool| {
        if required && !present {
            missing.push(name);
        }
    };

    require("CNI_COMMAND", true, !command.is_empty());
    let container_id: Option<ContainerId> = parsed(vars, "CNI_CONTAINERID", attaches)?;
    require("CNI_CONTAINERID", attaches, container_id.is_some());
    let netns = raw(vars, "CNI_NETNS").map(PathBuf::from);
    require("CNI_NETNS", matches!(verb, Some(Verb::Add | Verb::Check)), netns.is_some());
    let ifname: Option<IfName> = parsed(vars, "CNI_IFNAME", attaches)?;
    require("CNI_IFNAME", attaches, ifname.is_some());
    let path = raw(vars, "CNI_PATH");

    if !missing.is_empty() {
        let msg = format!("required env variables [{}] missing", missing.join(","));
        return Err(CniError::new(code::ENVIRONMENT, msg));
    }
    let netns_override = text(vars, "CNI_NETNS_OVERRIDE")?;
    Ok(Parameters {
        verb: verb.ok_or(command),
        container_id,
        ifname,
        netns,
        args: text(vars, "CNI_ARGS")?,
        path: path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default(),
        netns_override: netns_override == "1" || netns_override.eq_ignore_ascii_case("true"),
    })
}

/// True if `CNI_COMMAND` is not set: no verb is asked for.
pub(crate) fn has_no_verb(vars: &Vars) -> bool {
    raw(vars, "CNI_COMMAND").is_none()
}

/// The variable, if it is set and not empty.
fn raw<'v>(vars: &'v Vars, name: &str) -> Option<&'v OsStr> {
    vars.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
}

fn text(vars: &Vars, name: &str) -> Result<String, CniError> {
    match raw(vars, name) {
        None => Ok(String::new()),
        Some(value) => value
            .to_str()
            .map(str::to_owned)
            .ok_or_else(|| CniError::new(code::ENVIRONMENT, format!("{name} is not UTF-8: {value:?}"))),
    }
}

fn parsed<T>(vars: &Vars, name: &str, wanted: bool) -> Result<Option<T>, CniError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let value = if wanted { text(vars, name)? } else { String::new() };
    if value.is_empty() {
        return Ok(None);
    }
    let refused = |error: T::Err| CniError::new(code::ENVIRONMENT, format!("{name}: {error}"));
    value.parse().map(Some).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    fn refusal(pairs: &[(&str, &str)]) -> (u32, String) {
        let error = read(&vars(pairs)).unwrap_err();
        assert_eq!(error.details, "", "nothing is said twice");
        (error.code, error.msg)
    }

    #[test]
    fn missing_variables_are_named_together() {
        let msg = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing";
        assert_eq!(refusal(&[("CNI_COMMAND", "ADD")]), (4, msg.into()));
        let msg = "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing";
        assert_eq!(refusal(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]).1, msg);
        assert_eq!(refusal(&[]).1, "required env variables [CNI_COMMAND] missing");
    }

    #[test]
    fn a_malformed_value_outranks_missing_ones_and_is_named() {
        let (code, msg) = refusal(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "-x")]);
        assert_eq!(code, 4);
        assert!(msg.starts_with("CNI_CONTAINERID: ") && msg.contains("\"-x\""), "{msg}");
        let (code, msg) = refusal(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "a:b")]);
        assert_eq!(code, 4);
        assert!(msg.starts_with("CNI_IFNAME: "), "{msg}");
    }

    #[test]
    fn values_that_the_verb_does_not_use_are_not_looked_at() {
        let pairs = [("CNI_COMMAND", "VERSION"), ("CNI_CONTAINERID", "-x"), ("CNI_IFNAME", "a/b")];
        assert_eq!(read(&vars(&pairs)).unwrap().verb, Ok(Verb::Version));
        assert!(read(&vars(&[("CNI_COMMAND", "GC")])).unwrap().path.is_empty());
        let pairs = [("CNI_COMMAND", "GC"), ("CNI_PATH", "/a:/b"), ("CNI_CONTAINERID", "-x")];
        assert_eq!(read(&vars(&pairs)).unwrap().path, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn verbs_are_case_sensitive() {
        assert_eq!(read(&vars(&[("CNI_COMMAND", "add")])).unwrap().verb, Err("add".to_owned()));
    }
}
