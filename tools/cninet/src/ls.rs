//! `ls`: the networks of the configuration directories.

use cni_plugin::Owner;
use cni_runtime::NetworkList;
use serde::Serialize;

use crate::create::is_made_here;
use crate::failure::Failure;
use crate::node::Node;
use crate::output::{self, Table};
use crate::subnets;

/// How large a number of free addresses is shown as such.
const COUNTABLE: u128 = 1 << 32;

/// A network in the output of `ls --json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    name: String,
    file: String,
    cni_version: String,
    driver: String,
    plugins: Vec<String>,
    subnets: Vec<String>,
    /// `null` where host-local doesn't give them.
    addresses: Option<Addresses>,
    attachments: usize,
    created_by_cninet: bool,
}

#[derive(Debug, Serialize)]
struct Addresses {
    taken: usize,
    /// As a text if it is beyond 2^53, which not every reader of JSON can count to.
    free: serde_json::Value,
}

/// Prints the networks.
pub fn ls(node: &Node, json: bool, whole: bool) -> Result<(), Failure> {
    let networks = node.networks()?;
    for error in networks.files.iter().filter_map(|file| file.list.as_ref().err()) {
        eprintln!("not usable: {error}");
    }
    let (all, broken) = node.runtime.cache.owners()?;
    broken.iter().for_each(|error| eprintln!("{error}"));
    let described = |(path, list): (&std::path::Path, &NetworkList)| describe(path, list, &all);
    let found: Vec<Network> = networks.lists().map(described).collect();
    if json {
        return output::json(&found);
    }
    if found.is_empty() {
        eprintln!("no networks in {}: cninet create NAME makes one", networks.dirs());
    }
    let mut table = Table::new(&["NETWORK", "DRIVER", "SUBNETS", "FREE", "TAKEN", "ATTACHED"], whole);
    for network in found {
        let count = |count: Option<String>| count.unwrap_or_default();
        let (taken, free) = network.addresses.map(|of| (of.taken.to_string(), shown(&of.free))).unzip();
        let (subnets, attachments) = (network.subnets.join(","), network.attachments.to_string());
        table.row([network.name, network.driver, subnets, count(free), count(taken), attachments]);
    }
    table.print()
}

fn describe(path: &std::path::Path, list: &NetworkList, all: &[Owner]) -> Network {
    let plugins: Vec<String> = list.plugins.iter().map(|plugin| plugin.plugin_type.clone()).collect();
    let addresses = subnets::taken_and_free(list).map(|(taken, free)| {
        let exact = u64::try_from(free).ok().filter(|free| *free < 1 << 53);
        Addresses { taken, free: exact.map_or_else(|| free.to_string().into(), Into::into) }
    });
    Network {
        name: list.name.to_string(),
        file: path.display().to_string(),
        cni_version: list.cni_version.clone(),
        driver: plugins.first().cloned().unwrap_or_default(),
        plugins,
        subnets: subnets::ranges(list).iter().map(|range| range.subnet.to_string()).collect(),
        addresses,
        attachments: all.iter().filter(|one| one.network == list.name).count(),
        created_by_cninet: is_made_here(list),
    }
}

fn shown(free: &serde_json::Value) -> String {
    let text = free.as_str().map_or_else(|| free.to_string(), str::to_owned);
    match text.parse::<u128>() {
        Ok(free) if free > COUNTABLE => format!("2^{}", free.ilog2()),
        _ => text,
    }
}
