//! bridge: what it makes on the node and in the container, key by key, and what it takes back.

pub(crate) mod add;
pub(crate) mod keys;
pub(crate) mod mac;
pub(crate) mod own_keys;
pub(crate) mod rollback;
pub(crate) mod shared;
pub(crate) mod spoof;
pub(crate) mod upgrade;
pub(crate) mod vlan;
pub(crate) mod wire;

use cni_tests::{Chain, Sandbox, conf};
use serde_json::Value;

/// A bridge alone in its chain.
fn alone(sb: &Sandbox, edit: impl Fn(&mut Value)) -> Chain {
    let mut bridge = conf::bridge();
    edit(&mut bridge);
    Chain::new("testnet", sb.newest(&["bridge", "host-local"]), &[bridge])
}
