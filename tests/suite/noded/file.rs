//! cni-noded: its configuration, the file as a source, and what it says of itself.

use std::fs;

use cni_tests::parallel::until;
use cni_tests::{Call, Sandbox};
use serde_json::{Value, json};

use super::{NODES, Node, list, needs, nodes, write};
use crate::case::{Case, improved};

/// A change of a configuration that is right, and the words of the refusal.
fn bad() -> Vec<(&'static str, Value, &'static [&'static str])> {
    vec![
        ("unknown_key", json!({"bakend": {}}), &["unknown field `bakend`", "`backend`"]),
        ("no_source", json!({"source": null}), &["source"]),
        ("unknown_source", json!({"source": {"consul": {}}}), &["source", "consul", "file"]),
        ("unknown_backend", json!({"backend": {"wire": {}}}), &["backend", "wire", "host-gw"]),
        ("unknown_key_of_a_backend", json!({"backend": {"vxlan": {"vin": 3}}}), &["backend", "vin", "vni"]),
        (
            "vni_too_large",
            json!({"backend": {"vxlan": {"vni": 16_777_216}}}),
            &["backend.vxlan.vni", "16777216", "1 to 16777215"],
        ),
        ("port_zero", json!({"backend": {"vxlan": {"port": 0}}}), &["backend.vxlan.port", "1 to 65535"]),
        ("mtu_small", json!({"backend": {"vxlan": {"mtu": 1000}}}), &["backend.vxlan.mtu", "1000", "1280"]),
        (
            "underlay_other",
            json!({"backend": {"vxlan": {"underlay": "v4"}}}),
            &["backend.vxlan.underlay", "v4", "ipv4"],
        ),
        (
            "protocol_of_the_kernel",
            json!({"backend": {"host-gw": {"protocol": 2}}}),
            &["backend.host-gw.protocol", "2", "5 to 255"],
        ),
        ("bridge_without_subnets", json!({"backend": {"bridge": {}}}), &["backend.bridge.subnets", "10.42.0.0/16"]),
        (
            "bridge_with_host_bits",
            json!({"backend": {"bridge": {"subnets": ["10.42.0.1/16"]}}}),
            &["backend.bridge.subnets", "10.42.0.0/16"],
        ),
        ("relative_file", json!({"source": {"file": "nodes"}}), &["source.file", "nodes", "absolute"]),
        ("listen_to_all", json!({"listen": "0.0.0.0:9469"}), &["listen", "0.0.0.0:9469", "loopback"]),
        ("node_with_a_space", json!({"node": "a b"}), &["node", "a b"]),
        (
            "template_absent",
            json!({"network": {"file": "/run/x", "template": "/run/none"}}),
            &["network.template", "/run/none"],
        ),
    ]
}

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        bad().into_iter().map(|(name, keys, parts)| improved(name, move |sb| refused(sb, &keys, parts))).collect();
    cases.extend([
        improved("right_configuration", |sb| assert_eq!(check(sb, &right()), (Some(0), String::new()))),
        improved("configurations_of_the_documentation", documented),
        improved("no_json", no_json),
        improved("version_and_help", words),
        improved("broken_file_changes_nothing", broken),
        improved("absent_file_is_waited_for", absent),
        improved("written_in_place_and_by_link", in_place),
        improved("own_node_by_its_address", by_address),
        improved("own_node_is_unknown", unknown),
        improved("no_subnet_yet", no_subnet),
        improved("other_paths_and_verbs_over_http", http),
    ]);
    cases
}

fn right() -> Value {
    json!({
        "node": "n1", "source": {"file": NODES}, "backend": {"host-gw": {}},
        "network": {"file": "/etc/cni/net.d/10.conflist", "template": {"name": "pods", "plugins": []}},
    })
}

/// Exit code and stderr of `--check`.
fn check(sb: &Sandbox, config: &Value) -> (Option<i32>, String) {
    check_text(sb, &config.to_string())
}

fn check_text(sb: &Sandbox, config: &str) -> (Option<i32>, String) {
    needs(sb);
    fs::write("/run/noded.json", config).unwrap();
    let call = Call::new(sb.dir().join("cni-noded"), "").words(&["--check", "--config", "/run/noded.json"]);
    let outcome = call.run();
    (outcome.code, outcome.stderr)
}

fn refused(sb: &Sandbox, keys: &Value, parts: &[&str]) {
    let mut config = right();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    let (code, said) = check(sb, &config);
    assert!(code == Some(1) && said.contains("/run/noded.json: "), "{code:?} {said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
}

fn documented(sb: &Sandbox) {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for file in ["README.md", "docs/cni-noded.md"] {
        let text = fs::read_to_string(format!("{repository}/{file}")).unwrap();
        let mut blocks = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
        let example = blocks.find(|block| block.contains("\"etcd\"")).unwrap();
        assert!(example.lines().count() < 30, "{file}");
        assert_eq!(check_text(sb, example), (Some(0), String::new()), "{file}");
    }
}

fn no_json(sb: &Sandbox) {
    for (text, part) in
        [("", "EOF"), ("{", "EOF"), ("[]", "expected struct"), (&(right().to_string() + "x"), "trailing")]
    {
        let (code, said) = check_text(sb, text);
        assert!(code == Some(1) && said.contains(part), "{text}: {said}");
    }
}

fn words(sb: &Sandbox) {
    needs(sb);
    let run = |word: &str| Call::new(sb.dir().join("cni-noded"), "").words(&[word]).run();
    assert!(run("--version").stdout.starts_with("cni-noded "));
    assert!(run("--help").stdout.contains("--config FILE"));
    let refused = run("--verbose");
    assert!(refused.code == Some(1) && refused.stderr.contains("--verbose") && refused.stdout.is_empty());
}

fn started(sb: &Sandbox, listed: bool) -> (Vec<Node>, super::Agent) {
    let nodes = nodes(sb, 3);
    if listed {
        list(&nodes);
    }
    let agent = nodes[0].start(sb, &nodes[0].config(&json!({"host-gw": {}})));
    (nodes, agent)
}

fn all(nodes: &[Node]) -> Vec<String> {
    Node::routes_to(&[&nodes[1], &nodes[2]])
}

fn broken(sb: &Sandbox) {
    let (nodes, agent) = started(sb, true);
    until("routes", || nodes[0].routes() == all(&nodes));
    for (text, reason) in [
        ("n1 192.0.2.1\nn2 nobody\n", "line 2: \"nobody\""),
        ("n2 192.0.2.2 10.42.2.0/24\nn2 192.0.2.3\n", "line 2: node n2"),
    ] {
        write(text);
        until("it says so", || agent.log().contains(reason) && nodes[0].ask("/healthz").contains(reason));
        assert!(nodes[0].ask("/healthz").starts_with("HTTP/1.0 503 ") && agent.log().contains("nothing changes"));
        assert_eq!(nodes[0].routes(), all(&nodes));
    }
    fs::remove_file(NODES).unwrap();
    until("it is absent", || agent.log().contains("cannot read /run/nodes"));
    // What is not there is a source that is away, and no list without nodes.
    assert_eq!(nodes[0].routes(), all(&nodes));
    write("");
    until("it isn't among them", || agent.log().contains("this node, n1, is not among the 0 nodes"));
    assert_eq!(nodes[0].routes(), all(&nodes));
    list(&nodes[..2]);
    until("it goes on", || nodes[0].routes() == Node::routes_to(&[&nodes[1]]) && nodes[0].is_healthy());
}

fn absent(sb: &Sandbox) {
    let (nodes, agent) = started(sb, false);
    until("it says so", || agent.log().contains("cannot read /run/nodes"));
    assert!(!nodes[0].is_healthy() && !fs::exists(nodes[0].conflist()).unwrap());
    list(&nodes);
    until("routes", || nodes[0].routes() == all(&nodes));
    until("health", || nodes[0].is_healthy());
    assert!(fs::exists(nodes[0].conflist()).unwrap());
}

/// As an editor does it, and as the kubelet does it with a ConfigMap.
fn in_place(sb: &Sandbox) {
    let (nodes, _agent) = started(sb, true);
    until("routes", || nodes[0].routes() == all(&nodes));
    fs::write(NODES, nodes[..2].iter().map(Node::line).collect::<String>()).unwrap();
    until("one is gone", || nodes[0].routes() == Node::routes_to(&[&nodes[1]]));
    let line = |node: &Node| node.line();
    for (dir, listed) in [("/run/one", vec![&nodes[0], &nodes[2]]), ("/run/two", nodes.iter().collect())] {
        fs::create_dir(dir).unwrap();
        fs::write(format!("{dir}/nodes"), listed.into_iter().map(line).collect::<String>()).unwrap();
    }
    nodes[0].ns.sh(&["ln", "-s", "one", "/run/data"]);
    nodes[0].ns.sh(&["ln", "-sf", "data/nodes", NODES]);
    until("by a link", || nodes[0].routes() == Node::routes_to(&[&nodes[2]]));
    nodes[0].ns.sh(&["ln", "-s", "two", "/run/data.new"]);
    fs::rename("/run/data.new", "/run/data").unwrap();
    until("by another directory", || nodes[0].routes() == all(&nodes));
}

fn by_address(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    list(&nodes);
    let mut config = nodes[0].config(&json!({"host-gw": {}}));
    config["node"] = json!("another-name");
    let _agent = nodes[0].start(sb, &config);
    until("routes", || nodes[0].routes() == all(&nodes));
    assert!(fs::read_to_string(nodes[0].conflist()).unwrap().contains("10.42.1.0/24"));
}

fn unknown(sb: &Sandbox) {
    let (nodes, agent) = started(sb, false);
    write(&nodes[1..].iter().map(Node::line).collect::<String>());
    until("it says so", || agent.log().contains("this node, n1, is not among the 2 nodes"));
    assert_eq!(nodes[0].routes(), [] as [String; 0]);
    assert!(!nodes[0].is_healthy());
}

fn no_subnet(sb: &Sandbox) {
    let (nodes, agent) = started(sb, false);
    write(&format!("n1 192.0.2.1\n{}{}", nodes[1].line(), nodes[2].line()));
    until("it says so", || agent.log().contains("this node, n1, has no subnet yet"));
    assert!(!fs::exists(nodes[0].conflist()).unwrap());
    assert_eq!(nodes[0].routes(), all(&nodes));
    list(&nodes);
    until("the network", || fs::exists(nodes[0].conflist()).unwrap());
}

fn http(sb: &Sandbox) {
    let (nodes, _agent) = started(sb, true);
    until("health", || nodes[0].is_healthy());
    assert!(nodes[0].ask("/").starts_with("HTTP/1.0 404 "));
    let post = "printf 'POST /healthz HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 9469";
    assert!(nodes[0].ns.sh(&["sh", "-c", post]).starts_with("HTTP/1.0 400 "));
    // Neither silence nor length keeps others out for long.
    let silent = nodes[0].ns.run(|| std::net::TcpStream::connect("127.0.0.1:9469").unwrap());
    assert!(nodes[0].is_healthy());
    drop(silent);
    assert!(
        nodes[0]
            .ns
            .sh(&["sh", "-c", "head -c 100000 /dev/zero | nc -w 5 127.0.0.1 9469 || true"])
            .starts_with("HTTP/1.0 400 ")
            || nodes[0].is_healthy()
    );
}
