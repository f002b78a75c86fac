//! The network's configuration on this node: the template with what depends on the node.
//!
//! A text of the template that is a placeholder and nothing else is replaced: `"{ranges}"` by the ranges of this node's parts, as
//! `host-local` takes them, and `"{mtu}"` by the largest MTU that containers can have.

use std::io;
use std::net::IpAddr;

use cni_plugin::state::{Entry, StateDir};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::settings::Network;

/// The longest file that is compared with what is to be written.
const MAX: u64 = 1 << 20;
/// Runtimes that run as another user read it too.
const MODE: u32 = 0o644;

/// What depends on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// The node's parts.
    pub parts: Vec<IpNetwork>,
    /// The whole subnets, if containers are to take these for their link.
    pub whole: Vec<IpNetwork>,
    /// The largest MTU; none if the backend takes nothing of it.
    pub mtu: Option<u32>,
}

/// Writes the file, by rename, unless it says so already; true if it was written. The directory is made.
///
/// # Errors
/// The system's.
pub fn write(network: &Network, values: &Values) -> io::Result<bool> {
    let mut content = serde_json::to_vec_pretty(&filled(&network.template, values))?;
    content.push(b'\n');
    StateDir::make(&network.directory, 0o755)?;
    let directory = StateDir::open(&network.directory, true)?.ok_or(io::ErrorKind::NotFound)?;
    if directory.read(&network.file, MAX)? == Entry::File(content.clone()) {
        return Ok(false);
    }
    directory.replace_with_mode(&network.file, &content, MODE)?;
    Ok(true)
}

fn filled(template: &Value, values: &Values) -> Value {
    match template {
        Value::String(text) if text == "{ranges}" => {
            values.parts.iter().map(|part| json!([range(*part, &values.whole)])).collect()
        }
        Value::String(text) if text == "{mtu}" => json!(values.mtu.unwrap_or_default()),
        Value::Array(list) => list.iter().map(|each| filled(each, values)).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), filled(value, values))).collect(),
        other => other.clone(),
    }
}

/// A part as a range of its own, or as a piece of the whole with a gateway in it.
fn range(part: IpNetwork, whole: &[IpNetwork]) -> Value {
    let Some(whole) = whole.iter().find(|whole| whole.contains(part.network()) && whole.prefix() <= part.prefix())
    else {
        return json!({"subnet": part.to_string()});
    };
    let (first, last) = (part.network(), part.broadcast());
    json!({
        "subnet": whole.to_string(), "rangeStart": moved(first, 2), "rangeEnd": moved(last, -1), "gateway": moved(first, 1),
    })
}

fn moved(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => u32::from(v4).wrapping_add_signed(by.into()).to_be_bytes().into(),
        IpAddr::V6(v6) => u128::from(v6).wrapping_add_signed(by.into()).to_be_bytes().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(whole: &[&str]) -> Values {
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Values { parts: parse(&["10.42.1.0/24", "fd00:42:0:1::/64"]), whole: parse(whole), mtu: Some(1450) }
    }

    #[test]
    fn placeholders_are_replaced_and_nothing_else() {
        let template = json!({"name": "x{ranges}", "plugins": [{"mtu": "{mtu}", "ipam": {"ranges": "{ranges}"}}]});
        let expected = json!({"name": "x{ranges}", "plugins": [{"mtu": 1450, "ipam": {"ranges":
            [[{"subnet": "10.42.1.0/24"}], [{"subnet": "fd00:42:0:1::/64"}]]}}]});
        assert_eq!(filled(&template, &values(&[])), expected);
    }

    #[test]
    fn a_part_of_a_whole_has_its_gateway_in_itself() {
        let ranges = filled(&json!("{ranges}"), &values(&["10.42.0.0/16", "fd00:42::/48"]));
        assert_eq!(
            ranges,
            json!([
                [{"subnet": "10.42.0.0/16", "rangeStart": "10.42.1.2", "rangeEnd": "10.42.1.254", "gateway": "10.42.1.1"}],
                [{"subnet": "fd00:42::/48", "rangeStart": "fd00:42:0:1::2", "rangeEnd": "fd00:42:0:1:ffff:ffff:ffff:fffe",
                  "gateway": "fd00:42:0:1::1"}],
            ])
        );
    }

    #[test]
    fn the_file_is_written_once_and_whole() {
        let directory = tempfile::tempdir().unwrap();
        let network = Network {
            directory: directory.path().join("net.d"),
            file: "10.conflist".to_owned(),
            template: json!({"r": "{ranges}"}),
        };
        assert!(write(&network, &values(&[])).unwrap());
        assert!(!write(&network, &values(&[])).unwrap());
        let names: Vec<_> =
            std::fs::read_dir(&network.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["10.conflist"]);
    }
}
