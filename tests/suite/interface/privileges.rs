//! bridge and ptp with fewer capabilities than they need: which one is named, and nothing is given away that is in use.

use std::path::Path;

use cni_tests::kernel::{addresses, link};
use cni_tests::sandbox::FAKES;
use cni_tests::{Attachment, Chain, Outcome, Sandbox, Snapshot, conf, verdict};

use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for main in ["bridge", "ptp"] {
        cases.push(improved(format!("{main}::del_keeps_the_address_of_a_link_that_stays"), move |sb| {
            del(sb, main);
        }));
        cases.push(improved(format!("{main}::gc_keeps_the_address_of_a_link_that_stays"), move |sb| {
            gc(sb, main);
        }));
        for capability in ["net_admin", "sys_admin"] {
            cases.push(improved(format!("{main}::add_without_{capability}"), move |sb| {
                add(sb, main, capability);
            }));
        }
    }
    cases
}

fn chain(sb: &Sandbox, main: &str) -> Chain {
    let mut conf = conf::bridge();
    conf["type"] = main.into();
    Chain::new("net", sb.newest(&[main, "host-local"]), &[conf])
}

/// A call by a root that lacks a capability.
fn without(sb: &Sandbox, capability: &str, verb: &str, chain: &Chain, at: &Attachment) -> Outcome {
    if !sb.node().holds(&["setpriv", "--version"]) {
        verdict::skip("no setpriv here");
    }
    let conf = &chain.plugins()[0];
    let path = sb.dir().join(conf["type"].as_str().unwrap());
    let lost = format!("--bounding-set=-{capability} --inh-caps=-{capability}");
    sb.fake("with-less", &format!("exec setpriv {lost} {}", path.display()));
    chain.call(sb, verb, conf, at, at.result.as_ref()).by(Path::new(FAKES).join("with-less")).run()
}

fn is_reserved(ip: &str) -> bool {
    Path::new("/var/lib/cni/networks/net").join(ip).exists()
}

fn del(sb: &Sandbox, main: &str) {
    let (ns, chain) = (sb.container("c1"), chain(sb, main));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    without(sb, "net_admin", "DEL", &chain, &at).error();
    assert_eq!(addresses(&ns, "eth0").len(), 2, "the link is there");
    assert!(is_reserved(&at.ip(false)) && is_reserved(&at.ip(true)), "and so are its addresses");
    chain.del(sb, &at);
    assert!(link(&ns, "eth0").is_none());
    assert!(!is_reserved(&at.ip(false)) && !is_reserved(&at.ip(true)));
}

fn gc(sb: &Sandbox, main: &str) {
    sb.needs(main, "1.1.0");
    let (ns, chain) = (sb.container("c1"), chain(sb, main));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    let mut conf = chain.plugins()[0].clone();
    conf["cni.dev/valid-attachments"] = serde_json::json!([]);
    let all = Chain::new("net", "1.1.0", &[conf]);
    without(sb, "net_admin", "GC", &all, &at).error();
    assert!(link(&ns, "eth0").is_some() && is_reserved(&at.ip(false)));
    chain.gc(sb, &[]).silent();
    assert!(link(&ns, "eth0").is_none() && !is_reserved(&at.ip(false)));
}

fn add(sb: &Sandbox, main: &str, capability: &str) {
    let (ns, chain) = (sb.container("c1"), chain(sb, main));
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let error = without(sb, capability, "ADD", &chain, &Attachment::new("c1", &ns)).error();
    error.names(&[&format!("CAP_{}", capability.to_uppercase())]);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip", "/var/lib/cni"]);
}
