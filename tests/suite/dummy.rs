//! dummy: a link that only has addresses. Skipped where the kernel has none; `hack/test-vm.sh` has a kernel with them.

use cni_tests::kernel::{addresses, has_flag, link, link_names};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, verdict};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use cni_tests::plugins::{VERSIONS, tidy};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("a_life", life),
        improved("check_names_what_is_wrong", check),
        improved("ipam_is_a_must", no_ipam),
        improved("a_failed_add_leaves_nothing", rollback),
        improved("a_second_add_is_refused", repeat),
        improved("the_owner_is_on_the_link", owner),
        improved("del_by_the_result_and_after_the_namespace", del),
        improved("status", status),
    ];
    cases.extend(VERSIONS.map(|version| common(format!("result_{version}"), move |sb| result(sb, version))));
    cases
}

fn network(sb: &Sandbox) -> Value {
    if !sb.node().holds(&["ip", "link", "add", "probe", "type", "dummy"]) {
        verdict::skip("this kernel has no dummy links");
    }
    sb.node().sh(&["ip", "link", "del", "probe"]);
    json!({"type": "dummy", "ipam": {"type": "static",
        "addresses": [{"address": "10.9.0.5/24"}, {"address": "fd00:9::5/64"}], "routes": [{"dst": "10.8.0.0/16"}],
        "dns": {"nameservers": ["10.9.0.53"]}}})
}

fn chain(sb: &Sandbox, conf: &Value) -> Chain {
    Chain::new("quiet", sb.newest(&["dummy", "static"]), std::slice::from_ref(conf))
}

fn attached(sb: &Sandbox, conf: &Value, id: &str) -> (Netns, Attachment) {
    chain(sb, conf).attached(sb, id)
}

fn life(sb: &Sandbox) {
    let conf = network(sb);
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "set", "lo", "up"]);
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let mut at = Attachment::new("c1", &ns);
    chain(sb, &conf).add(sb, &mut at);
    let found = link(&ns, "eth0").unwrap();
    assert_eq!(found["linkinfo"]["info_kind"], "dummy");
    assert!(has_flag(&found, "UP"));
    assert_eq!(addresses(&ns, "eth0"), ["10.9.0.5/24", "fd00:9::5/64"]);
    assert!(ping(&ns, "10.9.0.5") && ping(&ns, "fd00:9::5"), "its own addresses are there");
    chain(sb, &conf).check(sb, &at).silent();
    chain(sb, &conf).del(sb, &at);
    chain(sb, &conf).del(sb, &at);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["lo/disable_ipv6"]);
}

fn result(sb: &Sandbox, version: &str) {
    let conf = network(sb);
    sb.needs("dummy", version);
    let ns = sb.container("c1");
    let found = tidy(Chain::new("quiet", version, &[conf]).add(sb, &mut Attachment::new("c1", &ns)));
    assert_eq!(found["dns"]["nameservers"], json!(["10.9.0.53"]), "IPAM's name servers are kept");
    if version < "0.3.0" {
        assert_eq!((&found["ip4"]["ip"], &found["ip6"]["ip"]), (&"10.9.0.5/24".into(), &"fd00:9::5/64".into()));
        return;
    }
    let interfaces = found["interfaces"].as_array().unwrap();
    assert_eq!(
        (interfaces.len(), &interfaces[0]["name"], &interfaces[0]["sandbox"]),
        (1, &"eth0".into(), &ns.path().into())
    );
    assert_eq!(interfaces[0]["mac"], link(&ns, "eth0").unwrap()["address"]);
    assert_eq!((&found["ips"][1]["interface"], &found["routes"][0]["dst"]), (&0.into(), &"10.8.0.0/16".into()));
}

fn check(sb: &Sandbox) {
    let conf = network(sb);
    let spoilt: [(&[&str], &[&str]); 4] = [
        (&["ip", "addr", "del", "10.9.0.5/24", "dev", "eth0"], &["10.9.0.5/24"]),
        (&["ip", "route", "del", "10.8.0.0/16"], &["10.8.0.0/16"]),
        (&["ip", "link", "set", "eth0", "down"], &["eth0", "up", "down"]),
        (&["ip", "link", "del", "eth0"], &["eth0", "nothing"]),
    ];
    for (words, named) in spoilt {
        let (ns, at) = attached(sb, &conf, "c1");
        ns.sh(words);
        chain(sb, &conf).check(sb, &at).error().names(named);
        chain(sb, &conf).del(sb, &at);
        ns.delete();
    }
}

fn no_ipam(sb: &Sandbox) {
    let _ = network(sb);
    let conf = json!({"type": "dummy"});
    let (ns, at) = (sb.container("c1"), Attachment::new("c1", &sb.container("c2")));
    chain(sb, &conf).call(sb, "ADD", &conf, &Attachment::new("c1", &ns), None).run().error().names(&["ipam", "type"]);
    assert_eq!(link_names(&ns), ["lo"]);
    chain(sb, &conf).call(sb, "DEL", &conf, &at, None).run().silent();
}

fn rollback(sb: &Sandbox) {
    let mut conf = network(sb);
    conf["ipam"]["routes"] = json!([{"dst": "10.8.0.0/16", "gw": "203.0.113.1"}]);
    let ns = sb.container("c1");
    chain(sb, &conf).call(sb, "ADD", &conf, &Attachment::new("c1", &ns), None).run().error().names(&["203.0.113.1"]);
    assert_eq!(link_names(&ns), ["lo"]);
}

fn repeat(sb: &Sandbox) {
    let conf = network(sb);
    let (ns, at) = attached(sb, &conf, "c1");
    chain(sb, &conf).call(sb, "ADD", &conf, &at, None).run().error().names(&["eth0", "already"]);
    assert_eq!(link_names(&ns), ["lo", "eth0"]);
}

fn owner(sb: &Sandbox) {
    let conf = network(sb);
    let (ns, _at) = attached(sb, &conf, "c1");
    assert_eq!(link(&ns, "eth0").unwrap()["ifalias"], "cni quiet c1 eth0");
}

fn del(sb: &Sandbox) {
    let conf = network(sb);
    let (ns, at) = attached(sb, &conf, "c1");
    let bare = json!({"type": "dummy"});
    chain(sb, &bare).call(sb, "DEL", &bare, &at.clone().nowhere(), at.result.as_ref()).run().silent();
    assert_eq!(link_names(&ns), ["lo"]);
    ns.delete();
    chain(sb, &conf).del(sb, &at);
}

fn status(sb: &Sandbox) {
    sb.needs("dummy", "1.1.0");
    let conf = network(sb);
    chain(sb, &conf).status(sb).silent();
    chain(sb, &json!({"type": "dummy", "ipam": {"type": "no-such-ipam"}})).status(sb).error().names(&["no-such-ipam"]);
    assert_eq!(link_names(&sb.node()), ["lo"]);
}
