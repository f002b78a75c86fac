//! `add`, `check`, `del`, `status` and `gc` as a replacement of cnitool: the same environment for plugins, the same cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cni_tests::Sandbox;
use serde_json::json;

use super::{CACHE, NETWORKS, call, cninet, network, printed, refused};
use crate::case::{Case, improved};

/// Recordings of libcni's calls.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/cni-runtime/tests/recorded");

/// All cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("calls_are_those_of_cnitool", recorded),
        improved("a_life", life),
        improved("the_plugins_error_is_told", errors),
        improved("del_with_a_broken_cache_file", broken_cache),
        improved("two_adds_of_one_attachment_take_turns", turns),
    ]
}

/// Environment and stdin of each call, byte for byte, as `recorded/record.sh` has them of cnitool.
fn recorded(sb: &Sandbox) {
    let bin = Path::new("/mnt/bin");
    fs::create_dir_all(bin).unwrap();
    for name in ["first", "second"] {
        fs::copy(format!("{RECORDED}/plugin.sh"), bin.join(name)).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut compared = 0;
    for file in fs::read_dir(RECORDED).unwrap() {
        let list = file.unwrap().path();
        if list.extension().is_none_or(|extension| extension != "conflist") {
            continue;
        }
        let _ = fs::remove_dir_all(NETWORKS);
        let _ = fs::remove_dir_all(CACHE);
        fs::create_dir_all(NETWORKS).unwrap();
        fs::copy(&list, Path::new(NETWORKS).join("n.conflist")).unwrap();
        let name: serde_json::Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
        let record = Path::new("/mnt/record");
        fs::write(record, "").unwrap();
        let args =
            json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}], "mac": "02:00:00:00:00:01", "none": 1});
        for verb in ["add", "check", "del"] {
            let call = call(sb, &[verb, name["name"].as_str().unwrap(), "/run/netns/blue"]);
            call.env("CNI_PATH", "/mnt/bin:/other")
                .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=a")
                .env("CAP_ARGS", &args.to_string())
                .env("TRACEPARENT", "00-1-2-01")
                .env("RECORD", "/mnt/record")
                .run();
        }
        let calls = |text: &str| {
            let own = text.split("# add\n").nth(1).unwrap_or(text);
            let lines =
                own.lines().filter(|line| !["# ", "cache ", "failed"].iter().any(|word| line.starts_with(word)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let expected = calls(&fs::read_to_string(list.with_extension("calls")).unwrap());
        assert_eq!(calls(&fs::read_to_string(record).unwrap()), expected, "{}", list.display());
        compared += 1;
    }
    assert!(compared >= 10);
}

fn life(sb: &Sandbox) {
    network("red", 41, &json!({}), &[]);
    let ns = sb.container("c1");
    let path = ns.path();
    let result = cninet(sb, &["add", "red", &path]).result();
    assert_eq!(result["ips"][0]["address"], cni_tests::kernel::addresses(&ns, "eth0")[0]);
    // printf /run/netns/c1 | sha512sum
    assert!(Path::new(CACHE).join("red-cnitool-20b4ff582526573bbe7d-eth0").exists());
    cninet(sb, &["check", "red", &path]).silent();
    ns.sh(&["ip", "route", "del", "default"]);
    refused(sb, &["check", "red", &path], &["plugin type=\"bridge\" failed (check)", "default via 10.41.0.1"]);
    cninet(sb, &["status", "red", &path]).silent();
    cninet(sb, &["del", "red", &path]).silent();
    cninet(sb, &["del", "red", &path]).silent();
    assert!(cni_tests::kernel::link(&ns, "eth0").is_none() && fs::read_dir(CACHE).unwrap().next().is_none());
    let other = call(sb, &["add", "red", &path]).env("CNI_IFNAME", "net7").run().result();
    assert_eq!(other["interfaces"][2]["name"], "net7");
}

fn errors(sb: &Sandbox) {
    network("red", 42, &json!({"type": "nosuch"}), &[]);
    let ns = sb.container("c1");
    refused(
        sb,
        &["add", "red", &ns.path()],
        &["plugin type=\"nosuch\" failed (add)", "failed to find plugin", &sb.dir().display().to_string()],
    );
    network("red", 42, &json!({}), &[]);
    refused(sb, &["add", "red", "/run/netns/none"], &["/run/netns/none", "does not exist"]);
    refused(sb, &["add", "red", &ns.path(), "--id=-x"], &["--id"]);
    refused(sb, &["add", "red", &ns.path(), "--ifname", "a/b"], &["--ifname", "a/b"]);
    let wrong = |key: &str, value: &str| call(sb, &["add", "red", &ns.path()]).env(key, value).run();
    assert!(wrong("CAP_ARGS", "[").stderr.contains("CAP_ARGS"));
    assert!(wrong("CNI_ARGS", "A").stderr.contains("\"A\""));
    fs::write(
        Path::new(NETWORKS).join("red.conflist"),
        json!({"cniVersion": "0.3.1", "name": "red", "plugins": [{"type": "bridge"}]}).to_string(),
    )
    .unwrap();
    refused(sb, &["check", "red", &ns.path()], &["0.3.1", "CHECK", "0.4.0"]);
}

fn broken_cache(sb: &Sandbox) {
    network("red", 43, &json!({"ipMasq": true, "ipMasqBackend": "nftables"}), &[]);
    let ns = sb.container("c1");
    printed(sb, &["add", "red", &ns.path(), "--id", "c1"]);
    fs::write(Path::new(CACHE).join("red-c1-eth0"), "{").unwrap();
    cninet(sb, &["del", "red", &ns.path(), "--id", "c1"]).silent();
    assert!(cni_tests::kernel::link(&ns, "eth0").is_none());
    assert!(!Path::new(CACHE).join("red-c1-eth0").exists());
    assert!(!Path::new("/var/lib/cni/networks/red/10.43.0.2").exists());
    assert_eq!(cni_tests::rules::naming(&sb.node(), "c1"), [] as [String; 0]);
}

/// Of two at the same time one makes the interface, and the other is refused: neither disturbs the other.
fn turns(sb: &Sandbox) {
    network("red", 44, &json!({}), &[]);
    let ns = sb.container("c1");
    let start = || {
        let mut command = call(sb, &["add", "red", &ns.path(), "--id", "c1"]).command();
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let outcomes = [start(), start()].map(|mut child| child.wait().unwrap().success());
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 1, "{outcomes:?}");
    cninet(sb, &["check", "red", &ns.path(), "--id", "c1"]).silent();
}
