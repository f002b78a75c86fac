//! Addresses from an IPAM plugin, with its DEL registered before its ADD is started.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;

use crate::delegation::{Delegates, Running};
use crate::process::undo::Undo;
use crate::protocol::error::CniError;
use crate::protocol::json;
use crate::protocol::result::CniResult;
use crate::protocol::verb::Verb;
use crate::protocol::version::SpecVersion;

/// The part of a configuration's `ipam` that concerns the plugin that calls IPAM.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    /// The IPAM plugin; empty if there is none.
    #[serde(rename = "type")]
    pub plugin_type: String,
    /// host-local's subnet, if it has one. Any value: other plugins may use the key for something else.
    pub subnet: Value,
    /// The gateway of that subnet, if it is configured.
    pub gateway: Value,
    /// host-local's ranges.
    pub ranges: Value,
    /// static's addresses.
    pub addresses: Value,
}

impl IpamConfig {
    /// The subnets that host-local gives addresses of, as far as they can be read here.
    pub fn subnets(&self) -> Vec<IpNetwork> {
        let sets = self.ranges.as_array().into_iter().flatten();
        let of_ranges = sets.filter_map(Value::as_array).flatten().filter_map(|range| network_of(range, "subnet"));
        of_ranges.chain(network(&self.subnet)).collect()
    }

    /// host-local's range sets, each of which gives an attachment one address of one of its ranges, as far as they can be read
    /// here: the subnets, each with its gateway where one is configured. None for another plugin, whose keys may mean
    /// something else.
    pub fn range_sets(&self) -> Vec<Vec<(IpNetwork, Option<IpAddr>)>> {
        if self.plugin_type != "host-local" {
            return Vec::new();
        }
        let range = |range: &Value| {
            let gateway = json::get(range.as_object()?, "gateway").and_then(address);
            Some((network_of(range, "subnet")?, gateway))
        };
        let sets = self.ranges.as_array().into_iter().flatten().filter_map(Value::as_array);
        let of_ranges = sets.map(|set| set.iter().filter_map(range).collect());
        let single = network(&self.subnet).map(|subnet| vec![(subnet, address(&self.gateway))]);
        of_ranges.chain(single).collect()
    }

    /// The subnets, and the addresses that static gives, as far as they can be read here.
    pub fn networks(&self) -> Vec<IpNetwork> {
        let addresses = self.addresses.as_array().into_iter().flatten();
        let given = addresses.filter_map(|entry| network_of(entry, "address"));
        self.subnets().into_iter().chain(given).collect()
    }
}

fn network_of(entry: &Value, key: &str) -> Option<IpNetwork> {
    network(json::get(entry.as_object()?, key)?)
}

fn network(text: &Value) -> Option<IpNetwork> {
    text.as_str()?.parse().ok()
}

fn address(text: &Value) -> Option<IpAddr> {
    text.as_str()?.parse().ok()
}

/// The IPAM plugin of a configuration (`ipam.type`).
#[derive(Debug, Clone)]
pub struct Ipam {
    delegates: Delegates,
    plugin_type: String,
    version: SpecVersion,
}

impl Ipam {
    /// The IPAM plugin `plugin_type`, whose results are of `version` unless they say otherwise.
    pub fn new(delegates: &Delegates, plugin_type: &str, version: SpecVersion) -> Self {
        Self { delegates: delegates.clone(), plugin_type: plugin_type.to_owned(), version }
    }

    /// Starts ADD and returns while it runs.
    ///
    /// Its DEL goes to `undo` first: whatever ADD does before it fails or is killed is taken back, as the spec asks for.
    /// So this must not be called for an attachment that exists already: the undo would release its addresses.
    pub fn start_add(&self, undo: &mut Undo) -> Result<PendingAdd, CniError> {
        self.find()?;
        let ipam = self.clone();
        undo.push(format!("the addresses from IPAM plugin {:?}", self.plugin_type), move || ipam.del());
        Ok(PendingAdd { running: self.delegates.start(&self.plugin_type, Verb::Add)?, ipam: self.clone() })
    }

    /// Releases the attachment's addresses; succeeds if there are none.
    pub fn del(&self) -> Result<(), CniError> {
        self.run(Verb::Del)
    }

    /// Asks whether the attachment's addresses are still reserved for it.
    pub fn check(&self) -> Result<(), CniError> {
        self.run(Verb::Check)
    }

    /// Passes GC on.
    pub fn gc(&self) -> Result<(), CniError> {
        self.run(Verb::Gc)
    }

    /// Asks whether an ADD could succeed now.
    pub fn status(&self) -> Result<(), CniError> {
        self.find().map_err(CniError::unavailable)?;
        self.delegates.start(&self.plugin_type, Verb::Status).map_err(CniError::unavailable)?.finish().map(drop)
    }

    fn run(&self, verb: Verb) -> Result<(), CniError> {
        self.find()?;
        self.delegates.run(&self.plugin_type, verb).map(drop)
    }

    /// A type that can't be started is an error of the configuration, and reported as one of its key.
    fn find(&self) -> Result<(), CniError> {
        let named = |error: CniError| CniError { msg: format!("ipam.type: {}", error.msg), ..error };
        self.delegates.find(&self.plugin_type).map(drop).map_err(named)
    }
}

/// A running IPAM ADD.
#[derive(Debug)]
pub struct PendingAdd {
    running: Running,
    ipam: Ipam,
}

impl PendingAdd {
    /// Waits for the end and returns the result, which has at least one address, and none that is unusable. Its routes have
    /// the destinations that the kernel will have, so that they can be reported as they are set.
    pub fn finish(self) -> Result<CniResult, CniError> {
        let plugin_type = &self.ipam.plugin_type;
        let stdout = self.running.finish()?;
        let value = json::parse(&stdout).map_err(|error| {
            let text = String::from_utf8_lossy(&stdout);
            CniError::plugin(format!("IPAM plugin {plugin_type:?} printed no JSON result: {error}")).details(text)
        })?;
        let mut result = CniResult::from_delegate(value, self.ipam.version)
            .map_err(|error| CniError::plugin(format!("result of IPAM plugin {plugin_type:?}: {error}")))?;
        if result.ips.is_empty() {
            return Err(CniError::plugin(format!(
                "IPAM plugin returned missing IP config: the result of {plugin_type:?} has no address"
            )));
        }
        for ip in &result.ips {
            ip.refuse_unusable()
                .map_err(|error| CniError::plugin(format!("result of IPAM plugin {plugin_type:?}: {error}")))?;
        }
        for route in &mut result.routes {
            route.dst = route.kernel_dst();
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subnets_and_addresses_are_read_whatever_else_there_is() {
        let config: IpamConfig = json::decode(json!({
            "type": "x", "subnet": "10.0.0.0/24", "ranges": [[{"Subnet": "fd00::/64"}, {"subnet": 7}], "y"],
            "addresses": [{"address": "10.1.0.5/24"}, {}]
        }))
        .unwrap();
        let shown = |networks: Vec<IpNetwork>| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(config.subnets()), ["fd00::/64", "10.0.0.0/24"]);
        assert_eq!(shown(config.networks()), ["fd00::/64", "10.0.0.0/24", "10.1.0.5/24"]);
        let sets: IpamConfig = json::decode(json!({
            "type": "host-local", "subnet": "10.0.0.0/24", "gateway": "10.0.0.9",
            "ranges": [[{"subnet": "fd00::/64"}, {"subnet": "fd01::/64"}], []]
        }))
        .unwrap();
        let shown: Vec<String> = sets.range_sets().iter().map(|found| format!("{found:?}")).collect();
        assert_eq!(shown.len(), 3);
        assert!(shown[0].contains("fd01::") && shown[0].contains("None") && shown[2].contains("10.0.0.9"), "{shown:?}");
    }
}
