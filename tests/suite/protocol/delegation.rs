//! Delegation to an IPAM plugin: how it is found and called, and what becomes of its answers.

use std::fs;

use cni_tests::sandbox::FAKES;
use cni_tests::{CniError, Outcome, Sandbox, Snapshot, conf};
use serde_json::{Value, json};

use crate::case::{Case, common, improved, newer};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("gets_the_stdin_and_the_environment", input),
        common("result_is_used", result),
        newer("versionless_result_has_the_configurations_version", versionless),
        common("result_of_another_known_version_is_converted", converted),
        common("found_in_the_order_of_cni_path", search_order),
        newer("status_is_forwarded", status),
        improved("failed_add_is_followed_by_del", del_after_failure),
        common("del_without_netns_reaches_ipam", del_without_netns),
        newer("text_file_busy_is_retried", busy),
    ];
    let rows: [(&str, &str, Failure); 9] = [
        ("json_error_passes_unchanged", r#"echo '{"code":103,"msg":"no lease","details":"try later"}'; exit 1"#, |e| {
            assert_eq!((e.code, e.msg.as_str(), e.details.as_str()), (103, "no lease", "try later"));
        }),
        ("text_on_stderr", "echo 'out of cheese' >&2; exit 3", |e| e.names(&["out of cheese"])),
        ("text_on_stdout", "echo 'out of cheese'; exit 1", |e| e.names(&["out of cheese"])),
        ("nothing", "exit 1", |_| ()),
        ("killed", "kill -9 $$", |_| ()),
        ("garbage_on_success", "echo '}{'", |_| ()),
        ("truncated_on_success", r#"printf '{"cniVersion":"1.0.0","ips":[{"addr'"#, |_| ()),
        ("nothing_on_success", "true", |_| ()),
        ("no_addresses_on_success", r#"echo '{"cniVersion":"1.0.0"}'"#, |_| ()),
    ];
    for (label, script, judge) in rows {
        cases.push(common(label, move |sb| failing(sb, script, judge)));
    }
    let rows: [(&str, &str, &[&str]); 6] = [
        ("a_result_is_no_error", r#"echo '{"cniVersion":"1.0.0","ips":[]}'; exit 1"#, &["fake", "ips"]),
        ("nothing_is_explained", "exit 1", &["fake", "1"]),
        ("killed_is_explained", "kill -9 $$", &["fake", "9"]),
        ("unknown_version_is_refused", r#"echo '{"cniVersion":"7.7.7","ips":[]}'"#, &["7.7.7"]),
        (
            "bad_address_is_named",
            r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.300/24"}]}'"#,
            &["10.0.0.300"],
        ),
        ("garbage_is_explained", "echo '}{'", &["fake"]),
    ];
    for (label, script, named) in rows {
        cases.push(improved(label, move |sb| explained(sb, script, named)));
    }
    cases
}

type Failure = fn(&CniError);

fn conf_with(ipam: &str) -> Value {
    conf::named("1.0.0", json!({"type": "bridge", "bridge": "br-test", "ipam": {"type": ipam, "x": [1, 2]}}))
}

/// bridge ADD, CHECK or DEL for `eth0` of `c1` with a fake IPAM.
fn bridge(sb: &Sandbox, verb: &str, ipam: &str) -> Outcome {
    let ns = sb.node();
    sb.plugin("bridge", verb).attach("c1", "eth0", &ns).env("CNI_NETNS", "/run/netns/c1").conf(&conf_with(ipam)).run()
}

const GOOD: &str = r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.5.0.9/24","gateway":"10.5.0.1"}],
    "routes":[{"dst":"10.6.0.0/16"}],"dns":{"nameservers":["10.5.0.53"]}}'"#;

fn input(sb: &Sandbox) {
    sb.container("c1");
    sb.fake("fake", &format!("cat >/run/stdin; env >/run/env; readlink /proc/self/ns/net >/run/ns; {GOOD}"));
    let text = conf_with("fake").to_string().replace(',', " ,\n ");
    let call = sb.plugin("bridge", "ADD").names("c1", "eth0").env("CNI_NETNS", "/run/netns/c1").stdin(&text);
    call.env("UNRELATED", "kept").env("CNI_ARGS", "IgnoreUnknown=1;A=b").run().result();
    assert_eq!(fs::read_to_string("/run/stdin").unwrap(), text, "the very bytes");
    let env = fs::read_to_string("/run/env").unwrap();
    for line in
        ["CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/c1", "UNRELATED=kept"]
    {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }
    assert!(env.contains("CNI_PATH=") && env.contains("CNI_ARGS=IgnoreUnknown=1;A=b"), "{env}");
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    assert_eq!(fs::read_to_string("/run/ns").unwrap().trim(), own.to_string_lossy(), "in the node's namespace");
}

fn result(sb: &Sandbox) {
    let ns = sb.container("c1");
    sb.fake("fake", GOOD);
    let result = bridge(sb, "ADD", "fake").result();
    assert_eq!(result["ips"], json!([{"address": "10.5.0.9/24", "gateway": "10.5.0.1", "interface": 2}]));
    assert_eq!(result["routes"], json!([{"dst": "10.6.0.0/16"}]));
    assert_eq!(cni_tests::kernel::addresses(&ns, "eth0"), ["10.5.0.9/24"]);
    let route = ns.sh(&["ip", "route", "show", "10.6.0.0/16"]);
    assert!(route.contains("via 10.5.0.1"), "the gateway is the default for routes without one: {route}");
}

fn versionless(sb: &Sandbox) {
    sb.container("c1");
    sb.fake("fake", r#"echo '{"ips":[{"address":"10.5.0.9/24"}]}'"#);
    assert_eq!(bridge(sb, "ADD", "fake").result()["ips"][0]["address"], "10.5.0.9/24");
}

fn converted(sb: &Sandbox) {
    sb.container("c1");
    sb.fake("fake", r#"echo '{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.5.0.9/24"}]}'"#);
    let result = bridge(sb, "ADD", "fake").result();
    assert_eq!((&result["cniVersion"], &result["ips"][0]["address"]), (&json!("1.0.0"), &json!("10.5.0.9/24")));
}

fn search_order(sb: &Sandbox) {
    sb.container("c1");
    sb.fake("fake", GOOD);
    // A directory of that name isn't a plugin.
    fs::create_dir_all("/run/first/fake").unwrap();
    let ask = |path: &str| {
        let call = sb.plugin("bridge", "ADD").names("c1", "eth0").env("CNI_NETNS", "/run/netns/c1");
        call.env("CNI_PATH", path).conf(&conf_with("fake")).run()
    };
    ask(&format!("/run/first:{FAKES}")).result();
    sb.plugin("bridge", "DEL")
        .names("c1", "eth0")
        .env("CNI_NETNS", "/run/netns/c1")
        .conf(&conf_with("fake"))
        .run()
        .silent();
    ask("/run/first:/run/second").error().names(&["fake", "/run/first", "/run/second"]);
}

fn status(sb: &Sandbox) {
    sb.needs("bridge", "1.1.0");
    sb.fake("full", r#"echo '{"code":51,"msg":"half full"}'; exit 1"#);
    sb.fake("fine", "true");
    let conf = |ipam: &str| json!({"cniVersion": "1.1.0", "name": "testnet", "type": "bridge", "ipam": {"type": ipam}});
    let error = sb.plugin("bridge", "STATUS").conf(&conf("full")).run().error();
    assert_eq!((error.code, error.msg.as_str()), (51, "half full"));
    sb.plugin("bridge", "STATUS").conf(&conf("fine")).run().silent();
}

/// SPEC: a plugin whose delegate's ADD failed must call the delegate's DEL before it returns its own failure.
fn del_after_failure(sb: &Sandbox) {
    sb.container("c1");
    sb.fake(
        "fake",
        r#"echo $CNI_COMMAND >>/run/verbs; [ $CNI_COMMAND = DEL ] || { echo '{"code":103,"msg":"no"}'; exit 1; }"#,
    );
    assert_eq!(bridge(sb, "ADD", "fake").error().code, 103, "the first error is reported");
    assert_eq!(fs::read_to_string("/run/verbs").unwrap(), "ADD\nDEL\n");
}

fn del_without_netns(sb: &Sandbox) {
    sb.container("c1");
    sb.fake("fake", &format!("echo $CNI_COMMAND >>/run/verbs; {GOOD}"));
    bridge(sb, "ADD", "fake").result();
    let del = sb.plugin("bridge", "DEL").names("c1", "eth0").conf(&conf_with("fake"));
    del.run().silent();
    del.env("CNI_NETNS", "/run/netns/never-was").run().silent();
    assert_eq!(fs::read_to_string("/run/verbs").unwrap(), "ADD\nDEL\nDEL\n");
}

/// An executable that is still being written (an upgrade) can't be started; it soon can.
fn busy(sb: &Sandbox) {
    sb.container("c1");
    let path = format!("{FAKES}/busy");
    sb.fake("busy", "");
    // A script can be executed while it is open for writing; a binary can't.
    fs::copy(sb.dir().join("host-local"), &path).unwrap();
    let open = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(700));
        drop(open);
    });
    let mut conf = conf_with("busy");
    conf["ipam"]["subnet"] = "10.5.0.0/24".into();
    let call = sb.plugin("bridge", "ADD").names("c1", "eth0").env("CNI_NETNS", "/run/netns/c1").conf(&conf);
    let outcome = call.run();
    writer.join().unwrap();
    outcome.result();
}

/// Each fault of an IPAM plugin in ADD leads to one JSON error, and the plugin invents no reservation.
fn failing(sb: &Sandbox, script: &str, judge: Failure) {
    let ns = sb.container("c1");
    sb.fake("fake", &format!("[ $CNI_COMMAND = ADD ] || exit 0\n{script}"));
    judge(&bridge(sb, "ADD", "fake").error());
    bridge(sb, "DEL", "fake").silent();
    assert_eq!(cni_tests::kernel::link_names(&ns), ["lo"]);
}

fn explained(sb: &Sandbox, script: &str, named: &[&str]) {
    let ns = sb.container("c1");
    sb.fake("fake", &format!("[ $CNI_COMMAND = ADD ] || exit 0\n{script}"));
    let before = Snapshot::of(&[&sb.node(), &ns]);
    bridge(sb, "ADD", "fake").error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["br-test"]);
}
