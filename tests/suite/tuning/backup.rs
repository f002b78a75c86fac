//! tuning: what was before is written down, and put back by DEL or when ADD fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cni_tests::kernel::{has_flag, sysctl};
use cni_tests::{Call, Outcome, Sandbox};
use serde_json::{Value, json};

use super::{FILE, add, call, conf, del, eth0};
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("backup_has_what_changes_and_root_alone_reads_it", backup),
        common("data_dir", data_dir),
        common("a_backup_of_the_go_plugin_is_put_back", go_backup),
        improved("a_failed_add_takes_everything_back", rollback),
        improved("a_repeated_add_keeps_the_first_backup", repeat),
        improved("two_in_a_chain_put_back_what_was_before_both", two_in_a_chain),
        improved("a_stale_backup_is_not_put_back", stale),
        improved("an_interface_that_was_replaced_is_left_alone", replaced),
        common("del_twice_and_without_anything", del_twice),
        improved("del_without_namespace_removes_the_backup", del_without_namespace),
        improved("del_with_a_broken_backup", broken_backup),
        improved("gc_removes_backups_of_its_own_network_only", gc),
        improved("gc_goes_on_past_what_is_no_backup", gc_past_others),
        improved("what_stands_in_a_backup_s_place_is_not_followed", planted),
        improved("an_allow_list_that_is_no_file_is_refused", allow_list),
        improved("del_under_another_network_s_name_puts_back", renamed),
        improved("gc_finds_the_backup_of_a_long_id", long_id),
        improved("status_says_that_no_backup_can_be_written", status),
    ]
}

fn backup(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let before = eth0(&ns);
    add(sb, &json!({"mtu": 1400, "allmulti": true}), &ns);
    let text = fs::read_to_string(FILE).unwrap();
    assert!(text.starts_with("{\n \"") && text.contains("\n \"mtu\": 1500"), "as the Go plugin writes it: {text}");
    let saved: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&saved["mtu"], &saved["allmulti"]), (&before["mtu"], &json!(false)));
    for absent in ["mac", "promisc", "txQLen"] {
        assert!(saved[absent].is_null(), "{absent} isn't changed: {text}");
    }
    assert_eq!(fs::metadata(FILE).unwrap().permissions().mode() & 0o777, 0o600);
    let dir = fs::metadata("/run/cni/tuning").unwrap().permissions().mode();
    assert_eq!(dir & 0o077, 0, "only root may read it: {dir:o}");
    assert_eq!(fs::read_dir("/run/cni/tuning").unwrap().count(), 1);
}

fn data_dir(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({"mtu": 1400, "dataDir": "/run/elsewhere/backups"});
    add(sb, &keys, &ns);
    assert!(Path::new("/run/elsewhere/backups/c1_eth0.json").exists() && !Path::new(FILE).exists());
    del(sb, &keys, &ns);
    assert!(!Path::new("/run/elsewhere/backups/c1_eth0.json").exists());
    assert_eq!(eth0(&ns)["mtu"], 1500);
}

/// Byte for byte what tuning 1.1.1 writes for these attributes.
fn go_backup(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    ns.sh(&["ip", "link", "set", "eth0", "promisc", "on"]);
    fs::create_dir_all("/run/cni/tuning").unwrap();
    fs::write(FILE, "{\n \"mac\": \"02:00:00:00:00:42\",\n \"promisc\": false,\n \"mtu\": 1399\n}").unwrap();
    del(sb, &json!({}), &ns);
    let link = eth0(&ns);
    assert_eq!((&link["address"], &link["mtu"]), (&json!("02:00:00:00:00:42"), &json!(1399)));
    assert!(!has_flag(&link, "PROMISC") && !Path::new(FILE).exists());
}

fn rollback(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let before = (sysctl(&ns, "core/somaxconn"), eth0(&ns));
    let good = json!({"net.core.somaxconn": "77"});
    let rows = [
        // The kernel allows a veth no more than 65535.
        (json!({"sysctl": good, "mac": "02:00:00:00:00:99", "mtu": 1_000_000}), "1000000"),
        (
            json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.ip_local_port_range": "x"}, "mtu": 1400}),
            "port_range",
        ),
        (json!({"sysctl": {"net.core.somaxconn": "77", "net.ipv4.nope": "1"}, "mtu": 1400}), "net/ipv4/nope"),
        (json!({"sysctl": good, "mac": "01:00:5e:00:00:01"}), "01:00:5e:00:00:01"),
    ];
    for (keys, named) in rows {
        call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[named]);
        assert_eq!((sysctl(&ns, "core/somaxconn"), eth0(&ns)), before, "{keys}");
        assert!(!Path::new(FILE).exists());
    }
    // The last moment: the result cannot be expressed at this version.
    let mut conf = conf("0.2.0", &json!({"mtu": 1400}));
    conf["prevResult"] = json!({"cniVersion": "0.2.0"});
    call(sb, "ADD", &conf, &ns).run().error();
    assert_eq!(eth0(&ns)["mtu"], 1500);
    assert!(!Path::new(FILE).exists());
    // Without the interface.
    ns.sh(&["ip", "link", "set", "eth0", "name", "other"]);
    let keys = json!({"mtu": 1400});
    call(sb, "ADD", &self::conf("1.0.0", &keys), &ns).run().error().names(&["eth0"]);
}

fn repeat(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let before = (sysctl(&ns, "core/somaxconn"), eth0(&ns));
    let keys = json!({"sysctl": {"net.core.somaxconn": "77"}, "mtu": 1400});
    let first = add(sb, &keys, &ns);
    assert_eq!(add(sb, &keys, &ns), first);
    del(sb, &keys, &ns);
    assert_eq!((sysctl(&ns, "core/somaxconn"), eth0(&ns)), before);
}

fn two_in_a_chain(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let before = eth0(&ns);
    add(sb, &json!({"mtu": 1400, "allmulti": true}), &ns);
    // The second fails: what the first has done and written down stays.
    let bad = json!({"mtu": 1300, "mac": "01:00:5e:00:00:01"});
    call(sb, "ADD", &conf("1.0.0", &bad), &ns).run().error();
    assert_eq!(eth0(&ns)["mtu"], 1400);
    add(sb, &json!({"mtu": 1300, "mac": "02:00:00:00:00:99"}), &ns);
    del(sb, &json!({}), &ns);
    del(sb, &json!({}), &ns);
    assert_eq!(eth0(&ns), before);
}

/// The container came back with the same name and another namespace, without a DEL between.
fn stale(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    add(sb, &json!({"mac": "02:00:00:00:00:99"}), &ns);
    ns.delete();
    let ns = sb.container("again");
    sb.node().sh(&["ip", "link", "add", "host1", "type", "veth", "peer", "name", "eth0", "netns", "again"]);
    let before = eth0(&ns);
    add(sb, &json!({"mtu": 1400}), &ns);
    del(sb, &json!({}), &ns);
    assert_eq!(eth0(&ns), before, "the old interface's MAC isn't this one's");
}

/// Another interface under the same name and index, in the same namespace, or one that has its inode.
fn replaced(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({"mtu": 1400, "mac": "02:00:00:00:00:99"});
    add(sb, &keys, &ns);
    let index = eth0(&ns)["ifindex"].to_string();
    ns.sh(&["ip", "link", "del", "eth0"]);
    // The other ends' indexes count on: one between, so that the new one isn't by chance the old one's.
    ns.sh(&["ip", "link", "add", "between", "type", "bridge"]);
    ns.sh(&["ip", "link", "add", "eth0", "index", &index, "type", "veth", "peer", "name", "other"]);
    let before = eth0(&ns);
    del(sb, &keys, &ns);
    assert_eq!(eth0(&ns), before, "the old interface's attributes aren't this one's");
}

fn del_twice(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({"mtu": 1400});
    del(sb, &keys, &ns);
    add(sb, &keys, &ns);
    (0..2).for_each(|_| del(sb, &keys, &ns));
    assert_eq!(eth0(&ns)["mtu"], 1500);
}

fn del_without_namespace(sb: &Sandbox) {
    let keys = json!({"sysctl": {"net.core.somaxconn": "77"}, "mtu": 1400});
    let ns = sb.container_with_eth0();
    type End = fn(Call) -> Call;
    let ends: [End; 2] = [|call| call.without("CNI_NETNS"), |call| call.env("CNI_NETNS", "/run/netns/never-was")];
    for end in ends {
        add(sb, &keys, &ns);
        end(call(sb, "DEL", &conf("1.0.0", &keys), &ns)).run().silent();
        assert!(!Path::new(FILE).exists());
    }
    add(sb, &keys, &ns);
    ns.sh(&["ip", "link", "del", "eth0"]);
    del(sb, &keys, &ns);
    assert!(!Path::new(FILE).exists());
}

fn broken_backup(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    fs::create_dir_all("/run/cni/tuning").unwrap();
    for text in ["", "{", "[]", r#"{"mtu": "x"}"#] {
        fs::write(FILE, text).unwrap();
        del(sb, &json!({}), &ns);
        assert!(!Path::new(FILE).exists());
    }
    // A configuration that ADD would refuse.
    add(sb, &json!({"mtu": 1400}), &ns);
    del(sb, &json!({"mtu": "x", "sysctl": 3}), &ns);
    assert_eq!(eth0(&ns)["mtu"], 1500);
}

/// Files that a plugin must not follow, wait for or read to the end; each with the command that creates it at a path.
const OTHERS: [(&str, &[&str]); 6] = [
    ("fifo", &["mkfifo", "PATH"]),
    ("endless", &["mknod", "PATH", "c", "1", "5"]),
    ("link", &["ln", "-s", VICTIM, "PATH"]),
    ("link_to_endless", &["ln", "-s", "/dev/zero", "PATH"]),
    ("huge", &["truncate", "-s", "300M", "PATH"]),
    ("directory", &["mkdir", "PATH"]),
];
const VICTIM: &str = "/run/victim";
const DIR: &str = "/run/cni/tuning";

fn plant(sb: &Sandbox, how: &[&str], path: &str) {
    let words: Vec<&str> = how.iter().map(|word| if *word == "PATH" { path } else { word }).collect();
    sb.node().sh(&words);
}

fn stale_backups() {
    for id in ["a", "m", "z"] {
        fs::write(format!("{DIR}/{id}_eth0.json"), r#"{"network": "testnet", "mtu": 1500}"#).unwrap();
    }
}

fn collect(sb: &Sandbox, valid: Value) -> Outcome {
    let mut conf = conf("1.1.0", &json!({}));
    conf["cni.dev/valid-attachments"] = valid;
    sb.plugin("tuning", "GC").conf(&conf).run()
}

fn gc_past_others(sb: &Sandbox) {
    sb.needs("tuning", "1.1.0");
    fs::create_dir_all(DIR).unwrap();
    fs::write(VICTIM, r#"{"network": "testnet"}"#).unwrap();
    for (name, how) in OTHERS {
        plant(sb, how, &format!("{DIR}/f-{name}_eth0.json"));
    }
    stale_backups();
    collect(sb, json!([])).silent();
    assert_eq!(
        fs::read_dir(DIR).unwrap().count(),
        OTHERS.len(),
        "the stale ones are gone, the others are as they were"
    );
    // One that can't be removed is reported, after all others.
    stale_backups();
    sb.node().sh(&["mount", "--bind", &format!("{DIR}/m_eth0.json"), &format!("{DIR}/m_eth0.json")]);
    collect(sb, json!([])).error().names(&["m_eth0.json"]);
    assert_eq!(fs::read_dir(DIR).unwrap().count(), OTHERS.len() + 1);
}

fn planted(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({"mtu": 1400});
    for (name, how) in OTHERS {
        for place in [FILE, "/run/cni/tuning/.c1_eth0.json.new"] {
            let _ = fs::remove_dir_all("/run/cni");
            fs::create_dir_all(DIR).unwrap();
            fs::write(VICTIM, r#"{"mtu": 1300}"#).unwrap();
            plant(sb, how, place);
            // Values that are not in this plugin's backup are not restored.
            let before = eth0(&ns);
            del(sb, &keys, &ns);
            assert_eq!(eth0(&ns), before, "{name}");
            if name == "directory" {
                plant(sb, &["mkdir", "-p", "PATH"], place);
                call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[FILE]);
                assert_eq!(eth0(&ns), before);
            } else {
                plant(sb, &["rm", "-f", "PATH"], place);
                plant(sb, how, place);
                add(sb, &keys, &ns);
                assert_eq!(eth0(&ns)["mtu"], 1400, "{name}");
            }
            del(sb, &keys, &ns);
            assert_eq!(eth0(&ns), before, "{name}");
            assert_eq!(fs::read_to_string(VICTIM).unwrap(), r#"{"mtu": 1300}"#);
        }
    }
}

/// A symbolic link to a list is how a mounted ConfigMap looks.
fn allow_list(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let keys = json!({"sysctl": {"net.core.somaxconn": "77"}});
    let list = "/etc/cni/tuning/allowlist.conf";
    fs::create_dir_all("/etc/cni/tuning").unwrap();
    for how in [&["mkfifo", "PATH"][..], &["ln", "-s", "/dev/zero", "PATH"], &["truncate", "-s", "300M", "PATH"]] {
        plant(sb, how, list);
        call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[list]);
        fs::remove_file(list).unwrap();
    }
    fs::write("/run/list", "^net\\.core").unwrap();
    plant(sb, &["ln", "-s", "/run/list", "PATH"], list);
    add(sb, &keys, &ns);
}

fn renamed(sb: &Sandbox) {
    let ns = sb.container_with_eth0();
    let before = (sysctl(&ns, "core/somaxconn"), eth0(&ns));
    let keys = json!({"sysctl": {"net.core.somaxconn": "77"}, "mtu": 1400});
    let mut other = conf("1.0.0", &keys);
    other["name"] = "another".into();
    add(sb, &keys, &ns);
    // Not of this interface: the other network's backup is ignored.
    let elsewhere = sb.container("c2");
    call(sb, "DEL", &other, &elsewhere).run().silent();
    call(sb, "DEL", &other, &ns).without("CNI_NETNS").run().silent();
    assert!(Path::new(FILE).exists());
    assert_eq!(eth0(&ns)["mtu"], 1400);
    call(sb, "DEL", &other, &ns).run().silent();
    assert_eq!((sysctl(&ns, "core/somaxconn"), eth0(&ns)), before);
    assert!(!Path::new(FILE).exists());
}

fn long_id(sb: &Sandbox) {
    sb.needs("tuning", "1.1.0");
    let ns = sb.container_with_eth0();
    let id = |last: char| format!("{}{last}", "i".repeat(400));
    for last in ['1', '2'] {
        call(sb, "ADD", &conf("1.0.0", &json!({"mtu": 1400})), &ns).names(&id(last), "eth0").run().result();
    }
    let count = || fs::read_dir(DIR).unwrap().count();
    assert_eq!(count(), 2);
    collect(sb, json!([{"containerID": id('2'), "ifname": "eth0"}])).silent();
    assert_eq!(count(), 1);
    call(sb, "DEL", &conf("1.0.0", &json!({})), &ns).names(&id('2'), "eth0").run().silent();
    assert_eq!((count(), &eth0(&ns)["mtu"]), (0, &json!(1400)), "what was before it is what the first one set");
}

/// What ADD can't do without and STATUS said nothing about.
fn status(sb: &Sandbox) {
    sb.needs("tuning", "1.1.0");
    let ns = sb.container_with_eth0();
    fs::write(VICTIM, "").unwrap();
    for dir in [VICTIM, "/run/victim/below", "/sys/none", "/proc/none"] {
        let keys = json!({"mtu": 1400, "dataDir": dir});
        let error = sb.plugin("tuning", "STATUS").conf(&conf("1.1.0", &keys)).run().error();
        assert_eq!(error.code, 50, "{error:?}");
        error.names(&[dir]);
        call(sb, "ADD", &conf("1.0.0", &keys), &ns).run().error().names(&[dir]);
        call(sb, "DEL", &conf("1.0.0", &keys), &ns).run().silent();
        // With nothing to set, nothing is written.
        let nothing = json!({"dataDir": dir});
        sb.plugin("tuning", "STATUS").conf(&conf("1.1.0", &nothing)).run().silent();
        add(sb, &nothing, &ns);
    }
    sb.plugin("tuning", "STATUS").conf(&conf("1.1.0", &json!({"mtu": 1400}))).run().silent();
    assert!(!Path::new(DIR).exists(), "STATUS makes nothing");
}

fn gc(sb: &Sandbox) {
    sb.needs("tuning", "1.1.0");
    let ns = sb.container_with_eth0();
    add(sb, &json!({"mtu": 1400}), &ns);
    let mut other = conf("1.0.0", &json!({"mtu": 1400}));
    other["name"] = "another".into();
    let foreign = call(sb, "ADD", &other, &ns).names("c2", "eth0");
    foreign.run().result();
    fs::write("/run/cni/tuning/c3_eth0.json", "{\n \"mtu\": 1500\n}").unwrap();
    let gc = |valid: Value| -> Outcome {
        let mut conf = conf("1.1.0", &json!({}));
        conf["cni.dev/valid-attachments"] = valid;
        sb.plugin("tuning", "GC").conf(&conf).run()
    };
    let names = || {
        let entries = fs::read_dir("/run/cni/tuning").unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    gc(json!([{"containerID": "c1", "ifname": "eth0"}])).silent();
    assert_eq!(names(), ["c1_eth0.json", "c2_eth0.json", "c3_eth0.json"]);
    gc(json!([{"containerID": "c1", "ifname": "eth1"}])).silent();
    assert_eq!(names(), ["c2_eth0.json", "c3_eth0.json"], "another network's and the Go plugin's stay");
}
