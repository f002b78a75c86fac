//! STATUS: whether an ADD could succeed now, and if not, what is missing.

use cni_tests::conf::{self, Backend};
use cni_tests::{Chain, Sandbox, Snapshot};
use serde_json::json;

use crate::case::{Case, improved, newer};
use cni_tests::host_local::added;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("host_local_without_a_free_address", exhausted),
        improved("no_firewall_tool", no_tool),
        improved("ipam_that_is_not_there", no_ipam),
    ];
    for backend in Backend::ALL {
        cases.push(newer(format!("{}::ready", backend.name()), move |sb| ready(sb, backend)));
    }
    cases
}

fn ready(sb: &Sandbox, backend: Backend) {
    sb.needs("bridge", "1.1.0");
    let before = Snapshot::of(&[&sb.node()]);
    conf::main_story("1.1.0", backend).status(sb).silent();
    // Asking iptables makes iptables-nft create its own empty tables, which show no rule.
    Snapshot::of(&[&sb.node()]).same_but(&before, &["/var/lib/cni"]);
}

/// SPEC: 50 is for a plugin that is not available, 51 for one with limited connectivity.
fn exhausted(sb: &Sandbox) {
    sb.needs("host-local", "1.1.0");
    let conf = conf::host_local("1.1.0", &["10.1.2.0/30"]);
    let status = || sb.plugin("host-local", "STATUS").conf(&conf).run();
    status().silent();
    added(sb, "c1", &conf);
    let error = status().error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["10.1.2.1", "10.1.2.2"]);
    let mut bridge = conf::bridge();
    bridge["ipam"] = conf["ipam"].clone();
    let error = Chain::new("testnet", "1.1.0", &[bridge]).status(sb).error();
    assert_eq!(error.code, 50, "bridge passes on what IPAM says: {error:?}");
}

fn no_tool(sb: &Sandbox) {
    sb.needs("portmap", "1.1.0");
    std::fs::create_dir_all("/run/cni-test/empty").unwrap();
    for plugin in [conf::masquerading(Backend::Iptables), conf::portmap(Backend::Iptables)] {
        let chain = Chain::new("testnet", "1.1.0", std::slice::from_ref(&plugin)).with_path("/run/cni-test/empty");
        let error = chain.status(sb).error();
        assert_eq!(error.code, 50, "{error:?}");
        error.names(&["iptables"]);
    }
}

fn no_ipam(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    let conf = json!({"type": "bridge", "ipam": {"type": "nope"}});
    Chain::new("testnet", "1.1.0", &[conf]).status(sb).error().names(&["nope"]);
}
