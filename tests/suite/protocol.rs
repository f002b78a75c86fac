//! The protocol's edge: what a plugin says about itself and how it takes its environment and stdin.

use cni_tests::Sandbox;

use crate::case::{Case, common, improved, newer};
use crate::each::{PLUGINS, VERSIONS, minimal, ready};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    PLUGINS.iter().flat_map(|plugin| of(plugin)).collect()
}

fn of(plugin: &'static str) -> Vec<Case> {
    let name = |what: &str| format!("protocol::{plugin}::{what}");
    vec![
        common(name("about_text_without_command"), move |sb| about(sb, plugin)),
        common(name("version_lists_supported_versions"), move |sb| version(sb, plugin)),
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
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
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
    for verb in ["GC", "STATUS"] {
        let mut conf = minimal(plugin, "1.1.0");
        conf["cni.dev/valid-attachments"] = serde_json::json!([]);
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
    conf["com.example/anything"] = serde_json::json!({"a": [1, 2, 3]});
    ready(sb, plugin, "ADD", "1.0.0", &ns).conf(&conf).run().result();
}

fn null(sb: &Sandbox, plugin: &str) {
    let ns = sb.container("c1");
    let mut conf = minimal(plugin, "0.4.0");
    for key in ["dns", "args", "runtimeConfig", "capabilities", "mtu", "hairpinMode", "snat", "vlanTrunk"] {
        conf[key] = serde_json::Value::Null;
    }
    ready(sb, plugin, "ADD", "0.4.0", &ns).conf(&conf).run().result();
    // A null version is an absent one: 0.1.0, which needs an address to say.
    if plugin == "host-local" {
        conf["cniVersion"] = serde_json::Value::Null;
        let result = ready(sb, plugin, "ADD", "0.4.0", &ns).names("c2", "eth0").conf(&conf).run().result();
        assert!(result["ip4"]["ip"].is_string(), "{result}");
    }
}
