//! The node's packet rules as lines of text, from `nft` and from both kinds of iptables.

use std::process::Command;

use serde_json::Value;

use crate::netns::Netns;

/// Every rule, chain, set and element of a namespace: one line each, sorted, without handles and counters.
pub fn all(ns: &Netns) -> Vec<String> {
    let mut lines = ns.run(|| [nft(), xtables()].concat());
    lines.sort();
    lines
}

/// The lines of [`all`] that contain `part`.
pub fn naming(ns: &Netns, part: &str) -> Vec<String> {
    all(ns).into_iter().filter(|line| line.contains(part)).collect()
}

/// The rules of one iptables table, as `iptables-save` prints them.
pub fn saved(ns: &Netns, tool: &str, table: &str) -> String {
    ns.run(|| text(tool, &["-t", table]))
}

/// The node's `nft` objects. Tables that iptables-nft made are left to `iptables-save`: `nft` can't show their matches.
fn nft() -> Vec<String> {
    let listed = text("nft", &["-j", "list", "ruleset"]);
    let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|e| panic!("nft -j: {e}: {listed}"));
    let objects = listed["nftables"].as_array().cloned().unwrap_or_default();
    objects.into_iter().filter(|o| o.get("metainfo").is_none()).flat_map(lines_of).filter(|l| !of_iptables(l)).collect()
}

/// One object as its line, a set or map as a line for itself and one for every element.
fn lines_of(mut object: Value) -> Vec<String> {
    scrub(&mut object);
    let Some((kind, body)) = object.as_object().and_then(|o| o.iter().next()).map(|(k, v)| (k.clone(), v.clone()))
    else {
        return Vec::new();
    };
    let mut body = body;
    let elements = body.as_object_mut().and_then(|b| b.remove("elem"));
    let name = format!("nft {} {} {}", text_of(&body, "family"), text_of(&body, "table"), text_of(&body, "name"));
    let mut lines = vec![format!("nft {kind} {body}")];
    let elements = elements.as_ref().and_then(Value::as_array).into_iter().flatten();
    lines.extend(elements.map(|element| format!("{name} element {element}")));
    lines
}

/// Removes what differs between two equal rule sets: handles, and counters' values.
fn scrub(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["handle", "packets", "bytes", "expires"] {
                map.remove(key);
            }
            map.values_mut().for_each(scrub);
        }
        Value::Array(list) => list.iter_mut().for_each(scrub),
        _ => {}
    }
}

fn text_of<'a>(body: &'a Value, key: &str) -> &'a str {
    body[key].as_str().unwrap_or("")
}

/// True for a line of the tables that iptables-nft keeps (`ip nat`, `ip6 filter`, ...).
fn of_iptables(line: &str) -> bool {
    let family = line.contains(r#""family":"ip""#) || line.contains(r#""family":"ip6""#);
    let table = |key: &str| {
        ["nat", "filter", "mangle", "raw", "security"].iter().any(|t| line.contains(&format!(r#""{key}":"{t}""#)))
    };
    let is_table = line.starts_with("nft table");
    family && (table("table") || is_table && table("name"))
}

/// Both kinds of iptables, both families, the tables that exist.
fn xtables() -> Vec<String> {
    let tools = ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
    let mut lines = Vec::new();
    for tool in tools {
        let mut table = String::new();
        for line in text(tool, &[]).lines() {
            if let Some(name) = line.strip_prefix('*') {
                name.clone_into(&mut table);
            } else if line.starts_with('-') || line.starts_with(':') && !line.contains(" ACCEPT ") {
                let line = line.split(" [").next().unwrap_or(line);
                lines.push(format!("{tool} {table} {line}"));
            }
        }
    }
    lines
}

fn text(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Deletes the first rule or element that contains `about`, as a careless administrator might; says which.
pub fn delete_one(ns: &Netns, about: &str) -> String {
    ns.run(|| delete_from_iptables(about).or_else(|| delete_from_nft(about)))
        .unwrap_or_else(|| panic!("no rule is about {about}"))
}

fn delete_from_iptables(about: &str) -> Option<String> {
    for tool in ["iptables-nft", "ip6tables-nft"] {
        let saved = text(tool, &["-t", "nat", "-S"]);
        if let Some(rule) = saved.lines().find(|l| l.starts_with("-A") && l.contains(about)) {
            // The shell takes the quotes of comments apart.
            let command = format!("{tool} -t nat -D {}", &rule[3..]);
            text("sh", &["-c", &command]);
            return Some(command);
        }
    }
    None
}

fn delete_from_nft(about: &str) -> Option<String> {
    let listed: Value = serde_json::from_str(&text("nft", &["-j", "list", "ruleset"])).ok()?;
    let target = listed["nftables"].as_array()?.iter().find_map(|object| {
        let (kind, body) = object.as_object()?.iter().next()?;
        let place = |key: &str| body[key].clone();
        match kind.as_str() {
            "rule" if body.to_string().contains(about) => Some(serde_json::json!({"rule": {
                "family": place("family"), "table": place("table"), "chain": place("chain"), "handle": place("handle")
            }})),
            "set" | "map" => {
                let element = body["elem"].as_array()?.iter().find(|e| e.to_string().contains(about))?;
                Some(serde_json::json!({"element": {
                    "family": place("family"), "table": place("table"), "name": place("name"), "elem": [element]
                }}))
            }
            _ => None,
        }
    })?;
    let command = serde_json::json!({"nftables": [{"delete": target}]}).to_string();
    std::fs::create_dir_all("/run/cni-test").ok()?;
    std::fs::write("/run/cni-test/delete", &command).ok()?;
    text("nft", &["-j", "-f", "/run/cni-test/delete"]);
    Some(command)
}
