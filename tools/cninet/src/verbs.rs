//! `add`, `check`, `del` and `status`: the verbs of a network for a namespace, as cnitool has them.

use std::env;
use std::path::Path;

use cni_plugin::sha512_hex;
use cni_runtime::{Attachment, NetworkList};
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::node::{Node, absolute};
use crate::output;

/// What cnitool puts before the hash of the namespace's path, which is the container's ID.
const ID: &str = "cnitool-";
/// How many digits of it.
const DIGITS: usize = 20;

/// What is to be attached to what.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The network's name
    #[arg(value_name = "NET")]
    pub network: String,
    /// The path of the network namespace
    pub netns: std::path::PathBuf,
    /// The interface's name; default: CNI_IFNAME, or eth0
    #[arg(long, short, value_name = "NAME")]
    pub ifname: Option<String>,
    /// The container's ID; default: cnitool's, from the path
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

impl Target {
    fn resolve(&self, node: &Node) -> Result<(NetworkList, Attachment), Failure> {
        let list = node.network(&self.network)?;
        let netns = absolute(&self.netns)?;
        let id = self.id.clone().unwrap_or_else(|| id_of(&netns));
        let ifname = self.ifname.clone().or_else(|| variable("CNI_IFNAME")).unwrap_or_else(|| "eth0".to_owned());
        let id = id.parse().map_err(|error| Failure::new(format!("--id: {error}")))?;
        let ifname = ifname.parse().map_err(|error| Failure::new(format!("--ifname: {error}")))?;
        let attachment =
            Attachment { args: cni_args()?, capability_args: capability_args()?, ..Attachment::new(id, ifname) };
        Ok((list, attachment.in_namespace(netns)))
    }
}

/// The ID that cnitool gives the container in this namespace.
fn id_of(netns: &Path) -> String {
    format!("{ID}{}", sha512_hex(&[&netns.to_string_lossy()], DIGITS))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn cni_args() -> Result<Vec<(String, String)>, Failure> {
    let Some(text) = variable("CNI_ARGS") else { return Ok(Vec::new()) };
    let pair = |pair: &str| match pair.split('=').collect::<Vec<_>>()[..] {
        [key, value] if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::new(format!("CNI_ARGS: {pair:?} is not KEY=VALUE"))),
    };
    text.split(';').map(pair).collect()
}

fn capability_args() -> Result<Map<String, Value>, Failure> {
    let Some(text) = variable("CAP_ARGS") else { return Ok(Map::new()) };
    serde_json::from_str(&text).map_err(|error| Failure::new(format!("CAP_ARGS is no JSON object: {error}")))
}

/// Attaches the namespace, and prints the result.
pub fn add(node: &Node, target: &Target) -> Result<(), Failure> {
    let (list, attachment) = target.resolve(node)?;
    let result = node.runtime.add(&list, &attachment)?;
    let mut text = result.to_json().map_err(|error| Failure::new(error.to_string()))?;
    text.push(b'\n');
    output::print(&text)
}

/// Compares the attachment with what was made.
pub fn check(node: &Node, target: &Target) -> Result<(), Failure> {
    let (list, attachment) = target.resolve(node)?;
    Ok(node.runtime.check(&list, &attachment)?)
}

/// Detaches the namespace.
pub fn del(node: &Node, target: &Target) -> Result<(), Failure> {
    let (list, attachment) = target.resolve(node)?;
    Ok(node.runtime.del(&list, &attachment)?)
}

/// Asks the network's plugins whether an attachment could be made now.
pub fn status(node: &Node, network: &str) -> Result<(), Failure> {
    Ok(node.runtime.status(&node.network(network)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_cnitool() {
        // printf /run/netns/blue | sha512sum
        assert_eq!(id_of(Path::new("/run/netns/blue")), "cnitool-df26705e2e4ffd095eb1");
    }
}
