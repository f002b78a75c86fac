//! host-local: which address, and what is written down about it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cni_tests::host_local::{add, added, call, file, names, with};
use cni_tests::parallel::at_once;
use cni_tests::{Sandbox, conf};
use serde_json::json;

use crate::case::{Case, common, newer};

/// All cases of this subject; more in `host_local_requests` and `host_local_state`.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("usable_addresses_of_a_29", usable),
        common("exhaustion_names_the_range", exhaustion),
        common("round_robin_after_the_last", round_robin),
        common("range_sets_give_one_address_each", sets),
        common("a_set_spills_over_to_its_next_range", spill_over),
        common("legacy_single_range", legacy),
        common("range_start_end_and_gateway", bounds),
        common("gateway_may_be_outside_the_range", foreign_gateway),
        common("ip_ranges_capability_comes_first", capability),
        common("routes_are_copied", routes),
        common("resolv_conf_becomes_dns", resolv_conf),
        common("duplicate_add_is_refused", duplicate),
        common("two_interfaces_of_a_container", two_interfaces),
        common("thirty_at_once_get_thirty_addresses", parallel),
        common("files_byte_for_byte", files),
        newer("files_are_private", private_files),
    ]
}

fn usable(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/29"]);
    let got: Vec<_> = (0..5).flat_map(|n| added(sb, &format!("c{n}"), &conf)).collect();
    assert_eq!(got, ["10.1.2.2/29", "10.1.2.3/29", "10.1.2.4/29", "10.1.2.5/29", "10.1.2.6/29"]);
    let conf = conf::host_local("1.0.0", &["fd00:5::/126"]);
    let got: Vec<_> = (5..7).flat_map(|n| added(sb, &format!("c{n}"), &conf)).collect();
    assert_eq!(got, ["fd00:5::2/126", "fd00:5::3/126"], "IPv6 has no broadcast address");
}

fn exhaustion(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/29"]);
    (0..5).for_each(|n| drop(added(sb, &format!("c{n}"), &conf)));
    let before = names();
    let error = add(sb, "c9", &conf).error();
    assert_eq!(error.code, 999, "{error:?}");
    error.names(&["10.1.2.1", "10.1.2.6"]);
    assert_eq!(names(), before);
}

fn round_robin(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/29"]);
    (0..3).for_each(|n| drop(added(sb, &format!("c{n}"), &conf)));
    call(sb, "DEL", "c0", &conf).run().silent();
    assert_eq!(added(sb, "c3", &conf), ["10.1.2.5/29"], "an address just freed is not the next");
    assert_eq!(added(sb, "c4", &conf), ["10.1.2.6/29"]);
    assert_eq!(added(sb, "c5", &conf), ["10.1.2.2/29"], "after the last comes the first again");
}

fn sets(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/24", "fd00:5::/64", "10.1.3.0/24"]);
    let result = add(sb, "c1", &conf).result();
    let expected = json!([
        {"address": "10.1.2.2/24", "gateway": "10.1.2.1"},
        {"address": "fd00:5::2/64", "gateway": "fd00:5::1"},
        {"address": "10.1.3.2/24", "gateway": "10.1.3.1"}
    ]);
    assert_eq!(result["ips"], expected);
}

fn spill_over(sb: &Sandbox) {
    let conf = with("1.0.0", &json!({"ranges": [[{"subnet": "10.1.2.0/30"}, {"subnet": "10.1.3.0/30"}]]}));
    assert_eq!(added(sb, "c1", &conf), ["10.1.2.2/30"]);
    assert_eq!(added(sb, "c2", &conf), ["10.1.3.2/30"]);
    add(sb, "c3", &conf).error().names(&["10.1.2.1", "10.1.3.2"]);
}

fn legacy(sb: &Sandbox) {
    let ipam = json!({
        "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.20", "gateway": "10.1.2.254",
        "ranges": [[{"subnet": "fd00:5::/64"}]]
    });
    let result = add(sb, "c1", &with("1.0.0", &ipam)).result();
    let expected = json!([
        {"address": "10.1.2.10/24", "gateway": "10.1.2.254"}, {"address": "fd00:5::2/64", "gateway": "fd00:5::1"}
    ]);
    assert_eq!(result["ips"], expected);
}

fn bounds(sb: &Sandbox) {
    let range = json!({
        "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.5", "rangeEnd": "10.1.2.7", "gateway": "10.1.2.6"
    });
    let conf = with("1.0.0", &json!({"ranges": [[range]]}));
    assert_eq!(added(sb, "c1", &conf), ["10.1.2.5/24"]);
    assert_eq!(added(sb, "c2", &conf), ["10.1.2.7/24"], "no container gets the gateway's address");
    add(sb, "c3", &conf).error().names(&["10.1.2.5", "10.1.2.7"]);
}

fn foreign_gateway(sb: &Sandbox) {
    let conf = with("1.0.0", &json!({"ranges": [[{"subnet": "10.1.2.0/24", "gateway": "10.9.9.9"}]]}));
    let result = add(sb, "c1", &conf).result();
    assert_eq!(result["ips"], json!([{"address": "10.1.2.1/24", "gateway": "10.9.9.9"}]));
}

fn capability(sb: &Sandbox) {
    let mut conf = conf::host_local("1.0.0", &["10.1.2.0/24"]);
    conf["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.5.0.0/24", "rangeStart": "10.5.0.9"}]]});
    assert_eq!(added(sb, "c1", &conf), ["10.5.0.9/24", "10.1.2.2/24"]);
    assert_eq!(fs::read_to_string(file("last_reserved_ip.0")).unwrap(), "10.5.0.9");
    assert_eq!(fs::read_to_string(file("last_reserved_ip.1")).unwrap(), "10.1.2.2");
}

fn routes(sb: &Sandbox) {
    let mut conf = conf::host_local("1.0.0", &["10.1.2.0/24"]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16", "gw": "10.1.2.77"}, {"dst": "fd00::/8"}]);
    conf["ipam"]["routes"] = routes.clone();
    assert_eq!(add(sb, "c1", &conf).result()["routes"], routes);
}

fn resolv_conf(sb: &Sandbox) {
    let text = "# comment\n; another\n\nnameserver 10.0.0.53\nnameserver fd00::53\n domain a.example \ndomain b.example\n\
                search x.example y.example\nsearch z.example\noptions ndots:2 edns0\nnameserver\n";
    fs::write("/run/resolv", text).unwrap();
    let mut conf = conf::host_local("1.0.0", &["10.1.2.0/24"]);
    conf["ipam"]["resolvConf"] = "/run/resolv".into();
    let expected = json!({
        "nameservers": ["10.0.0.53", "fd00::53"], "domain": "b.example",
        "search": ["x.example", "y.example", "z.example"], "options": ["ndots:2", "edns0"]
    });
    assert_eq!(add(sb, "c1", &conf).result()["dns"], expected);
    conf["ipam"]["resolvConf"] = "/run/missing".into();
    add(sb, "c2", &conf).error().names(&["/run/missing"]);
    assert!(!names().contains(&"10.1.2.3".to_owned()), "nothing is reserved by a failed ADD: {:?}", names());
}

fn duplicate(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/24"]);
    added(sb, "c1", &conf);
    let before = fs::read(file("10.1.2.2")).unwrap();
    add(sb, "c1", &conf).error().names(&["10.1.2.2", "c1"]);
    assert_eq!(names(), ["10.1.2.2", "last_reserved_ip.0", "lock"]);
    assert_eq!(fs::read(file("10.1.2.2")).unwrap(), before);
}

fn two_interfaces(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/24"]);
    added(sb, "c1", &conf);
    call(sb, "ADD", "c1", &conf).names("c1", "eth1").run().result();
    call(sb, "DEL", "c1", &conf).run().silent();
    assert_eq!(names(), ["10.1.2.3", "last_reserved_ip.0", "lock"]);
    assert_eq!(fs::read(file("10.1.2.3")).unwrap(), b"c1\r\neth1");
}

fn parallel(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/26", "fd00:5::/64"]);
    let mut got = at_once(30, |n| added(sb, &format!("c{n}"), &conf)).concat();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 60, "30 distinct addresses of each family: {got:?}");
    assert_eq!(names().len(), 60 + 3, "one file each, the lock and the two last ones: {:?}", names());
}

fn files(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/24", "fd00:5::/64"]);
    added(sb, "c1", &conf);
    assert_eq!(names(), ["10.1.2.2", "fd00:5::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    assert_eq!(fs::read(file("10.1.2.2")).unwrap(), b"c1\r\neth0");
    assert_eq!(fs::read(file("fd00:5::2")).unwrap(), b"c1\r\neth0");
    assert_eq!(fs::read(file("last_reserved_ip.0")).unwrap(), b"10.1.2.2");
    assert_eq!(fs::read(file("last_reserved_ip.1")).unwrap(), b"fd00:5::2");
    assert_eq!(fs::read(file("lock")).unwrap(), b"");
}

fn private_files(sb: &Sandbox) {
    added(sb, "c1", &conf::host_local("1.0.0", &["10.1.2.0/24"]));
    let mode = |name: &str| fs::metadata(file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("10.1.2.2"), 0o600);
    assert_eq!(mode("last_reserved_ip.0"), 0o600);
    assert_eq!(mode(""), 0o755);
    assert_eq!(mode("lock") & 0o007, 0, "other users may not open the lock");
}
