//! The protocol's edge: what a plugin says about itself and how it takes its environment and its streams.

use std::path::Path;

use cni_tests::sandbox::FAKES;
use cni_tests::{Call, Netns, Sandbox, Snapshot, conf};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common, improved, newer};
use cni_tests::plugins::{PLUGINS, VERSIONS, minimal, prepare, ready};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = PLUGINS.iter().flat_map(|plugin| of(plugin)).collect();
    cases.push(common("ipam_is_searched_in_cni_path_only", ipam_path));
    cases
}

fn of(plugin: &'static str) -> Vec<Case> {
    let name = |what: &str| format!("{plugin}::{what}");
    vec![
        common(name("about_text_without_command"), move |sb| about(sb, plugin)),
        // The Go plugin of that name knows the versions from 0.3.0 on.
        common(name("version_lists_supported_versions"), move |sb| version(sb, plugin))
            .based_on(if plugin == "bandwidth" { Basis::Improved } else { Basis::Common }),
        newer(name("version_lists_1.1.0"), move |sb| {
            assert!(sb.versions(plugin).iter().any(|v| v == "1.1.0"), "{:?}", sb.versions(plugin));
        }),
        common(name("missing_variables_are_all_named"), move |sb| missing(sb, plugin)),
        common(name("gc_and_status_need_no_attachment"), move |sb| unattached(sb, plugin)),
        common(name("check_needs_0.4.0"), move |sb| gate(sb, plugin, "CHECK", &VERSIONS[..4])),
        newer(name("gc_needs_1.1.0"), move |sb| gate(sb, plugin, "GC", &VERSIONS[..6])),
        newer(name("status_needs_1.1.0"), move |sb| gate(sb, plugin, "STATUS", &VERSIONS[..6])),
        common(name("unknown_version_names_the_supported"), move |sb| unknown_version(sb, plugin)),
        common(name("bad_json_outranks_unknown_verb"), move |sb| {
            let ns = sb.container("c1");
            let error = ready(sb, plugin, "FOO", "0.4.0", &ns).stdin("{").run().error();
            assert_eq!(error.code, 6, "{error:?}");
        }),
        common(name("keys_in_any_letter_case"), move |sb| letter_case(sb, plugin)),
        common(name("unknown_keys_are_ignored"), move |sb| unknown_keys(sb, plugin)),
        common(name("null_is_absent"), move |sb| null(sb, plugin)),
        newer(name("about_text_names_a_release"), move |sb| release(sb, plugin)),
        improved(name("add_with_stdout_closed_is_taken_back"), move |sb| closed_stdout(sb, plugin)),
        common(name("parameters_that_the_verb_does_not_use_are_ignored"), move |sb| tolerant(sb, plugin)),
        improved(name("the_same_in_gc_and_status"), move |sb| tolerant_unattached(sb, plugin)),
        improved(name("names_longer_than_a_file_s"), move |sb| long_names(sb, plugin)),
        improved(name("errors_carry_cniversion"), move |sb| {
            let ns = sb.container("c1");
            let call = ready(sb, plugin, "ADD", "0.4.0", &ns).env("CNI_CONTAINERID", "-x");
            let error = call.run().error();
            assert!(error.version.is_some(), "{error:?}");
        }),
    ]
}

fn about(sb: &Sandbox, plugin: &str) {
    let said = sb.plugin(plugin, "").without("CNI_PATH").run();
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), ""), "{said}");
    let mut lines = said.stderr.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.contains(plugin), "the first line names the plugin: {said}");
    let second = lines.next().unwrap_or_default();
    for version in sb.versions(plugin) {
        assert!(second.contains(&version), "the second line lists {version}: {said}");
    }
}

/// nerdctl reads a version from what follows "CNI firewall plugin ", and wants 1.7.1 for "isolated". Installers compare the line.
fn release(sb: &Sandbox, plugin: &str) {
    let said = sb.plugin(plugin, "").run();
    let first = said.stderr.lines().next().unwrap_or_default();
    let version = first.strip_prefix(&format!("CNI {plugin} plugin v"));
    let numbers: Option<Vec<u32>> = version.and_then(|text| text.split('.').map(|part| part.parse().ok()).collect());
    assert!(numbers.as_ref().is_some_and(|found| found.len() == 3 && *found >= vec![1, 7, 1]), "{said}");
}

/// A call of the plugin through a shell that closes its stdout.
fn without_stdout(sb: &Sandbox, plugin: &str, call: Call) -> Call {
    sb.fake("closing", &format!("exec {} >&-", sb.dir().join(plugin).display()));
    call.by(Path::new(FAKES).join("closing"))
}

fn closed_stdout(sb: &Sandbox, plugin: &str) {
    let ns = if plugin == "tuning" { sb.container_with_eth0() } else { sb.container("c1") };
    let mut conf = minimal(plugin, "1.0.0");
    conf["mtu"] = 1400.into();
    let call = |verb| ready(sb, plugin, verb, "1.0.0", &ns).conf(&conf);
    // What all attachments share is there.
    call("ADD").run().result();
    call("DEL").run().silent();
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let refused = without_stdout(sb, plugin, call("ADD")).run();
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("stdout"), "{refused}");
    let after = Snapshot::of(&[&sb.node(), &ns]);
    // The Go plugin's lock, and where the next allocation starts.
    after.same_but(&before, &["last_reserved_ip"]);
    call("ADD").run().result();
    without_stdout(sb, plugin, call("DEL")).run().silent();
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["last_reserved_ip"]);
    // A stdout that leads to nowhere is one.
    let ended = call("ADD").by(nowhere(sb, plugin)).run();
    assert_eq!(ended.code, Some(0), "{ended}");
}

fn nowhere(sb: &Sandbox, plugin: &str) -> std::path::PathBuf {
    sb.fake("discarding", &format!("exec {} <&0 1<>/dev/null", sb.dir().join(plugin).display()));
    Path::new(FAKES).join("discarding")
}

/// Texts for a key that no plugin knows, which a strict decoder refuses and Go's doesn't.
fn odd_values() -> Vec<Vec<u8>> {
    let deep = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    vec![
        br#"{"owner":"J"#.iter().chain(b"\xfcrgen\"}").copied().collect(),
        br#""\ud83d""#.to_vec(),
        br#"["a \udc00 b", {"\ud83dkey": "\\ud83d"}]"#.to_vec(),
        b"1e400".to_vec(),
        b"[-1E+999, 1e-999]".to_vec(),
        deep(200),
        deep(9000),
    ]
}

/// The configuration with such a key, at its top and in each object that the plugin does know.
fn odd_texts(conf: &Value) -> Vec<Vec<u8>> {
    let mut marked = conf.clone();
    for key in ["", "/ipam", "/args/cni", "/runtimeConfig"] {
        if let Some(object) = marked.pointer_mut(key).and_then(Value::as_object_mut) {
            object.insert("com.example/x".to_owned(), "ODD".into());
        }
    }
    let text = marked.to_string();
    let filled = |odd: Vec<u8>| {
        let parts: Vec<&[u8]> = text.split("\"ODD\"").map(str::as_bytes).collect();
        parts.join(&odd[..])
    };
    odd_values().into_iter().map(filled).collect()
}

fn with_args(plugin: &str, version: &str) -> Value {
    let mut conf = minimal(plugin, version);
    conf["args"] = json!({"cni": {}});
    conf["runtimeConfig"] = json!({});
    conf
}

fn tolerant(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    for text in odd_texts(&with_args(plugin, "1.0.0")) {
        let call = |verb| ready(sb, plugin, verb, "1.0.0", &ns).bytes(&text).run();
        call("ADD").result();
        call("DEL").silent();
    }
    let mut broken = minimal(plugin, "1.0.0").to_string().into_bytes();
    broken.pop();
    broken.extend_from_slice(b",\"x\":[\"\xfc\",}");
    for verb in ["ADD", "DEL"] {
        let error = ready(sb, plugin, verb, "1.0.0", &ns).bytes(&broken).run().error();
        assert_eq!(error.code, 6, "{error:?}");
    }
}

fn tolerant_unattached(sb: &Sandbox, plugin: &str) {
    sb.needs(plugin, "1.1.0");
    prepare(sb, plugin);
    let mut conf = with_args(plugin, "1.1.0");
    conf["cni.dev/valid-attachments"] = json!([]);
    for text in odd_texts(&conf) {
        for verb in ["GC", "STATUS"] {
            sb.plugin(plugin, verb).bytes(&text).run().silent();
        }
    }
}

/// The grammar of both has no limit; a file's name has 255 bytes, and the name of tuning's ends in `_eth0.json`.
fn long_names(sb: &Sandbox, plugin: &str) {
    for length in [244, 245, 246, 255, 256, 3000] {
        let ns: Netns = if plugin == "tuning" { sb.container_with_eth0() } else { sb.container("c1") };
        let mut conf = minimal(plugin, "1.0.0");
        conf["mtu"] = 1400.into();
        let call =
            |verb, conf: &Value, id: &str| ready(sb, plugin, verb, "1.0.0", &ns).names(id, "eth0").conf(conf).run();
        call("ADD", &conf, "warm").result();
        call("DEL", &conf, "warm").silent();
        let before = Snapshot::of(&[&sb.node(), &ns]);
        let id = "i".repeat(length);
        let mut named = conf.clone();
        named["name"] = "n".repeat(length).into();
        for (conf, id) in [(&conf, id.as_str()), (&named, "c1"), (&named, id.as_str())] {
            // A DEL of what never was, too.
            call("DEL", conf, id).silent();
            let result = call("ADD", conf, id).result();
            let mut with_result = conf.clone();
            with_result["prevResult"] = result;
            call("CHECK", &with_result, id).silent();
            call("DEL", conf, id).silent();
            Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &["/var/lib/cni/networks", "last_reserved_ip"]);
        }
        assert!(no_reservations(), "{length}");
        ns.delete();
        let _ = sb.node().holds(&["ip", "link", "del", "host0"]);
    }
}

fn no_reservations() -> bool {
    let networks = std::fs::read_dir("/var/lib/cni/networks").into_iter().flatten().flatten();
    let files = networks.flat_map(|network| std::fs::read_dir(network.path()).into_iter().flatten().flatten());
    !files.map(|file| file.file_name().to_string_lossy().into_owned()).any(|name| name.starts_with("10."))
}

fn ipam_path(sb: &Sandbox) {
    let ns = sb.container("c1");
    let mut conf = conf::named("1.0.0", conf::bridge());
    conf["ipam"] = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
    let before = Snapshot::of(&[&sb.node(), &ns]);
    for call in [ready(sb, "bridge", "ADD", "1.0.0", &ns), ready(sb, "bridge", "DEL", "1.0.0", &ns)] {
        let error = call.conf(&conf).without("CNI_PATH").run().error();
        assert_eq!(error.code, 4, "{error:?}");
        error.names(&["CNI_PATH"]);
    }
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

fn version(sb: &Sandbox, plugin: &str) {
    // Runtimes ask with nothing on stdin, with a body, with and without the other variables.
    let body = r#"{"cniVersion":"1.0.0"}"#;
    for call in [
        sb.plugin(plugin, "VERSION"),
        sb.plugin(plugin, "VERSION").without("CNI_PATH"),
        sb.plugin(plugin, "VERSION").stdin(body),
        sb.plugin(plugin, "VERSION").names("dummy", "dummy").env("CNI_NETNS", "dummy").stdin(body),
    ] {
        let said = call.run().result();
        assert!(VERSIONS.contains(&said["cniVersion"].as_str().unwrap_or_default()), "{said}");
        let list = said["supportedVersions"].as_array().cloned().unwrap_or_default();
        // The Go plugin came with 0.4.0 and refuses older ones.
        let oldest = if plugin == "firewall" { 4 } else { 0 };
        for version in &["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"][oldest..] {
            assert!(list.iter().any(|v| v == *version), "{version} is missing in {said}");
        }
    }
}

fn missing(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    let required: [(&str, &[&str]); 3] = [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ];
    for (verb, variables) in required {
        let full = ready(sb, plugin, verb, "0.4.0", &ns);
        for variable in variables {
            // Empty counts as missing.
            for call in [full.clone().without(variable), full.clone().env(variable, "")] {
                let error = call.run().error();
                assert_eq!(error.code, 4, "{verb} without {variable}: {error:?}");
                error.names(&[variable]);
            }
        }
        let none = variables.iter().fold(full.clone(), |call, variable| call.without(variable));
        none.run().error().names(variables);
    }
}

fn unattached(sb: &Sandbox, plugin: &str) {
    sb.needs(plugin, "1.1.0");
    prepare(sb, plugin);
    for verb in ["GC", "STATUS"] {
        let mut conf = minimal(plugin, "1.1.0");
        conf["cni.dev/valid-attachments"] = json!([]);
        sb.plugin(plugin, verb).conf(&conf).run().silent();
        // What happens to be set isn't validated.
        sb.plugin(plugin, verb).names("-x", "a/b").conf(&conf).run().silent();
    }
}

fn gate(sb: &Sandbox, plugin: &str, verb: &str, too_old: &[&str]) {
    if verb != "CHECK" {
        sb.needs(plugin, "1.1.0");
    }
    let ns = sb.container("c1");
    for version in too_old {
        let error = ready(sb, plugin, verb, version, &ns).run().error();
        assert_eq!(error.code, 1, "{verb} at {version}: {error:?}");
        error.names(&[verb]);
    }
}

fn unknown_version(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    for (verb, version) in [("ADD", "9.9.9"), ("DEL", "9.9.9"), ("ADD", "abc"), ("DEL", "0.4"), ("CHECK", "0.4.1")] {
        let error = ready(sb, plugin, verb, version, &ns).run().error();
        assert_eq!(error.code, 1, "{verb} at {version}: {error:?}");
        error.names(&[version, "0.4.0", "1.0.0"]);
    }
    let error = ready(sb, plugin, "CHECK", "9.9.9", &ns).run().error();
    assert_eq!(error.code, 1, "{error:?}");
}

/// Go's decoder matches keys in any letter case, and containerd relies on it.
fn letter_case(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    let text = minimal(plugin, "0.4.0").to_string();
    let shouted = text.replace("\"cniVersion\"", "\"CNIVERSION\"").replace("\"name\"", "\"Name\"");
    let shouted = shouted.replace("\"bridge\":\"br", "\"BRIDGE\":\"br").replace("\"ranges\"", "\"Ranges\"");
    let shouted = shouted.replace("\"subnet\"", "\"SUBNET\"").replace("\"prevResult\"", "\"PREVRESULT\"");
    let result = ready(sb, plugin, "ADD", "0.4.0", &ns).stdin(&shouted).run().result();
    assert_eq!(result["cniVersion"], "0.4.0", "{result}");
    if plugin == "bridge" {
        assert_eq!(result["interfaces"][0]["name"], "br-test", "{result}");
    }
}

fn unknown_keys(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    let mut conf = minimal(plugin, "1.0.0");
    conf["com.example/anything"] = json!({"a": [1, 2, 3]});
    ready(sb, plugin, "ADD", "1.0.0", &ns).conf(&conf).run().result();
}

fn null(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    let mut conf = minimal(plugin, "0.4.0");
    for key in ["dns", "args", "runtimeConfig", "capabilities", "mtu", "hairpinMode", "snat", "vlanTrunk"] {
        conf[key] = Value::Null;
    }
    ready(sb, plugin, "ADD", "0.4.0", &ns).conf(&conf).run().result();
    // A null version is an absent one: 0.1.0, which needs an address to say.
    if plugin == "host-local" {
        conf["cniVersion"] = Value::Null;
        let result = ready(sb, plugin, "ADD", "0.4.0", &ns).names("c2", "eth0").conf(&conf).run().result();
        assert!(result["ip4"]["ip"].is_string(), "{result}");
    }
}
