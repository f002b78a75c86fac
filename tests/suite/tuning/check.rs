//! tuning: CHECK names what differs, and only that.

use cni_tests::Sandbox;
use cni_tests::kernel::set_sysctl;
use serde_json::json;

use super::{ARP, add, call, conf};
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("passes_and_names_what_differs", check),
        improved("ignores_what_is_not_configured", check_ignores),
        improved("after_the_interface_went", |sb| {
            let ns = sb.container_with_eth0();
            let conf = conf("1.0.0", &json!({"mtu": 1400}));
            ns.sh(&["ip", "link", "del", "eth0"]);
            call(sb, "CHECK", &conf, &ns).run().error().names(&["eth0"]);
        }),
    ]
}

fn check(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "mac": "02:00:00:00:00:99", "mtu": 1400, "promisc": true,
        "allmulti": true
    });
    add(sb, &keys, &ns);
    let check = || call(sb, "CHECK", &conf("1.0.0", &keys), &ns).run();
    check().silent();
    let spoilt: [(&[&str], &[&str], &[&str]); 4] = [
        (&["address", "02:00:00:00:00:98"], &["address", "02:00:00:00:00:99"], &["02:00:00:00:00:98"]),
        (&["mtu", "1300"], &["mtu", "1400"], &["1300", "1400"]),
        (&["promisc", "off"], &["promisc", "on"], &["promisc"]),
        (&["allmulticast", "off"], &["allmulticast", "on"], &["multi"]),
    ];
    for (spoil, mend, named) in spoilt {
        ns.sh(&[&["ip", "link", "set", "eth0"], spoil].concat());
        check().error().names(named);
        ns.sh(&[&["ip", "link", "set", "eth0"], mend].concat());
        check().silent();
    }
    set_sysctl(&ns, ARP, "0");
    check().error().names(&["arp_filter", "0", "1"]);
}

/// Spaces for the kernel's tabs, promiscuous mode that another program has set, and a sysctl that can be written only.
fn check_ignores(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({"sysctl": {"net.ipv4.ip_local_port_range": "1024 2048", "net.ipv4.route.flush": "1"}});
    add(sb, &keys, &ns);
    ns.sh(&["ip", "link", "set", "eth0", "promisc", "on"]);
    call(sb, "CHECK", &conf("1.0.0", &keys), &ns).run().silent();
}
