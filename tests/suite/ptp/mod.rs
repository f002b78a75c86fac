//! ptp: a pair of interfaces between node and container, its routes, and what is left of it.

pub(crate) mod add;
pub(crate) mod check;
pub(crate) mod ipam;
pub(crate) mod leftovers;
pub(crate) mod masquerade;

use cni_tests::conf::Backend;
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox};
use serde_json::{Value, json};

const V4: &str = "10.21.0.0/24";

const V6: &str = "fd00:21::/64";

/// A dual-stack network with default routes.
fn network() -> Value {
    json!({"type": "ptp", "ipam": {
        "type": "host-local", "ranges": [[{"subnet": V4}], [{"subnet": V6}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    }})
}

fn masquerading(backend: Backend) -> Value {
    let mut conf = network();
    conf["ipMasq"] = true.into();
    conf["ipMasqBackend"] = backend.name().into();
    conf
}

fn chain(sb: &Sandbox, plugins: &[Value]) -> Chain {
    if plugins.iter().any(|plugin| plugin["ipMasqBackend"] == "nftables" || plugin["backend"] == "nftables") {
        sb.needs("ptp", "1.1.0");
    }
    Chain::new("ptpnet", sb.newest(&["ptp", "host-local"]), plugins)
}

fn attached(sb: &Sandbox, conf: &Value, id: &str) -> (Netns, Attachment) {
    chain(sb, std::slice::from_ref(conf)).attached(sb, id)
}

fn call(sb: &Sandbox, verb: &str, conf: &Value, at: &Attachment) -> Outcome {
    chain(sb, std::slice::from_ref(conf)).call(sb, verb, conf, at, at.result.as_ref()).run()
}

fn host_link(at: &Attachment) -> String {
    at.result.as_ref().unwrap()["interfaces"][0]["name"].as_str().expect("the host's end is named").to_owned()
}
