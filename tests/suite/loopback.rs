//! loopback: `lo` up and down.

use cni_tests::kernel::{addresses, has_flag, link};
use cni_tests::{Netns, Sandbox, Snapshot};
use serde_json::json;

use crate::case::{Case, common, improved};
use cni_tests::plugins::{VERSIONS, minimal, previous, ready, tidy};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("add_brings_lo_up_and_del_down", up_and_down),
        common("ifname_is_ignored", ifname),
        common("prev_result_passes_through", pass_through),
        common("foreign_address_is_refused", foreign_address),
        common("check_says_that_lo_is_down", check),
        common("del_without_namespace", del_without_namespace),
        improved("del_leaves_lo_to_others_in_a_shared_namespace", shared),
        improved("del_without_add_leaves_lo_alone", del_without_add),
        improved("a_failed_add_leaves_lo_as_it_was", failed_add),
        improved("check_names_an_address_that_went", address_gone),
        improved("check_names_the_interface", |sb| {
            let ns = sb.container("c1");
            ready(sb, "loopback", "CHECK", "1.0.0", &ns).run().error().names(&["lo"]);
        }),
    ];
    for version in VERSIONS {
        let name = format!("result_shape_{version}");
        let story = move |sb: &Sandbox| shape(sb, version);
        // The Go plugin answers in the 1.x shape at every version.
        cases.push(if version < "1.0.0" { improved(name, story) } else { common(name, story) });
    }
    cases
}

fn is_up(ns: &Netns) -> bool {
    has_flag(&link(ns, "lo").unwrap(), "UP")
}

fn up_and_down(sb: &Sandbox) {
    let ns = sb.container("c1");
    assert!(!is_up(&ns));
    ready(sb, "loopback", "ADD", "1.0.0", &ns).run().result();
    assert!(is_up(&ns));
    assert_eq!(addresses(&ns, "lo"), ["127.0.0.1/8", "::1/128"]);
    ready(sb, "loopback", "CHECK", "1.0.0", &ns).run().silent();
    for _ in 0..2 {
        ready(sb, "loopback", "DEL", "1.0.0", &ns).run().silent();
        assert!(!is_up(&ns));
    }
    assert!(is_up(&sb.node()), "the node's lo isn't touched");
}

fn ifname(sb: &Sandbox) {
    let ns = sb.container("c1");
    let result = ready(sb, "loopback", "ADD", "1.0.0", &ns).names("c1", "vethcni1").run().result();
    assert_eq!(result["interfaces"][0]["name"], "lo", "{result}");
    assert!(is_up(&ns));
}

fn shape(sb: &Sandbox, version: &str) {
    sb.needs("loopback", version);
    let ns = sb.container("c1");
    let result = ready(sb, "loopback", "ADD", version, &ns).run().result();
    let interfaces = json!([{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": ns.path()}]);
    let expected = match version {
        "0.1.0" | "0.2.0" => json!({
            "cniVersion": version, "ip4": {"ip": "127.0.0.1/8"}, "ip6": {"ip": "::1/128"}, "dns": {}
        }),
        "0.3.0" | "0.3.1" | "0.4.0" => json!({
            "cniVersion": version, "interfaces": interfaces, "dns": {}, "ips": [
                {"version": "4", "interface": 0, "address": "127.0.0.1/8"},
                {"version": "6", "interface": 0, "address": "::1/128"}
            ]
        }),
        _ => json!({
            "cniVersion": version, "interfaces": interfaces, "ips": [
                {"interface": 0, "address": "127.0.0.1/8"}, {"interface": 0, "address": "::1/128"}
            ]
        }),
    };
    assert_eq!(tidy(result), expected);
}

fn pass_through(sb: &Sandbox) {
    let ns = sb.container("c1");
    let mut conf = minimal("loopback", "1.0.0");
    conf["prevResult"] = previous("1.0.0");
    let result = ready(sb, "loopback", "ADD", "1.0.0", &ns).conf(&conf).run().result();
    assert_eq!(tidy(result), previous("1.0.0"));
    assert!(is_up(&ns));
}

fn foreign_address(sb: &Sandbox) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "addr", "add", "10.9.8.7/32", "dev", "lo"]);
    ready(sb, "loopback", "ADD", "1.0.0", &ns).run().error().names(&["10.9.8.7"]);
}

fn check(sb: &Sandbox) {
    let ns = sb.container("c1");
    ready(sb, "loopback", "ADD", "1.0.0", &ns).run().result();
    ns.sh(&["ip", "link", "set", "lo", "down"]);
    ready(sb, "loopback", "CHECK", "1.0.0", &ns).run().error().names(&["down"]);
}

fn del_without_namespace(sb: &Sandbox) {
    let ns = sb.container("c1");
    let del = ready(sb, "loopback", "DEL", "1.0.0", &ns);
    del.clone().without("CNI_NETNS").run().silent();
    del.clone().env("CNI_NETNS", "/run/netns/never-was").run().silent();
    ns.delete();
    del.run().silent();
}

/// Two attachments of one namespace; and one whose `lo` was up before the first.
fn shared(sb: &Sandbox) {
    let ns = sb.container("c1");
    let call = |verb: &str, id: &str| ready(sb, "loopback", verb, "1.0.0", &ns).names(id, "lo").run();
    for id in ["c1", "c2"] {
        call("ADD", id).result();
    }
    // The kernel forgets such a route as soon as the link is down for a moment.
    ns.sh(&["ip", "route", "add", "198.51.100.0/24", "dev", "lo"]);
    call("DEL", "c1").silent();
    assert!(is_up(&ns), "c2 is still there");
    assert!(!ns.sh(&["ip", "route", "show", "198.51.100.0/24"]).is_empty(), "it was down for a moment");
    call("CHECK", "c2").silent();
    call("DEL", "c1").silent();
    assert!(is_up(&ns), "a repeated DEL of the one that is gone isn't the other's");
    call("DEL", "c2").silent();
    assert!(!is_up(&ns));

    ns.sh(&["ip", "link", "set", "lo", "up"]);
    call("ADD", "c3").result();
    call("DEL", "c3").silent();
    assert!(is_up(&ns), "another program brought it up");
}

fn del_without_add(sb: &Sandbox) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "set", "lo", "up"]);
    ready(sb, "loopback", "DEL", "1.0.0", &ns).run().silent();
    assert!(is_up(&ns));
}

fn failed_add(sb: &Sandbox) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "addr", "add", "10.9.8.7/32", "dev", "lo"]);
    let before = Snapshot::of(&[&ns]);
    ready(sb, "loopback", "ADD", "1.0.0", &ns).run().error();
    Snapshot::of(&[&ns]).same_as(&before);
    // A result without an address cannot be expressed at 0.2.0: ADD fails after `lo` is up.
    ns.sh(&["ip", "addr", "flush", "dev", "lo"]);
    let before = Snapshot::of(&[&ns]);
    let mut conf = minimal("loopback", "0.2.0");
    conf["prevResult"] = json!({"cniVersion": "0.2.0"});
    ready(sb, "loopback", "ADD", "0.2.0", &ns).conf(&conf).run().error();
    // The kernel keeps the IPv4 address of a link that goes down.
    Snapshot::of(&[&ns]).same_but(&before, &["127.0.0.1/8"]);
}

fn address_gone(sb: &Sandbox) {
    let ns = sb.container("c1");
    let mut conf = minimal("loopback", "1.0.0");
    conf["prevResult"] = ready(sb, "loopback", "ADD", "1.0.0", &ns).run().result();
    let check = || ready(sb, "loopback", "CHECK", "1.0.0", &ns).conf(&conf).run();
    check().silent();
    ns.sh(&["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"]);
    check().error().names(&["127.0.0.1/8", "lo"]);
}
