//! What the kernel has, read with the tools an operator would use (`ip -j`, `/proc/sys`).

use std::fs;

use serde_json::Value;

use crate::netns::Netns;

/// The link `name` as `ip -d -j link` shows it; `None` if there is none.
pub fn link(ns: &Netns, name: &str) -> Option<Value> {
    links(ns).into_iter().find(|l| l["ifname"] == name)
}

/// All links.
pub fn links(ns: &Netns) -> Vec<Value> {
    array(&ns.sh(&["ip", "-d", "-j", "link", "show"]))
}

/// All links, listed until two lists have the same: a link that goes while the kernel lists them can hide another one
/// (`NLM_F_DUMP_INTR`).
pub fn settled_links(ns: &Netns) -> Vec<Value> {
    let names = |links: &[Value]| links.iter().map(|link| link["ifname"].clone()).collect::<Vec<_>>();
    let mut listed = links(ns);
    loop {
        let again = links(ns);
        if names(&again) == names(&listed) {
            return again;
        }
        listed = again;
    }
}

/// The names of all links.
pub fn link_names(ns: &Netns) -> Vec<String> {
    links(ns).iter().filter_map(|l| l["ifname"].as_str().map(str::to_owned)).collect()
}

/// True if the link has the flag (`UP`, `PROMISC`, ...).
pub fn has_flag(link: &Value, flag: &str) -> bool {
    link["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == flag))
}

/// The addresses of a link that are not link-local, as `address/prefix`, in the kernel's order.
pub fn addresses(ns: &Netns, link: &str) -> Vec<String> {
    let shown = array(&ns.sh(&["ip", "-j", "addr", "show", "dev", link]));
    let infos = shown.iter().filter_map(|l| l["addr_info"].as_array()).flatten();
    let global = infos.filter(|a| a["scope"] != "link");
    global.map(|a| format!("{}/{}", a["local"].as_str().unwrap_or("?"), a["prefixlen"])).collect()
}

/// The routes of one family (`-4` or `-6`) in the main table, as `ip -j` shows them.
pub fn routes(ns: &Netns, family: &str) -> Vec<Value> {
    array(&ns.sh(&["ip", "-j", family, "route", "show"]))
}

/// The default routes of one family as `gateway dev device`.
pub fn default_routes(ns: &Netns, family: &str) -> Vec<String> {
    let default = |r: &&Value| r["dst"] == "default";
    let text =
        |r: &Value| format!("{} dev {}", r["gateway"].as_str().unwrap_or("direct"), r["dev"].as_str().unwrap_or("?"));
    routes(ns, family).iter().filter(default).map(text).collect()
}

/// A value below `/proc/sys/net`, without the line end; `None` if it isn't there.
pub fn sysctl(ns: &Netns, key: &str) -> Option<String> {
    ns.run(|| fs::read_to_string(format!("/proc/sys/net/{key}")).ok().map(|v| v.trim().to_owned()))
}

/// Writes a value below `/proc/sys/net`.
pub fn set_sysctl(ns: &Netns, key: &str, value: &str) {
    ns.run(|| fs::write(format!("/proc/sys/net/{key}"), value)).unwrap_or_else(|e| panic!("sysctl {key}: {e}"));
}

/// `ip -j` prints nothing at all where there is nothing to show, and `{}` for some kinds of nothing.
pub fn array(text: &str) -> Vec<Value> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let list: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("ip -j: {e}: {text}"));
    let empty = |v: &Value| v.as_object().is_some_and(serde_json::Map::is_empty);
    list.as_array().into_iter().flatten().filter(|v| !empty(v)).cloned().collect()
}
