//! `leaks` and `gc`: leaks made on purpose, each found and nothing else, and removed while others go on.

use std::fs;
use std::path::Path;

use cni_tests::kernel::{link, link_names};
use cni_tests::packets::ping;
use cni_tests::{Attachment, Netns, Sandbox, rules};
use serde_json::{Value, json};

use super::{CACHE, NETWORKS, address, attach, call, cninet, kinds, network, printed, refused, shown};
use crate::case::{Case, improved};
use crate::dnsname::Reaper;

/// All cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("a_storm", storm),
        improved("by_the_go_plugins", go),
        improved("a_killed_runtime", killed),
        improved("a_network_without_configuration", no_configuration),
        improved("a_reboot", reboot),
        improved("a_namespace_without_a_path_lives", without_path),
        improved("a_process_id_that_was_given_again", process_again),
        improved("disable_gc", disable_gc),
        improved("of_one_network", of_one),
        improved("files_of_plugins", files),
    ];
    for backend in ["nftables", "iptables"] {
        cases.push(improved(format!("{backend}::everything_of_a_container"), move |sb| everything(sb, backend)));
        cases.push(improved(format!("{backend}::closed_doors_and_names"), move |sb| doors_and_names(sb, backend)));
    }
    cases
}

/// A network with all that chained plugins make.
fn full(name: &str, number: u8, backend: &str) {
    let chained = [
        json!({"type": "portmap", "backend": backend, "capabilities": {"portMappings": true}}),
        json!({"type": "firewall", "backend": backend}),
        json!({"type": "tuning", "mtu": 1400}),
    ];
    network(name, number, &json!({"ipMasq": true, "ipMasqBackend": backend}), &chained);
}

fn publish(sb: &Sandbox, network: &str, id: &str, port: u16) -> Netns {
    let ns = sb.container(id);
    let args = json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]});
    call(sb, &["add", network, &ns.path(), "--id", id]).env("CAP_ARGS", &args.to_string()).run().result();
    ns
}

/// Waits until the kernel has removed the link with the namespace.
fn delete(sb: &Sandbox, ns: &Netns, id: &str) {
    let veth = shown(sb, &["ps", "--container", id])[0]["link"].as_str().unwrap().to_owned();
    ns.delete();
    for _ in 0..500 {
        if link(&sb.node(), &veth).is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{veth} stays");
}

fn no_leaks(sb: &Sandbox) {
    assert_eq!(shown(sb, &["leaks", "--unrecorded"]), [] as [Value; 0]);
}

fn everything(sb: &Sandbox, backend: &str) {
    full("red", 141, backend);
    let keep = publish(sb, "red", "keep", 8081);
    let gone = publish(sb, "red", "gone", 8082);
    no_leaks(sb);
    delete(sb, &gone, "gone");
    let found = shown(sb, &["leaks"]);
    assert!(found.iter().all(|leak| leak["containerId"] == "gone" && leak["network"] == "red"), "{found:?}");
    assert!(found.iter().all(|leak| leak["reason"].as_str().unwrap().contains("/run/netns/gone is gone")), "{found:?}");
    let kinds = kinds(&found);
    assert_eq!((kinds["cache"], kinds["address"], kinds["backup"]), (1, 1, 1), "{found:?}");
    // Masquerading, ports, accepts; in iptables ports have an entry in IPv6 too.
    assert!(kinds["rules"] >= 3, "{found:?}");
    assert!(!kinds.contains_key("link"));
    let before = rules::naming(&sb.node(), "keep");
    let dry = cninet(sb, &["gc", "--dry-run"]);
    assert_eq!(dry.stdout, printed(sb, &["leaks"]), "what would be removed is what leaks shows");
    assert_eq!(shown(sb, &["leaks"]).len(), found.len());
    let removed = cninet(sb, &["gc"]);
    assert!(removed.ok() && removed.stderr.contains(&format!("{} removed, 0 remain", found.len())), "{removed}");
    no_leaks(sb);
    assert_eq!(rules::naming(&sb.node(), "gone"), [] as [String; 0]);
    assert_eq!(rules::naming(&sb.node(), "keep"), before);
    printed(sb, &["check", "red", &keep.path(), "--id", "keep"]);
    assert_eq!(shown(sb, &["ps"]).len(), 1);
}

/// What is in tables of its own, and that alone: the link, the address and the cache's file are gone already.
fn doors_and_names(sb: &Sandbox, backend: &str) {
    let chained = [
        json!({"type": "portmap", "nat": false, "backend": backend, "capabilities": {"portMappings": true}}),
        json!({"type": "firewall", "backend": backend, "publishedOnly": true}),
        json!({"type": "dnsname", "backend": backend}),
    ];
    let _end = Reaper;
    network("red", 155, &json!({"isDefaultGateway": true}), &chained);
    let keep = publish(sb, "red", "keep", 8081);
    let gone = publish(sb, "red", "gone", 8082);
    let found = keep.sh(&["dig", "+short", "+time=2", "+tries=3", "@10.155.0.1", "gone"]);
    assert_eq!(found.trim(), "10.155.0.3", "a name through a closed door");
    no_leaks(sb);
    delete(sb, &gone, "gone");
    let found = shown(sb, &["leaks"]);
    let names = if backend == "nftables" { "cni_dnsname" } else { "iptables" };
    for table in ["cni_published_only", "cni_open_ports", names] {
        assert!(found.iter().any(|leak| leak.to_string().contains(table)), "{table}: {found:?}");
    }
    assert!(found.iter().all(|leak| leak["containerId"] == "gone"), "{found:?}");
    assert_eq!(kinds(&found)["names"], 1, "{found:?}");
    let before = rules::naming(&sb.node(), "keep");
    assert!(cninet(sb, &["gc"]).ok());
    no_leaks(sb);
    assert_eq!(rules::naming(&sb.node(), "gone"), [] as [String; 0]);
    assert_eq!(rules::naming(&sb.node(), "keep"), before);
    printed(sb, &["check", "red", &keep.path(), "--id", "keep"]);
}

/// Many at the same time, each with a part of its traces gone already.
fn storm(sb: &Sandbox) {
    full("red", 142, "nftables");
    full("blue", 143, "iptables");
    let keep: Vec<Netns> =
        ["keep1", "keep2"].iter().enumerate().map(|(n, id)| publish(sb, "red", id, 8090 + n as u16)).collect();
    let blue = attach(sb, "blue", "keep3");
    let mut gone = Vec::new();
    for number in 0..6_u16 {
        let (network, id) = (["red", "blue"][usize::from(number % 2)], format!("gone{number}"));
        gone.push((publish(sb, network, &id, 8100 + number), id));
    }
    gone.iter().for_each(|(ns, id)| delete(sb, ns, id));
    // A reservation, the cache's file and the backups are missing of some.
    let reservation = fs::read_dir("/var/lib/cni/networks/red").unwrap().flatten();
    let of_gone0 = reservation
        .map(|entry| entry.path())
        .find(|path| fs::read_to_string(path).is_ok_and(|text| text.starts_with("gone0")));
    fs::remove_file(of_gone0.unwrap()).unwrap();
    fs::remove_file(Path::new(CACHE).join("blue-gone1-eth0")).unwrap();
    fs::remove_file("/run/cni/tuning/gone2_eth0.json").unwrap();
    // What is in no cache may be in the making for ten seconds.
    let old = ["touch", "-d", "1 minute ago"];
    for dir in ["/var/lib/cni/networks/blue", "/run/cni/tuning"] {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            sb.node().sh(&[&old[..], &[entry.path().to_str().unwrap()]].concat());
        }
    }
    let found = shown(sb, &["leaks"]);
    let of = |id: &str| found.iter().filter(|leak| leak["containerId"] == id).count();
    for number in 0..6 {
        assert!(of(&format!("gone{number}")) >= 4, "gone{number}: {found:?}");
    }
    assert_eq!(of("keep1") + of("keep2") + of("keep3"), 0);
    let named = found.iter().filter(|leak| leak["containerId"].as_str().unwrap().starts_with("gone")).count();
    assert_eq!(named, found.len(), "nothing else is a leak");
    let removed = cninet(sb, &["gc"]);
    assert!(removed.ok(), "{removed}");
    no_leaks(sb);
    for (network, ns, id) in [("red", &keep[0], "keep1"), ("red", &keep[1], "keep2"), ("blue", &blue, "keep3")] {
        printed(sb, &["check", network, &ns.path(), "--id", id]);
    }
    assert!(ping(&keep[0], &address(sb, "red", "keep2")));
}

/// What the Go plugins leave, whose rules name no owner: the container is known all the same.
fn go(sb: &Sandbox) {
    let go = Path::new("/usr/lib/cni");
    if !go.join("bridge").is_file() || sb.dir() == go {
        cni_tests::verdict::skip("no Go plugins beside");
    }
    network("red", 74, &json!({"ipMasq": true}), &[json!({"type": "portmap", "capabilities": {"portMappings": true}})]);
    let path = Path::new(NETWORKS).join("red.conflist");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("1.1.0", "1.0.0")).unwrap();
    let keep = publish(sb, "red", "keep", 8081);
    let ns = sb.container("gone");
    let args = json!({"portMappings": [{"hostPort": 8082, "containerPort": 80, "protocol": "tcp"}]}).to_string();
    let added = call(sb, &["add", "red", &ns.path(), "--id", "gone"])
        .env("CNI_PATH", "/usr/lib/cni")
        .env("CAP_ARGS", &args)
        .run();
    assert!(added.ok(), "{added}");
    no_leaks(sb);
    delete(sb, &ns, "gone");
    let found = shown(sb, &["leaks"]);
    assert!(found.iter().all(|leak| leak["containerId"] == "gone" && leak["network"] == "red"), "{found:?}");
    assert!(kinds(&found)["rules"] >= 2 && kinds(&found)["address"] == 1, "{found:?}");
    assert!(cninet(sb, &["gc"]).ok());
    no_leaks(sb);
    assert!(
        !rules::all(&sb.node()).iter().any(|rule| rule.contains("gone")),
        "{:?}",
        rules::naming(&sb.node(), "gone")
    );
    printed(sb, &["check", "red", &keep.path(), "--id", "keep"]);
}

/// The runtime is killed between two plugins: no file in the cache, and the namespace lives. Not a leak until that is gone.
fn killed(sb: &Sandbox) {
    full("red", 145, "nftables");
    let _keep = publish(sb, "red", "keep", 8081);
    let ns = sb.container("c1");
    let bridge: Value = serde_json::from_slice(&fs::read(Path::new(NETWORKS).join("red.conflist")).unwrap()).unwrap();
    let chain = cni_tests::Chain::new("red", "1.1.0", std::slice::from_ref(&bridge["plugins"][0]));
    chain.add(sb, &mut Attachment::new("c1", &ns));
    assert_eq!(shown(sb, &["leaks"]), [] as [Value; 0]);
    assert!(cninet(sb, &["leaks"]).stderr.contains("--unrecorded"));
    assert!(cninet(sb, &["gc"]).ok());
    assert!(link(&ns, "eth0").is_some(), "gc leaves what may be in the making");
    let hidden = shown(sb, &["leaks", "--unrecorded"]);
    assert_eq!((kinds(&hidden)["link"], kinds(&hidden)["address"]), (1, 1), "{hidden:?}");
    assert!(hidden.iter().all(|leak| leak["containerId"] == "c1"), "{hidden:?}");
    ns.delete();
    for entry in fs::read_dir("/var/lib/cni/networks/red").unwrap().flatten() {
        sb.node().sh(&["touch", "-d", "1 minute ago", entry.path().to_str().unwrap()]);
    }
    let gone = || !shown(sb, &["leaks"]).is_empty();
    assert!((0..200).any(|_| gone()), "once the namespace is gone it is a leak");
    assert!(cninet(sb, &["gc"]).ok());
    no_leaks(sb);
    assert_eq!(rules::naming(&sb.node(), "c1,"), [] as [String; 0]);
}

/// The configuration and the cache's file are gone: what was made says whose it is.
fn no_configuration(sb: &Sandbox) {
    full("old", 147, "iptables");
    let ns = publish(sb, "old", "c1", 8082);
    full("red", 146, "nftables");
    let keep = publish(sb, "red", "keep", 8081);
    delete(sb, &ns, "c1");
    fs::remove_file(Path::new(NETWORKS).join("old.conflist")).unwrap();
    fs::remove_file(Path::new(CACHE).join("old-c1-eth0")).unwrap();
    for file in ["/var/lib/cni/networks/old/10.147.0.2", "/run/cni/tuning/c1_eth0.json"] {
        sb.node().sh(&["touch", "-d", "1 minute ago", file]);
    }
    let found = shown(sb, &["leaks"]);
    assert!(found.len() >= 4 && found.iter().all(|leak| leak["reason"] == "not in the cache"), "{found:?}");
    let removed = cninet(sb, &["gc"]);
    assert!(removed.ok(), "{removed}");
    no_leaks(sb);
    printed(sb, &["check", "red", &keep.path(), "--id", "keep"]);
}

/// After a reboot nothing is valid: that must be said.
fn reboot(sb: &Sandbox) {
    full("red", 148, "nftables");
    let ns = publish(sb, "red", "c1", 8081);
    delete(sb, &ns, "c1");
    sb.node().sh(&["nft", "flush", "ruleset"]);
    fs::write("/run/netns/c1", "").unwrap();
    let found = shown(sb, &["leaks"]);
    let of_kind = |kind| kinds(&found).get(kind).copied();
    assert_eq!((of_kind("cache"), of_kind("address")), (Some(1), Some(1)), "{found:?}");
    let refused = cninet(sb, &["gc"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--all") && refused.stderr.contains(CACHE), "{refused}");
    assert_eq!(shown(sb, &["leaks"]).len(), found.len());
    assert!(cninet(sb, &["gc", "--all"]).ok());
    no_leaks(sb);
}

/// Its mount is gone, but a process keeps it: the other end of the link is in it.
fn without_path(sb: &Sandbox) {
    full("red", 149, "nftables");
    let ns = publish(sb, "red", "c1", 8081);
    let mut sleeping = ns.run(|| std::process::Command::new("sleep").arg("60").spawn().unwrap());
    ns.delete();
    no_leaks(sb);
    assert!(cninet(sb, &["gc", "--all"]).ok());
    assert!(link_names(&sb.node()).iter().any(|name| name.starts_with("veth")), "it is still attached");
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
}

/// containerd's client names namespaces by processes, whose numbers come again.
fn process_again(sb: &Sandbox) {
    full("red", 150, "nftables");
    let _keep = publish(sb, "red", "keep", 8081);
    let ns = publish(sb, "red", "c1", 8082);
    let other = sb.container("other");
    let mut sleeping = other.run(|| std::process::Command::new("sleep").arg("60").spawn().unwrap());
    let file = Path::new(CACHE).join("red-c1-eth0");
    let text = fs::read_to_string(&file)
        .unwrap()
        .replace(&format!("\"netns\":\"{}\"", ns.path()), &format!("\"netns\":\"/proc/{}/ns/net\"", sleeping.id()));
    delete(sb, &ns, "c1");
    fs::write(&file, text).unwrap();
    let found = shown(sb, &["leaks"]);
    assert!(found.len() >= 4 && found[0]["reason"].as_str().unwrap().contains("another process's by now"), "{found:?}");
    assert!(cninet(sb, &["gc"]).ok());
    no_leaks(sb);
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
}

fn disable_gc(sb: &Sandbox) {
    full("red", 151, "nftables");
    let _keep = publish(sb, "red", "keep", 8081);
    let ns = publish(sb, "red", "c1", 8082);
    delete(sb, &ns, "c1");
    let path = Path::new(NETWORKS).join("red.conflist");
    let mut list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    list["disableGC"] = true.into();
    fs::write(&path, list.to_string()).unwrap();
    let before = shown(sb, &["leaks"]).len();
    let said = cninet(sb, &["gc"]);
    assert!(said.code == Some(1) && said.stderr.contains("disableGC"), "{said}");
    assert_eq!(shown(sb, &["leaks"]).len(), before);
}

fn of_one(sb: &Sandbox) {
    full("red", 152, "nftables");
    full("blue", 153, "nftables");
    let _keep = publish(sb, "red", "keep", 8081);
    for (network, id, port) in [("red", "c1", 8082), ("blue", "c2", 8083)] {
        let ns = publish(sb, network, id, port);
        delete(sb, &ns, id);
    }
    assert!(shown(sb, &["leaks", "--network", "red"]).iter().all(|leak| leak["network"] == "red"));
    assert!(cninet(sb, &["gc", "--network", "red"]).ok());
    assert_eq!(shown(sb, &["leaks", "--network", "red"]), [] as [Value; 0]);
    assert!(shown(sb, &["leaks"]).len() > 3);
    refused(sb, &["gc", "--network"], &["--network"]);
}

/// Devices, leases and names have a file each, whose name or content is the owner.
fn files(sb: &Sandbox) {
    full("red", 154, "nftables");
    let _keep = publish(sb, "red", "keep", 8081);
    let key = "0123456789abcdef-fedcba9876543210";
    for dir in ["/run/cni/host-device", "/run/cni/dhcp", "/run/cni/dnsname/red"] {
        fs::create_dir_all(dir).unwrap();
        let file = format!("{dir}/{key}.json");
        fs::write(&file, "{}").unwrap();
        sb.node().sh(&["touch", "-d", "1 minute ago", &file]);
    }
    let found = shown(sb, &["leaks"]);
    let kinds = kinds(&found);
    assert_eq!((kinds["device"], kinds["lease"], kinds["names"], found.len()), (1, 1, 1, 3), "{found:?}");
    let said = cninet(sb, &["gc"]);
    assert!(said.code == Some(1) && said.stderr.contains("its owner's names are not known"), "{said}");
}
