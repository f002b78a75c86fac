//! The network configuration on stdin: what every plugin looks at, before the plugin looks at its own keys.

use serde_json::{Map, Value};

use crate::protocol::error::{CniError, code};
use crate::protocol::json;
use crate::protocol::names::{ContainerId, IfName, NetworkName};
use crate::protocol::owner::Owner;

/// The configuration, decoded as far as the protocol goes.
#[derive(Debug)]
pub(crate) struct NetConf {
    pub(crate) name: NetworkName,
    /// As written; empty if absent.
    pub(crate) cni_version: String,
    pub(crate) object: Map<String, Value>,
}

/// Decodes stdin: code 6 for what isn't the JSON expected, 7 for a name that is missing or not allowed.
pub(crate) fn parse(stdin: &[u8]) -> Result<NetConf, CniError> {
    let value = json::parse(stdin).map_err(|error| {
        CniError::new(code::DECODE, format!("the network configuration on stdin is not JSON: {error}"))
    })?;
    let Value::Object(object) = value else {
        return Err(CniError::new(code::DECODE, "the network configuration on stdin is not a JSON object"));
    };
    let name = text(&object, "name")?;
    if name.is_empty() {
        return Err(CniError::new(code::CONFIG, "missing network name: the configuration needs a \"name\""));
    }
    let name = name.parse().map_err(|error| CniError::new(code::CONFIG, format!("name: {error}")))?;
    Ok(NetConf { name, cni_version: text(&object, "cniVersion")?, object })
}

fn text(object: &Map<String, Value>, key: &str) -> Result<String, CniError> {
    match json::get(object, key) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(CniError::new(code::DECODE, format!("{key}: expected a string, found {other}"))),
    }
}

/// The attachments that GC must keep (`cni.dev/valid-attachments`, SPEC.md "GC"), as owners in `network`.
///
/// `None` where the key is absent: then it is unknown which attachments are valid, and GC must not remove any. The
/// specification has the runtime give the key. libcni leaves it out where its caller has no list (`cnitool gc`), after a DEL
/// of each attachment in its own cache; but attachments of other runtimes, or of another cache, may be on the network too.
/// An empty list, or the null that a Go program makes of one, means that nothing is valid. The key's older spelling
/// `cni.dev/attachments` counts where the other is absent.
pub(crate) fn valid_attachments(conf: &NetConf) -> Result<Option<Vec<Owner>>, CniError> {
    const KEY: &str = "cni.dev/valid-attachments";
    let Some(value) = [KEY, "cni.dev/attachments"].iter().find_map(|key| conf.object.get(*key)) else {
        return Ok(None);
    };
    let entries = match value {
        Value::Null => &[],
        Value::Array(entries) => entries.as_slice(),
        other => {
            return Err(CniError::new(code::CONFIG, format!("{KEY}: expected a list, found {other}")));
        }
    };
    entries.iter().map(|entry| owner(&conf.name, entry)).collect::<Result<_, _>>().map(Some)
}

fn owner(network: &NetworkName, entry: &Value) -> Result<Owner, CniError> {
    let refused = |why: String| CniError::new(code::CONFIG, format!("cni.dev/valid-attachments: {why}"));
    let field = |key: &str| {
        let found = entry.as_object().and_then(|object| json::get(object, key)).and_then(Value::as_str);
        found.ok_or_else(|| refused(format!("{entry} has no {key}")))
    };
    let container_id: ContainerId = field("containerID")?.parse().map_err(|error| refused(format!("{error}")))?;
    let ifname: IfName = field("ifname")?.parse().map_err(|error| refused(format!("{error}")))?;
    Ok(Owner { network: network.clone(), container_id, ifname })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(stdin: &str) -> u32 {
        parse(stdin.as_bytes()).unwrap_err().code
    }

    #[test]
    fn bad_documents_are_code_6_and_bad_names_code_7() {
        for bad in ["", "{", "[]", "null", "3", r#"{"name":"a"} x"#, r#"{"name":3}"#, r#"{"name":"a","cniVersion":1}"#]
        {
            assert_eq!(refusal(bad), 6, "{bad}");
        }
        for bad in ["{}", r#"{"name":null}"#, r#"{"name":""}"#, r#"{"name":"a b"}"#, r#"{"name":"-a"}"#] {
            assert_eq!(refusal(bad), 7, "{bad}");
        }
        let conf = parse(br#"{"NAME":"a","CNIVERSION":"1.0.0"}"#).unwrap();
        assert_eq!((conf.name.as_str(), conf.cni_version.as_str()), ("a", "1.0.0"));
    }

    fn valid(text: &str) -> Result<Option<Vec<Owner>>, u32> {
        let conf = parse(format!(r#"{{"name":"net"{text}}}"#).as_bytes()).unwrap();
        valid_attachments(&conf).map_err(|error| error.code)
    }

    #[test]
    fn a_list_that_is_none_is_refused_and_its_absence_says_nothing() {
        assert_eq!(valid(""), Ok(None));
        assert_eq!(valid(r#","cni.dev/valid-attachments":{}"#), Err(7));
        assert_eq!(valid(r#","cni.dev/valid-attachments":[{"containerID":"a"}]"#), Err(7));
        assert_eq!(valid(r#","cni.dev/valid-attachments":[{"containerID":"a b","ifname":"eth0"}]"#), Err(7));
    }

    #[test]
    fn gc_takes_the_list_by_either_name() {
        assert_eq!(valid(r#","cni.dev/valid-attachments":[]"#), Ok(Some(vec![])));
        assert_eq!(valid(r#","cni.dev/valid-attachments":null"#), Ok(Some(vec![])));
        let owners = valid(r#","cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]"#).unwrap().unwrap();
        assert_eq!(owners[0].to_string(), "container a (eth0) of network net");
    }
}
