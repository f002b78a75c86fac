//! portmap: ports of the node that lead to a container, with both backends.

pub(crate) mod edges;
pub(crate) mod flows;
pub(crate) mod go;
pub(crate) mod iptables;
pub(crate) mod life;
pub(crate) mod nftables;
pub(crate) mod publish;
pub(crate) mod reach;
pub(crate) mod routed;
pub(crate) mod shares;

use std::cell::RefCell;

use cni_tests::conf::Backend;
use cni_tests::story::Story;
use cni_tests::{Chain, Netns, Sandbox, kernel, legacy};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// What a case with either backend does.
type Scenario = fn(&Sandbox, Backend);

/// Each story with each backend.
fn with_each_backend(stories: &[(&'static str, Scenario)]) -> Vec<Case> {
    let with = |backend: Backend| {
        let case = move |(what, story): &(&str, Scenario)| {
            let story = *story;
            improved(format!("{}::{what}", backend.name()), move |sb| story(sb, backend))
        };
        stories.iter().map(case)
    };
    Backend::ALL.into_iter().flat_map(with).collect()
}

/// A story with backend iptables on a node that has the legacy tools.
fn with_legacy_tools(what: &str, story: Scenario) -> Case {
    improved(format!("legacy_iptables::{what}"), move |sb| {
        LEGACY.set(Some(legacy::path()));
        story(sb, Backend::Iptables);
    })
}

thread_local! {
    /// The `PATH` of a case whose node has the old iptables.
    static LEGACY: RefCell<Option<String>> = const { RefCell::new(None) };
}

const PORT: u16 = 8080;

fn start(sb: &Sandbox, backend: Backend) -> Story<'_> {
    let story = Story::start(sb, backend);
    Story { chain: with_tools(story.chain.clone()), ..story }
}

/// With the tools that this case's node has.
fn with_tools(chain: Chain) -> Chain {
    LEGACY.with_borrow(|path| match path {
        Some(path) => chain.with_path(path),
        None => chain,
    })
}

/// Makes a namespace send what is for 127.0.0.1 to a neighbour.
pub(crate) fn route_loopback(ns: &Netns, link: &str, via: &str) {
    ns.sh(&["ip", "addr", "flush", "dev", "lo"]);
    ns.sh(&["ip", "route", "add", "127.0.0.1/32", "via", via]);
    for link in [link, "all"] {
        kernel::set_sysctl(ns, &format!("ipv4/conf/{link}/route_localnet"), "1");
    }
}

fn mapping(host: u16, container: u16, protocol: &str, host_ip: &str) -> Value {
    json!({"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": host_ip})
}
