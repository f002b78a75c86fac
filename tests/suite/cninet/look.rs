//! `ls`, `ps` and `inspect`: on an empty node, with attachments, with files that can't be used.

use std::fs;
use std::path::Path;

use cni_tests::Sandbox;
use serde_json::{Value, json};

use super::{CACHE, NETWORKS, WIDTH, attach, call, cninet, network, printed, refused, shown, write};
use crate::case::{Case, improved};

/// All cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("an_empty_node", empty),
        improved("networks", networks),
        improved("attachments", attachments),
        improved("inspect_as_docker", inspect),
        improved("broken_files_are_named", broken),
        improved("many_attachments_in_80_columns", many),
        improved("a_reader_that_ends", reader_ends),
    ]
}

fn empty(sb: &Sandbox) {
    for (words, said) in [
        (&["ls"][..], "no networks in /etc/cni/net.d: cninet create NAME makes one"),
        (&["ps"], "no attachment in /var/lib/cni/results"),
        (&["leaks"], "no leaks"),
        (&["gc"], "no leaks"),
        (&["prune"], "no network"),
    ] {
        let outcome = cninet(sb, words);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{outcome}");
        assert!(outcome.stderr.contains(said), "{outcome}");
    }
    for words in [&["ls"][..], &["ps"], &["leaks"], &["inspect"]] {
        assert_eq!(shown(sb, words), [] as [Value; 0], "{words:?}");
    }
    refused(sb, &["inspect", "red"], &["\"red\"", NETWORKS, "there are none"]);
    refused(sb, &["connect", "red", "c1"], &["\"red\"", NETWORKS]);
    refused(sb, &["disconnect", "red", "c1"], &["\"c1\"", CACHE]);
    refused(sb, &["reload", "red"], &["\"red\"", NETWORKS]);
    refused(sb, &["status", "red"], &["\"red\"", NETWORKS]);
    assert_eq!(printed(sb, &["reload"]), "0 repaired, 0 were whole\n");
}

fn networks(sb: &Sandbox) {
    network("red", 31, &json!({}), &[json!({"type": "portmap", "capabilities": {"portMappings": true}})]);
    network(
        "blue",
        32,
        &json!({"ipam": {"type": "host-local", "ranges": [
        [{"subnet": "10.32.0.0/24", "rangeStart": "10.32.0.10", "rangeEnd": "10.32.0.19"}], [{"subnet": "fd32::/64"}]]}}),
        &[],
    );
    write(
        "green",
        &json!({"cniVersion": "0.4.0", "name": "green", "plugins": [{"type": "macvlan", "ipam": {"type": "dhcp"}}]}),
    );
    let _one = attach(sb, "red", "c1");
    let found = shown(sb, &["ls"]);
    let of = |name: &str| found.iter().find(|one| one["name"] == name).unwrap();
    let red = of("red");
    assert_eq!(
        (&red["driver"], &red["cniVersion"], &red["attachments"]),
        (&"bridge".into(), &"1.1.0".into(), &1.into())
    );
    assert_eq!((&red["addresses"]["taken"], &red["addresses"]["free"]), (&1.into(), &252.into()));
    assert_eq!(red["plugins"], json!(["bridge", "portmap"]));
    assert_eq!(red["file"], format!("{NETWORKS}/red.conflist"));
    assert_eq!(of("blue")["addresses"]["free"], 10, "the range that is used up first counts");
    assert_eq!(of("blue")["subnets"], json!(["10.32.0.0/24", "fd32::/64"]));
    assert_eq!(of("green")["addresses"], Value::Null);
    let table = printed(sb, &["ls"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NETWORK", "DRIVER", "SUBNETS", "FREE", "TAKEN", "ATTACHED"]);
    assert_eq!(lines[3], ["red", "bridge", "10.31.0.0/24", "252", "1", "1"], "{table}");
    assert_eq!(lines[2], ["green", "macvlan", "-", "-", "-", "0"], "{table}");
}

fn attachments(sb: &Sandbox) {
    network("red", 33, &json!({}), &[json!({"type": "portmap", "capabilities": {"portMappings": true}})]);
    let ns = sb.container("one");
    let ports = json!({"portMappings": [{"HostPort": 8081, "ContainerPort": 80, "Protocol": "tcp"}]}).to_string();
    let added = call(sb, &["add", "red", &ns.path(), "--id", "c1", "-i", "net0"]);
    added.env("CAP_ARGS", &ports).env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web").run().result();
    let two = attach(sb, "red", "c2");
    let all = shown(sb, &["ps"]);
    assert_eq!(all.len(), 2);
    let one = &all[0];
    assert_eq!((&one["containerId"], &one["ifName"], &one["name"]), (&"c1".into(), &"net0".into(), &"web".into()));
    assert_eq!((&one["state"], &one["namespace"]), (&"running".into(), &ns.path().into()));
    assert_eq!(one["ports"], json!([{"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]));
    let inside = &cni_tests::kernel::link(&ns, "net0").unwrap();
    assert_eq!(one["mac"], inside["address"]);
    let veth = one["link"].as_str().unwrap();
    assert!(cni_tests::kernel::link(&sb.node(), veth).is_some_and(|link| link["linkinfo"]["info_kind"] == "veth"));
    assert_eq!(one["addresses"][0], cni_tests::kernel::addresses(&ns, "net0")[0]);
    let ids = |words: &[&str]| shown(sb, words).iter().map(|one| one["containerId"].to_string()).collect::<String>();
    let address = one["addresses"][0].as_str().unwrap().split('/').next().unwrap();
    for (option, value) in
        [("--ip", address), ("--port", "8081"), ("--container", "web"), ("--link", veth), ("--link", "net0")]
    {
        assert_eq!(ids(&["ps", option, value]), "\"c1\"", "{option} {value}");
    }
    assert_eq!(ids(&["ps", "--network", "red", "--container", "c"]), "\"c1\"\"c2\"");
    let none = cninet(sb, &["ps", "--ip", "10.33.0.99"]);
    assert!(none.stdout.is_empty() && none.stderr.contains("no such attachment") && none.code == Some(0), "{none}");
    two.delete();
    assert_eq!(shown(sb, &["ps", "--container", "c2"])[0]["state"], "gone");
}

fn inspect(sb: &Sandbox) {
    network("red", 34, &json!({"mtu": 1400, "ipMasq": true}), &[]);
    let ns = attach(sb, "red", "c1");
    let found = shown(sb, &["inspect", "red"]);
    let red = &found[0];
    assert_eq!((&red["Name"], &red["Driver"], &red["Scope"]), (&"red".into(), &"bridge".into(), &"local".into()));
    assert_eq!(
        red["IPAM"],
        json!({"Driver": "host-local", "Config": [{"Subnet": "10.34.0.0/24", "Gateway": "10.34.0.1"}]})
    );
    assert_eq!((&red["EnableIPv6"], &red["Internal"]), (&false.into(), &false.into()));
    let container = &red["Containers"]["c1"];
    assert_eq!(container["IPv4Address"], cni_tests::kernel::addresses(&ns, "eth0")[0]);
    assert_eq!(container["MacAddress"], cni_tests::kernel::link(&ns, "eth0").unwrap()["address"]);
    assert_eq!(red["Options"]["mtu"], 1400);
    assert_eq!(red["CNI"]["AddressesTaken"], 1);
    assert_eq!(shown(sb, &["inspect"]), found);
}

fn broken(sb: &Sandbox) {
    network("red", 35, &json!({}), &[]);
    fs::write(Path::new(NETWORKS).join("10-broken.conflist"), "{").unwrap();
    fs::create_dir_all(CACHE).unwrap();
    fs::write(Path::new(CACHE).join("strange"), "{}").unwrap();
    let outcome = cninet(sb, &["ls"]);
    assert!(outcome.stdout.contains("red") && outcome.stderr.contains("10-broken.conflist"), "{outcome}");
    assert!(outcome.stderr.contains("/strange"), "{outcome}");
    refused(sb, &["inspect", "green"], &["\"green\"", "red", "10-broken.conflist"]);
    let _ns = attach(sb, "red", "c1");
    assert_eq!(shown(sb, &["ps"]).len(), 1);
}

fn many(sb: &Sandbox) {
    network("a-network-with-a-long-name", 36, &json!({}), &[]);
    let ns = sb.container("c");
    let id = "f".repeat(64);
    printed(sb, &["add", "a-network-with-a-long-name", &ns.path(), "--id", &id]);
    let file = fs::read_dir(CACHE).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&file).unwrap();
    for number in 0..900 {
        let other = format!("{number:064}");
        fs::write(file.with_file_name(format!("n-{other}-eth0")), text.replace(&id, &other)).unwrap();
    }
    for words in [&["ps"][..], &["ls"], &["leaks"]] {
        let table = printed(sb, words);
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH), "{table}");
    }
    assert_eq!(shown(sb, &["ps"]).len(), 901);
    assert!(!printed(sb, &["ps"]).contains(&id) && printed(sb, &["ps", "--no-trunc"]).contains(&id));
    assert_eq!(shown(sb, &["ls"])[0]["attachments"], 901);
}

fn reader_ends(sb: &Sandbox) {
    for number in 0..40 {
        network(&format!("n{number}"), number, &json!({}), &[]);
    }
    let line = format!(
        "{} ls | true; {} ls --json | head -1",
        sb.dir().join("cninet").display(),
        sb.dir().join("cninet").display()
    );
    let said = cninet(sb, &["ls"]);
    assert_eq!(said.code, Some(0));
    assert_eq!(sb.node().sh(&["sh", "-c", &line]).trim(), "[");
}
