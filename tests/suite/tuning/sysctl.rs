//! tuning: sysctls, which of them may be set, and that none is written outside of `net/`.

use std::fs;
use std::path::Path;

use cni_tests::kernel::sysctl;
use cni_tests::{Netns, Sandbox, Snapshot};
use serde_json::{Value, json};

use super::{ARP, FILE, add, call, conf, del};
use crate::case::{Case, common, improved, newer};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("sysctls_are_set", sysctls),
        improved("sysctls_are_put_back", sysctls_back),
        improved("a_sysctl_that_was_empty_is_put_back", empty_back),
        improved("an_interface_may_differ_from_all", unlike_all),
        common("a_sysctl_that_was_never_set", never_set),
        newer("sysctl_there_twice_is_refused", duplicates),
        newer("allow_list", allow_list),
        improved("status_reads_the_allow_list", |sb| {
            sb.needs("tuning", "1.1.0");
            allow("^net\\.core\\.");
            let conf = conf("1.1.0", &json!({"sysctl": {"net.ipv4.ip_forward": "1"}}));
            sb.plugin("tuning", "STATUS").conf(&conf).run().error().names(&["net.ipv4.ip_forward", "allowlist.conf"]);
        }),
        improved("never_a_write_outside_net", outside_net),
        improved("never_through_a_symbolic_link", through_link),
    ]
}

fn sysctls(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let node = sysctl(&sb.node(), "core/somaxconn");
    let keys = json!({"sysctl": {
        "net.ipv4.conf.IFNAME.arp_filter": "1", "net/core/somaxconn": "77", "net.ipv4.ip_local_port_range": "1024 2048"
    }});
    add(sb, &keys, &ns);
    assert_eq!(sysctl(&ns, ARP).as_deref(), Some("1"));
    assert_eq!(sysctl(&ns, "core/somaxconn").as_deref(), Some("77"));
    assert_eq!(sysctl(&ns, "ipv4/ip_local_port_range").as_deref(), Some("1024\t2048"));
    assert_eq!(sysctl(&sb.node(), "core/somaxconn"), node, "the node's own is untouched");
}

fn sysctls_back(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let before = sysctl(&ns, "core/somaxconn");
    let keys = json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.conf.IFNAME.arp_filter": "1"}});
    add(sb, &keys, &ns);
    del(sb, &keys, &ns);
    assert_eq!(sysctl(&ns, "core/somaxconn"), before);
    assert_eq!(sysctl(&ns, ARP).as_deref(), Some("0"));
    assert!(!Path::new(FILE).exists());
}

const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// By DEL, and by an ADD that fails.
fn empty_back(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    assert_eq!(sysctl(&ns, RESERVED).as_deref(), Some(""));
    let keys = json!({"sysctl": {"net.ipv4.ip_local_reserved_ports": "8080,9000"}});
    add(sb, &keys, &ns);
    assert_eq!(sysctl(&ns, RESERVED).as_deref(), Some("8080,9000"));
    let none = json!({"sysctl": {"net.ipv4.ip_local_reserved_ports": ""}});
    add(sb, &none, &ns);
    assert_eq!(sysctl(&ns, RESERVED).as_deref(), Some(""), "nothing can be asked for as well");
    add(sb, &keys, &ns);
    del(sb, &keys, &ns);
    assert_eq!(sysctl(&ns, RESERVED).as_deref(), Some(""));
    let keys = json!({"sysctl": {"net.ipv4.ip_local_reserved_ports": "8080,9000", "net.ipv4.tcp_rmem": "none"}});
    call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&["tcp_rmem"]);
    assert_eq!(sysctl(&ns, RESERVED).as_deref(), Some(""));
}

/// The kernel copies what is set for all to each interface.
fn unlike_all(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    for all in ["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"] {
        for ifname in ["eth0", "ETH0"] {
            let forwarding = format!("net.ipv4.conf.{ifname}.forwarding");
            if ifname == "ETH0" {
                ns.sh(&["ip", "link", "set", "eth0", "name", ifname]);
            }
            let keys = json!({"sysctl": {all: "1", &forwarding: "0", "net.ipv4.conf.all.accept_redirects": "1"}});
            add_on(sb, &keys, &ns, ifname);
            let found = |name: &str| sysctl(&ns, &format!("ipv4/{name}"));
            assert_eq!(found("ip_forward").as_deref(), Some("1"), "{all} {ifname}");
            assert_eq!(found(&format!("conf/{ifname}/forwarding")).as_deref(), Some("0"), "{all} {ifname}");
            assert_eq!(found("conf/all/accept_redirects").as_deref(), Some("1"), "{all} {ifname}");
            ns.sh(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=0"]);
        }
        ns.sh(&["ip", "link", "set", "ETH0", "name", "eth0"]);
    }
}

fn add_on(sb: &Sandbox, keys: &Value, ns: &Netns, ifname: &str) {
    let mut conf = conf("1.0.0", keys);
    conf["prevResult"]["interfaces"][1]["name"] = ifname.into();
    sb.plugin("tuning", "ADD").attach("c1", ifname, ns).conf(&conf).run().result();
}

/// The kernel answers EIO as long as there is no secret.
fn never_set(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({"sysctl": {"net.ipv6.conf.IFNAME.stable_secret": "2001:db8::1"}});
    add(sb, &keys, &ns);
    let secret = sysctl(&ns, "ipv6/conf/eth0/stable_secret");
    assert_eq!(secret.as_deref(), Some("2001:0db8:0000:0000:0000:0000:0000:0001"));
    del(sb, &keys, &ns);
}

fn duplicates(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let text = conf("1.0.0", &json!({"sysctl": {"net.core.somaxconn": "77"}})).to_string();
    let twice = text.replace(r#""net.core.somaxconn":"77""#, r#""net.core.somaxconn":"77","net.core.somaxconn":"78""#);
    assert_ne!(twice, text);
    let error = call(sb, "ADD", &Value::Null, &ns).stdin(&twice).run().error();
    error.names(&["duplicated sysctl keys are not allowed"]);
}

fn allow(list: &str) {
    fs::create_dir_all("/etc/cni/tuning").unwrap();
    fs::write("/etc/cni/tuning/allowlist.conf", list).unwrap();
}

fn allow_list(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    allow("^net\\.core\\.somaxconn$\n\n  ^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$  \n");
    add(sb, &json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.conf.IFNAME.arp_filter": "1"}}), &ns);
    let before = Snapshot::of(&[&ns]);
    let keys = json!({"sysctl": {"net.core.somaxconn": "78", "net.ipv4.ip_forward": "1"}});
    let error = call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error();
    error.names(&["net.ipv4.ip_forward", "not allowed"]);
    Snapshot::of(&[&ns]).same_as(&before);
    assert_eq!(sysctl(&ns, "core/somaxconn").as_deref(), Some("77"), "nothing of it was set");
}

/// Names that could be resolved to this test's file outside of `/proc/sys`.
fn outside_net(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let canary = "/run/cni-test/canary";
    fs::create_dir_all("/run/cni-test").unwrap();
    fs::write(canary, "0").unwrap();
    let up = "net/../../../run/cni-test/canary";
    let keys = [
        canary,
        up,
        "/run//cni-test/canary",
        "net/../../..//run/cni-test/canary",
        "../../run/cni-test/canary",
        "net/ipv4/../../../../run/cni-test/canary",
        "net/./../../../run/cni-test/canary",
        "/proc/sys/net/core/somaxconn",
        "net//core/somaxconn",
        "net/../net/core/somaxconn",
        "net",
        "net/",
        "net/.",
        "",
        "net.core..somaxconn",
        "netx.core.somaxconn",
    ];
    let before = Snapshot::of(&[&sb.node(), &ns]);
    for key in keys {
        for keys in [json!({"sysctl": {key: "1"}}), json!({"args": {"cni": {"sysctl": {key: "1"}}}})] {
            call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[key]);
        }
    }
    assert_eq!(fs::read_to_string(canary).unwrap(), "0");
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

/// procfs has no links below `/proc/sys`; a mount over it may.
fn through_link(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let canary = "/run/cni-test/canary";
    fs::create_dir_all("/run/cni-test").unwrap();
    fs::write(canary, "0").unwrap();
    sb.node().sh(&["mount", "-t", "tmpfs", "tmpfs", "/proc/sys/net"]);
    std::os::unix::fs::symlink(canary, "/proc/sys/net/last").unwrap();
    std::os::unix::fs::symlink("/run/cni-test", "/proc/sys/net/way").unwrap();
    for key in ["net.last", "net.way.canary"] {
        let keys = json!({"sysctl": {key: "1"}});
        call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[&key.replace('.', "/")]);
    }
    assert_eq!(fs::read_to_string(canary).unwrap(), "0");
}
