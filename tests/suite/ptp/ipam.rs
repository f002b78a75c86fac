//! ptp: what it asks of its IPAM plugin, and what it makes of the answers.

use std::fs;

use cni_tests::conf::{self, Backend};
use cni_tests::kernel::link_names;
use cni_tests::{Sandbox, Snapshot, rules};
use serde_json::{Value, json};

use super::{attached, call, chain, host_link, masquerading, network};
use crate::case::{Case, common, improved, newer};
use cni_tests::plugins::ready;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("ipam_is_a_must", no_ipam),
        common("dns_of_the_configuration_wins", dns),
        improved("del_without_ipam_type", |sb| {
            let (ns, at) = attached(sb, &network(), "c1");
            call(sb, "DEL", &json!({"type": "ptp"}), &at).silent();
            assert!(!link_names(&sb.node()).contains(&host_link(&at)));
            drop(ns);
        }),
        improved("ipam_fails_on_del_and_the_link_goes_all_the_same", ipam_fails_on_del),
        improved("gc_forwards_to_ipam", gc_forwards),
        newer("status_forwards_to_ipam", status_forwards),
    ]
}

fn no_ipam(sb: &Sandbox) {
    let ns = sb.container("c1");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    for verb in ["ADD", "CHECK"] {
        let conf = conf::named("1.0.0", json!({"type": "ptp"}));
        ready(sb, "ptp", verb, "1.0.0", &ns).conf(&conf).run().error().names(&["no plugin name provided"]);
    }
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

fn dns(sb: &Sandbox) {
    fs::write("/run/resolv.conf", "nameserver 10.0.0.53\nsearch a.example\n").unwrap();
    let mut conf = network();
    conf["ipam"]["resolvConf"] = "/run/resolv.conf".into();
    let (_ns, at) = attached(sb, &conf, "c1");
    let ipams = json!({"nameservers": ["10.0.0.53"], "search": ["a.example"]});
    assert_eq!(at.result.unwrap()["dns"], ipams, "without its own, IPAM's");
    conf["dns"] = json!({"nameservers": ["10.0.0.54"]});
    let (_ns, at) = attached(sb, &conf, "c2");
    assert_eq!(at.result.unwrap()["dns"], json!({"nameservers": ["10.0.0.54"]}));
}

fn ipam_fails_on_del(sb: &Sandbox) {
    sb.fake(
        "fails",
        r#"case $CNI_COMMAND in ADD) echo '{"ips":[{"address":"10.5.0.5/24","gateway":"10.5.0.1"}]}';;
        *) echo '{"code":103,"msg":"no"}'; exit 1;; esac"#,
    );
    let mut conf = masquerading(Backend::Iptables);
    conf["ipam"] = json!({"type": "fails"});
    let (ns, at) = attached(sb, &conf, "c1");
    let error = call(sb, "DEL", &conf, &at).error();
    assert_eq!((error.code, error.msg.as_str()), (103, "no"));
    assert_eq!(link_names(&sb.node()), ["lo"]);
    assert!(rules::naming(&sb.node(), "10.5.0.5").is_empty());
    drop(ns);
}

/// A noting IPAM, and what it was called with.
fn noting(sb: &Sandbox) -> Value {
    sb.fake("noting", "echo $CNI_COMMAND >>/run/said");
    json!({"type": "ptp", "ipam": {"type": "noting"}})
}

fn gc_forwards(sb: &Sandbox) {
    sb.needs("ptp", "1.1.0");
    chain(sb, &[noting(sb)]).gc(sb, &[]).silent();
    assert_eq!(fs::read_to_string("/run/said").unwrap(), "GC\n");
}

fn status_forwards(sb: &Sandbox) {
    sb.needs("ptp", "1.1.0");
    chain(sb, &[noting(sb)]).status(sb).silent();
    assert_eq!(fs::read_to_string("/run/said").unwrap(), "STATUS\n");
    sb.fake("full", r#"echo '{"code":50,"msg":"full"}'; exit 1"#);
    let error = chain(sb, &[json!({"type": "ptp", "ipam": {"type": "full"}})]).status(sb).error();
    assert_eq!((error.code, error.msg.as_str()), (50, "full"));
    chain(sb, &[json!({"type": "ptp"})]).status(sb).error().names(&["no plugin name provided"]);
}
