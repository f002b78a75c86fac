//! bandwidth: limits on the rate of what a container receives and sends.

pub(crate) mod limits;
pub(crate) mod rates;

use cni_tests::{Attachment, Chain, Netns, Sandbox, conf};
use serde_json::{Value, json};

fn with(keys: &Value) -> Value {
    let mut conf = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

/// A bridge with these limits.
fn chain(sb: &Sandbox, keys: &Value) -> Chain {
    Chain::new("net", sb.newest(&["bridge", "host-local", "bandwidth"]), &[conf::bridge(), with(keys)])
}

fn attached(sb: &Sandbox, keys: &Value) -> (Netns, Attachment, Chain) {
    let (ns, chain) = (sb.container("c1"), chain(sb, keys));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    (ns, at, chain)
}
