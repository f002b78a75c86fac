//! host-local: requested addresses, DEL, and files that others left.

use std::fs;
use std::time::{Duration, Instant};

use cni_tests::{Sandbox, conf};
use serde_json::{Value, json};

use crate::case::{Case, common, improved, newer};
use cni_tests::host_local::{add, added, call, file, names, with};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("requested_by_cni_args", by_cni_args),
        common("requested_by_args", by_args),
        common("requested_by_runtime_config", by_runtime_config),
        newer("requested_with_prefix", with_prefix),
        common("requested_outside_all_ranges", outside),
        common("requested_gateway", gateway),
        common("requested_and_taken", taken),
        improved("requested_and_taken_names_the_holder", holder),
        improved("requested_outside_names_the_ranges", outside_explained),
        common("failed_second_set_releases_the_first", second_set),
        common("bad_cni_args", bad_args),
        common("data_dir", data_dir),
        common("a_disk_with_room_for_the_reservations_only", small_disk),
        common("del_is_by_container_and_interface", del),
        common("del_removes_addresses_outside_the_ranges", del_outside),
        common("files_with_only_the_id_are_honoured", id_only),
        common("line_feed_alone_is_another_owner", line_feed),
        common("files_overwritten_in_place_are_the_new_holders", overwritten),
        improved("empty_files_are_no_reservation", empty_file),
        improved("exhaustion_by_empty_files_is_none", empty_file_exhaustion),
        improved("what_stands_in_a_hint_s_place_stops_nothing", planted_hint),
        improved("a_resolv_conf_that_is_no_file_is_refused", resolv_conf),
        improved("status_says_that_the_directory_cannot_be_made", no_directory),
        improved("thousands_of_pools", pools),
        improved("thousands_of_ranges_in_a_pool", ranges),
    ]
}

fn range() -> Value {
    conf::host_local("1.0.0", &["10.1.2.0/24"])
}

fn requesting(ips: &Value) -> Value {
    let mut conf = range();
    conf["runtimeConfig"] = json!({"ips": ips});
    conf
}

fn by_cni_args(sb: &Sandbox) {
    let add = |id: &str, args: &str| call(sb, "ADD", id, &range()).env("CNI_ARGS", args).run().result();
    assert_eq!(add("c1", "IP=10.1.2.50")["ips"][0]["address"], "10.1.2.50/24");
    assert_eq!(fs::read(file("last_reserved_ip.0")).unwrap(), b"10.1.2.50");
    assert_eq!(add("c2", "IgnoreUnknown=1;X=y;IP=10.1.2.60")["ips"][0]["address"], "10.1.2.60/24");
    assert_eq!(add("c3", "IP=")["ips"][0]["address"], "10.1.2.61/24", "empty is no request");
}

fn by_args(sb: &Sandbox) {
    let mut conf = range();
    conf["args"] = json!({"cni": {"ips": ["10.1.2.50"]}});
    assert_eq!(added(sb, "c1", &conf), ["10.1.2.50/24"]);
}

fn by_runtime_config(sb: &Sandbox) {
    let mut conf = conf::host_local("1.0.0", &["10.1.2.0/24", "fd00:5::/64"]);
    conf["runtimeConfig"] = json!({"ips": ["10.1.2.50", "fd00:5::50"]});
    assert_eq!(added(sb, "c1", &conf), ["10.1.2.50/24", "fd00:5::50/64"]);
}

fn with_prefix(sb: &Sandbox) {
    assert_eq!(added(sb, "c1", &requesting(&json!(["10.1.2.50/16"]))), ["10.1.2.50/24"], "the subnet's prefix counts");
}

fn outside(sb: &Sandbox) {
    add(sb, "c1", &requesting(&json!(["10.9.9.9"]))).error().names(&["10.9.9.9"]);
    assert!(!names().iter().any(|n| n.starts_with("10.")), "{:?}", names());
}

fn outside_explained(sb: &Sandbox) {
    add(sb, "c1", &requesting(&json!(["10.9.9.9"]))).error().names(&["10.9.9.9", "10.1.2.1", "10.1.2.254"]);
}

fn gateway(sb: &Sandbox) {
    add(sb, "c1", &requesting(&json!(["10.1.2.1"]))).error().names(&["10.1.2.1", "gateway"]);
    assert!(!names().contains(&"10.1.2.1".to_owned()));
}

fn taken(sb: &Sandbox) {
    added(sb, "c1", &requesting(&json!(["10.1.2.50"])));
    add(sb, "c2", &requesting(&json!(["10.1.2.50"]))).error().names(&["10.1.2.50"]);
    assert_eq!(fs::read(file("10.1.2.50")).unwrap(), b"c1\r\neth0");
}

fn holder(sb: &Sandbox) {
    added(sb, "holder-1", &requesting(&json!(["10.1.2.50"])));
    let error = add(sb, "c2", &requesting(&json!(["10.1.2.50"]))).error();
    error.names(&["10.1.2.50", "holder-1", "eth0"]);
}

fn second_set(sb: &Sandbox) {
    let mut conf = conf::host_local("1.0.0", &["10.1.2.0/24", "10.1.3.0/30"]);
    added(sb, "c1", &conf);
    let before: Vec<_> = names();
    add(sb, "c2", &conf).error().names(&["10.1.3.1"]);
    assert_eq!(names(), before, "10.1.2.3 isn't kept");
    conf["ipam"]["ranges"] = json!([[{"subnet": "10.1.2.0/24"}]]);
    added(sb, "c2", &conf);
}

fn bad_args(sb: &Sandbox) {
    for args in ["IP=10.1.2.300", "FOO=bar", "IP", "IP=10.1.2.5;", "IP=a=b", "ip=10.1.2.5"] {
        let error = call(sb, "ADD", "c1", &range()).env("CNI_ARGS", args).run().error();
        assert_eq!(error.code, 999, "{args}: {error:?}");
    }
    assert!(!names().iter().any(|n| n.starts_with("10.")), "{:?}", names());
}

/// In pages of a tmpfs: two reservations and the last one given out. What else there may be must not need their room.
fn small_disk(sb: &Sandbox) {
    let dir = "/run/cni-test/small";
    fs::create_dir_all(dir).unwrap();
    let mut conf = range();
    conf["ipam"]["dataDir"] = dir.into();
    for pages in 3..8 {
        let size = format!("size={}k", pages * 4);
        sb.node().sh(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", dir]);
        assert_eq!(added(sb, "c1", &conf), ["10.1.2.2/24"], "{size}");
        assert_eq!(added(sb, "c2", &conf), ["10.1.2.3/24"], "{size}");
        for id in ["c1", "c2"] {
            call(sb, "DEL", id, &conf).run().silent();
        }
        let left: Vec<_> = fs::read_dir(format!("{dir}/testnet")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("10.")), "{left:?}");
        sb.node().sh(&["umount", dir]);
    }
}

fn data_dir(sb: &Sandbox) {
    let mut conf = range();
    conf["ipam"]["dataDir"] = "/run/elsewhere".into();
    added(sb, "c1", &conf);
    assert_eq!(fs::read("/run/elsewhere/testnet/10.1.2.2").unwrap(), b"c1\r\neth0");
    assert!(names().is_empty());
    call(sb, "DEL", "c1", &conf).run().silent();
    assert!(fs::metadata("/run/elsewhere/testnet/10.1.2.2").is_err());
}

fn del(sb: &Sandbox) {
    let conf = conf::host_local("1.0.0", &["10.1.2.0/24", "fd00:5::/64"]);
    added(sb, "c1", &conf);
    added(sb, "c2", &conf);
    call(sb, "DEL", "c1", &conf).names("c1", "eth1").run().silent();
    assert!(file("10.1.2.2").exists(), "another interface's DEL");
    for _ in 0..2 {
        call(sb, "DEL", "c1", &conf).without("CNI_NETNS").run().silent();
        assert_eq!(names(), ["10.1.2.3", "fd00:5::3", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    }
    call(sb, "CHECK", "c2", &conf).run().silent();
    call(sb, "CHECK", "c1", &conf).run().error();
}

/// The configuration may have changed since ADD.
fn del_outside(sb: &Sandbox) {
    added(sb, "c1", &range());
    call(sb, "DEL", "c1", &conf::host_local("1.0.0", &["10.200.0.0/24"])).run().silent();
    assert_eq!(names(), ["last_reserved_ip.0", "lock"]);
}

/// Releases before 0.8.0 wrote just the container's ID.
fn id_only(sb: &Sandbox) {
    added(sb, "c9", &range());
    fs::write(file("10.1.2.7"), "c1").unwrap();
    call(sb, "CHECK", "c1", &range()).run().silent();
    add(sb, "c1", &range()).error().names(&["10.1.2.7", "c1"]);
    call(sb, "DEL", "c1", &range()).run().silent();
    assert!(!file("10.1.2.7").exists());
}

fn line_feed(sb: &Sandbox) {
    added(sb, "c9", &range());
    fs::write(file("10.1.2.7"), "c1\neth0").unwrap();
    call(sb, "DEL", "c1", &range()).run().silent();
    assert!(file("10.1.2.7").exists(), "not ours to remove");
    add(sb, "c2", &requesting(&json!(["10.1.2.7"]))).error();
}

/// The directory's modification time does not change.
fn overwritten(sb: &Sandbox) {
    added(sb, "c1", &range());
    added(sb, "c2", &range());
    fs::write(file("10.1.2.2"), "c9\r\neth0").unwrap();
    let with_result = |address: &str| {
        let mut conf = range();
        conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": address}]});
        conf
    };
    call(sb, "CHECK", "c9", &with_result("10.1.2.2/24")).run().silent();
    call(sb, "CHECK", "c1", &with_result("10.1.2.2/24")).run().error();
    call(sb, "DEL", "c1", &with_result("10.1.2.2/24")).run().silent();
    assert!(file("10.1.2.2").exists(), "another owner's by now");
    fs::write(file("10.1.2.3"), "c9\r\neth0").unwrap();
    call(sb, "DEL", "c9", &with_result("10.1.2.3/24")).run().silent();
    assert_eq!(names(), ["last_reserved_ip.0", "lock"]);
}

fn empty_file(sb: &Sandbox) {
    added(sb, "c9", &range());
    fs::write(file("10.1.2.7"), "").unwrap();
    assert_eq!(added(sb, "c1", &requesting(&json!(["10.1.2.7"]))), ["10.1.2.7/24"]);
    assert_eq!(fs::read(file("10.1.2.7")).unwrap(), b"c1\r\neth0");
}

fn empty_file_exhaustion(sb: &Sandbox) {
    let conf = with("1.0.0", &json!({"subnet": "10.1.2.0/30"}));
    fs::create_dir_all(file("")).unwrap();
    fs::write(file("10.1.2.2"), "").unwrap();
    assert_eq!(added(sb, "c1", &conf), ["10.1.2.2/30"]);
}

/// The last reserved address is only a hint: ADD and STATUS succeed without it.
fn planted_hint(sb: &Sandbox) {
    sb.needs("host-local", "1.1.0");
    let conf = conf::host_local("1.1.0", &["10.1.2.0/24"]);
    let hint = file("last_reserved_ip.0");
    let hint = hint.to_str().unwrap();
    let rows: [&[&str]; 6] = [
        &["mkfifo", hint],
        &["mknod", hint, "c", "1", "5"],
        &["ln", "-s", "/run/victim", hint],
        &["truncate", "-s", "300M", hint],
        &["mkdir", hint],
        &["mkdir", "-p", &format!("{hint}/not-empty")],
    ];
    fs::write("/run/victim", "10.1.2.9").unwrap();
    for (n, row) in rows.iter().enumerate() {
        let _ = fs::remove_dir_all("/var/lib/cni");
        fs::create_dir_all(file("")).unwrap();
        sb.node().sh(row);
        sb.plugin("host-local", "STATUS").conf(&conf).run().silent();
        let added = call(sb, "ADD", "c1", &conf).run();
        assert_eq!(added.result()["ips"][0]["address"], "10.1.2.2/24", "{row:?}");
        // Only where an operator has to do something.
        assert_eq!(added.stderr.contains("last_reserved_ip.0"), n == rows.len() - 1, "{row:?}: {added}");
        call(sb, "CHECK", "c1", &conf).run().silent();
        call(sb, "DEL", "c1", &conf).run().silent();
        assert_eq!(fs::read_to_string("/run/victim").unwrap(), "10.1.2.9");
    }
}

fn resolv_conf(sb: &Sandbox) {
    let path = "/run/resolv.conf";
    let conf = with("1.0.0", &json!({"subnet": "10.1.2.0/24", "resolvConf": path}));
    let rows: [&[&str]; 3] = [&["mkfifo", path], &["ln", "-s", "/dev/zero", path], &["truncate", "-s", "300M", path]];
    for row in rows {
        sb.node().sh(row);
        add(sb, "c1", &conf).error().names(&[path]);
        call(sb, "DEL", "c1", &conf).run().silent();
        fs::remove_file(path).unwrap();
    }
}

/// Permissions do not show it: root may write anywhere, and there still are places where nothing can be made.
fn no_directory(sb: &Sandbox) {
    sb.needs("host-local", "1.1.0");
    fs::write("/run/victim", "").unwrap();
    let long = format!("/run/{}", "d".repeat(256));
    for dir in ["/run/victim", "/run/victim/below", "/sys/none", "/proc/none", &long] {
        let mut conf = conf::host_local("1.1.0", &["10.1.2.0/24"]);
        conf["ipam"]["dataDir"] = dir.into();
        let error = call(sb, "STATUS", "c1", &conf).run().error();
        assert_eq!(error.code, 50, "{error:?}");
        error.names(&[dir]);
        add(sb, "c1", &conf).error().names(&[dir]);
        call(sb, "DEL", "c1", &conf).run().silent();
        conf["cni.dev/valid-attachments"] = json!([]);
        call(sb, "GC", "c1", &conf).run().silent();
    }
}

fn subnets(count: u32) -> Vec<String> {
    (0..count).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect()
}

/// What takes seconds where each is compared with each.
fn pools(sb: &Sandbox) {
    let subnets = subnets(5000);
    let mut conf = conf::host_local("1.0.0", &subnets.iter().map(String::as_str).collect::<Vec<_>>());
    let started = Instant::now();
    assert_eq!(added(sb, "c1", &conf).len(), 5000);
    let taken: Vec<Value> = subnets.iter().map(|subnet| subnet.replace(".0/24", ".9").into()).collect();
    conf["runtimeConfig"] = json!({"ips": taken});
    assert_eq!(added(sb, "c2", &conf)[4999], "10.19.135.9/24");
    conf["runtimeConfig"] = json!({});
    // The last pool is full: all the others are given back.
    conf["ipam"]["ranges"][4999] =
        json!([{"subnet": "10.19.135.0/24", "rangeStart": "10.19.135.9", "rangeEnd": "10.19.135.9"}]);
    add(sb, "c3", &conf).error().names(&["10.19.135.9"]);
    for id in ["c1", "c2", "c3"] {
        call(sb, "DEL", id, &conf).run().silent();
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(!names().iter().any(|name| name.starts_with("10.")));
}

fn ranges(sb: &Sandbox) {
    let set: Vec<Value> = subnets(20_000).iter().map(|subnet| json!({"subnet": subnet})).collect();
    let conf = with("1.0.0", &json!({"ranges": [set]}));
    let started = Instant::now();
    assert_eq!(added(sb, "c1", &conf), ["10.0.0.2/24"]);
    call(sb, "CHECK", "c1", &conf).run().silent();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
