//! The example plugin, built by cargo and run as a runtime runs it, in private namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test that fails panics.

#[path = "../../cni-net/tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{first, json, namespace, run};
use serde_json::{Value, json as object};

/// The executable, next to the tests. `cargo test` of a whole package builds its examples too.
fn plugin() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let plugin = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("examples/single");
    assert!(plugin.exists(), "{} is missing: `cargo test --test` does not build examples", plugin.display());
    plugin
}

/// An IPAM plugin that notes the verbs that it is called with, and fails if the file `fails` exists.
const IPAM: &str = r#"#!/bin/sh
echo "$CNI_COMMAND" >> /run/ipam/calls
cat > /dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
[ -e /run/ipam/fails ] && echo '{"code": 11, "msg": "no address is free"}' && exit 1
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd09::5/64"}],
       "routes": [{"dst": "0.0.0.0/0"}]}'
"#;

/// The link below, up, and IPAM.
fn node() {
    run("ip link add parent type bridge");
    run("ip link set parent up");
    fs::create_dir("/run/ipam").unwrap();
    fs::write("/run/ipam/ipam", IPAM).unwrap();
    fs::set_permissions("/run/ipam/ipam", fs::Permissions::from_mode(0o755)).unwrap();
}

fn conf(ipam: bool) -> Value {
    let mut conf =
        object!({"cniVersion": "1.1.0", "name": "net", "type": "single", "master": "parent", "mtu": 1400, "dns": {}});
    if ipam {
        conf["ipam"] = object!({"type": "ipam"});
    }
    conf
}

/// What the plugin prints, or its error.
fn call(verb: &str, id: &str, netns: Option<&str>, conf: &Value) -> Result<Value, String> {
    let mut command = Command::new(plugin());
    command.env("CNI_COMMAND", verb).env("CNI_PATH", "/run/ipam").env_remove("CNI_NETNS");
    if !id.is_empty() {
        command.env("CNI_CONTAINERID", id).env("CNI_IFNAME", "eth0");
    }
    command.envs(netns.map(|name| ("CNI_NETNS", format!("/run/netns/{name}"))));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if output.status.success() { Ok(printed) } else { Err(printed["msg"].as_str().unwrap().to_owned()) }
}

fn links(netns: &str) -> usize {
    json(&format!("ip -n {netns} -j link show type macvlan")).as_array().unwrap().len()
}

fn calls() -> Vec<String> {
    let calls = fs::read_to_string("/run/ipam/calls").unwrap_or_default();
    fs::write("/run/ipam/calls", "").unwrap();
    calls.lines().map(str::to_owned).collect()
}

private_tests! {
    fn a_life() {
        let _blue = namespace("blue");
        node();
        let mut conf = conf(true);
        call("STATUS", "", None, &conf).unwrap();
        let result = call("ADD", "c1", Some("blue"), &conf).unwrap();
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 1);
        let interface = &result["interfaces"][0];
        assert_eq!((&interface["name"], &interface["sandbox"]), (&"eth0".into(), &"/run/netns/blue".into()));
        assert_eq!((&interface["mtu"], &result["ips"][0]["interface"]), (&1400.into(), &0.into()));
        let link = first("ip -n blue -d -j link show dev eth0");
        assert_eq!((&link["linkinfo"]["info_kind"], &link["mtu"]), (&"macvlan".into(), &1400.into()));
        assert_eq!((&link["address"], &link["ifalias"]), (&interface["mac"], &"cni net c1 eth0".into()));
        assert!(run("ip -n blue route").contains("default via 10.9.0.1 dev eth0"));
        assert!(run("ip -n blue -o addr show dev eth0").contains("fd09::5/64"));

        conf["prevResult"] = result;
        call("CHECK", "c1", Some("blue"), &conf).unwrap();
        run("ip -n blue addr del 10.9.0.5/24 dev eth0");
        let difference = call("CHECK", "c1", Some("blue"), &conf).unwrap_err();
        assert!(difference.contains("10.9.0.5/24"), "{difference}");
        calls();

        // The runtime has lost the namespace's path; the result has it.
        for _ in 0..2 {
            call("DEL", "c1", None, &conf).unwrap();
            assert_eq!((links("blue"), calls()), (0, vec!["DEL".to_owned()]));
        }
        run("ip netns del blue");
        call("DEL", "c1", Some("blue"), &conf).unwrap();
    }

    fn layer_2_only() {
        let _blue = namespace("blue");
        node();
        let mut conf = conf(false);
        let result = call("ADD", "c1", Some("blue"), &conf).unwrap();
        assert!(result["ips"].as_array().is_none_or(Vec::is_empty));
        assert!(first("ip -n blue -j link show dev eth0")["flags"].as_array().unwrap().contains(&"UP".into()));
        conf["prevResult"] = result;
        call("CHECK", "c1", Some("blue"), &conf).unwrap();
        run("ip -n blue link set eth0 down");
        assert!(call("CHECK", "c1", Some("blue"), &conf).unwrap_err().contains("expected up"));
        call("DEL", "c1", Some("blue"), &conf).unwrap();
        assert_eq!((links("blue"), calls().len()), (0, 0));
        let mut conf = self::conf(false);
        conf["cniVersion"] = "0.2.0".into();
        assert!(call("ADD", "c1", Some("blue"), &conf).unwrap_err().contains("0.3.0"));
    }

    fn all_or_nothing_and_no_second_one() {
        let _blue = namespace("blue");
        node();
        let conf = conf(true);
        fs::write("/run/ipam/fails", "").unwrap();
        assert_eq!(call("ADD", "c1", Some("blue"), &conf).unwrap_err(), "no address is free");
        assert_eq!((links("blue"), calls()), (0, vec!["ADD".to_owned(), "DEL".to_owned()]));
        fs::remove_file("/run/ipam/fails").unwrap();
        call("ADD", "c1", Some("blue"), &conf).unwrap();
        calls();
        assert!(call("ADD", "c1", Some("blue"), &conf).unwrap_err().contains("eth0 already"));
        assert_eq!((links("blue"), calls().len()), (1, 0));
    }

    fn collecting_keeps_the_valid_and_other_networks() {
        node();
        let mut conf = conf(true);
        let mut processes = Vec::new();
        for (id, name) in [("c1", "net"), ("c2", "net"), ("c3", "other")] {
            namespace(id);
            processes.push(Command::new("ip").args(["netns", "exec", id, "sleep", "60"]).spawn().unwrap());
            conf["name"] = name.into();
            call("ADD", id, Some(id), &conf).unwrap();
        }
        conf["name"] = "net".into();
        conf["cni.dev/valid-attachments"] = object!([{"containerID": "c2", "ifname": "eth0"}]);
        // Until `ip` has entered the namespace.
        for _ in 0..100 {
            call("GC", "", None, &conf).unwrap();
            if links("c1") == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(["c1", "c2", "c3"].map(links), [0, 1, 1]);
        for mut process in processes {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn an_unmarked_link_is_deleted_only_if_it_can_be_the_owners() {
        let _blue = namespace("blue");
        node();
        let conf = conf(false);
        run("ip link add eth0 netns blue link parent type macvlan");
        let mut other = conf.clone();
        other["prevResult"] = object!({"cniVersion": "1.1.0", "interfaces": [
            {"name": "eth0", "mac": "02:00:00:00:00:99", "sandbox": "/run/netns/blue"}]});
        call("DEL", "c1", Some("blue"), &other).unwrap();
        call("DEL", "c1", None, &conf).unwrap();
        assert_eq!(links("blue"), 1);
        call("DEL", "c1", Some("blue"), &conf).unwrap();
        assert_eq!(links("blue"), 0);
    }
}
