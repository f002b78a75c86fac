//! The VLANs of the container's port: what `vlan`, `vlanTrunk` and `preserveDefaultVlan` mean together.

use std::collections::BTreeSet;

use cni_net::Vlan;

use crate::config::{Config, VlanTrunk};

/// IEEE 802.1Q: 0 is for frames without a VLAN, 4095 is reserved.
const LAST: i64 = 4094;
/// The VLAN of a trunk's untagged frames unless `vlan` names another (the Go plugin's choice).
const NATIVE: u16 = 1;

/// Why the VLANs are refused.
#[derive(Debug, thiserror::Error)]
pub enum VlanError {
    /// `vlan` out of range.
    #[error("invalid VLAN ID {0} (must be between 0 and {LAST}): vlan {0} is out of range")]
    Id(i64),
    /// An entry's number out of range.
    #[error("vlanTrunk: {key} {value} is out of range: it must be between 1 and {LAST}")]
    TrunkId {
        /// `id`, `minID` or `maxID`.
        key: &'static str,
        /// As configured.
        value: i64,
    },
    /// Half of a range.
    #[error("vlanTrunk: {present} {value} without {missing}: set both minID and maxID")]
    Half {
        /// The half that is there.
        present: &'static str,
        /// Its value.
        value: i64,
        /// The half that isn't.
        missing: &'static str,
    },
    /// A range that ends before it begins.
    #[error("vlanTrunk: minID {min} is greater than maxID {max}")]
    Order {
        /// As configured.
        min: i64,
        /// As configured.
        max: i64,
    },
}

/// What the container's port should be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortVlans {
    /// The VLAN of untagged frames, if `vlan` names one.
    pub access: Option<u16>,
    /// All VLANs of the port, in ascending order; empty leaves the port as the bridge makes it.
    pub wanted: Vec<Vlan>,
    /// The port stays in the bridge's default VLAN too.
    pub keep_default: bool,
}

impl PortVlans {
    /// `None` if the network uses no VLANs. `vlanTrunk` counts even if it is empty, as it does in Go:
    /// the bridge is made with VLAN filtering.
    ///
    /// A trunk that contains `vlan` keeps it as the VLAN of untagged frames: a native VLAN.
    pub fn resolve(config: &Config) -> Result<Option<Self>, VlanError> {
        if !(0..=LAST).contains(&config.vlan) {
            return Err(VlanError::Id(config.vlan));
        }
        let access = u16::try_from(config.vlan).ok().filter(|id| *id != 0);
        let trunk = trunk_ids(config.vlan_trunk.as_deref().unwrap_or_default())?;
        if access.is_none() && config.vlan_trunk.is_none() {
            return Ok(None);
        }
        let untagged = access.or((!trunk.is_empty()).then_some(NATIVE));
        let ids: BTreeSet<u16> = trunk.into_iter().chain(untagged).collect();
        let vlan = |id| Vlan { id, pvid: Some(id) == untagged, untagged: Some(id) == untagged };
        Ok(Some(Self {
            access,
            wanted: ids.into_iter().map(vlan).collect(),
            keep_default: config.preserve_default_vlan,
        }))
    }

    /// A port for the gateway: in the container's VLAN, without a tag, and in no other.
    pub fn gateway_port(&self, access: u16) -> Self {
        let wanted = vec![Vlan { id: access, pvid: true, untagged: true }];
        Self { access: Some(access), wanted, keep_default: self.keep_default }
    }

    /// The default VLAN that the port must be taken out of, if it is to be.
    pub fn without(&self, default: Option<u16>) -> Option<u16> {
        let leaves =
            |id: &u16| !self.wanted.is_empty() && !self.keep_default && self.wanted.iter().all(|v| v.id != *id);
        default.filter(leaves)
    }

    /// True if a port with the VLANs `found` has what it should, and no more than the default one, if it may keep it.
    pub fn is_met_by(&self, found: &[Vlan], default: Option<u16>) -> bool {
        let kept = default.filter(|_| self.keep_default);
        self.wanted.iter().all(|vlan| found.contains(vlan))
            && found.iter().all(|vlan| self.wanted.contains(vlan) || Some(vlan.id) == kept)
    }
}

fn trunk_ids(trunk: &[VlanTrunk]) -> Result<BTreeSet<u16>, VlanError> {
    let mut ids = BTreeSet::new();
    for entry in trunk {
        match (entry.min_id, entry.max_id) {
            (Some(min), Some(max)) => {
                let (first, last) = (trunk_id("minID", min)?, trunk_id("maxID", max)?);
                if first > last {
                    return Err(VlanError::Order { min, max });
                }
                ids.extend(first..=last);
            }
            (Some(value), None) => return Err(VlanError::Half { present: "minID", value, missing: "maxID" }),
            (None, Some(value)) => return Err(VlanError::Half { present: "maxID", value, missing: "minID" }),
            (None, None) => {}
        }
        ids.extend(entry.id.map(|id| trunk_id("id", id)).transpose()?);
    }
    Ok(ids)
}

fn trunk_id(key: &'static str, value: i64) -> Result<u16, VlanError> {
    let id = u16::try_from(value).ok().filter(|_| (1..=LAST).contains(&value));
    id.ok_or(VlanError::TrunkId { key, value })
}

/// VLANs in the format of `bridge vlan`: `1 PVID untagged, 10-20`.
pub fn shown(vlans: &[Vlan]) -> String {
    let alike = |a: &Vlan, b: &Vlan| !a.untagged && !b.untagged && !a.pvid && !b.pvid && a.id + 1 == b.id;
    let words: Vec<String> = vlans
        .chunk_by(alike)
        .filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            let range = if first == last { first.id.to_string() } else { format!("{}-{}", first.id, last.id) };
            Some(format!(
                "{range}{}{}",
                if first.pvid { " PVID" } else { "" },
                if first.untagged { " untagged" } else { "" }
            ))
        })
        .collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolve(value: serde_json::Value) -> Result<Option<PortVlans>, String> {
        let config: Config = cni_plugin::json::decode(value).unwrap();
        PortVlans::resolve(&config).map_err(|error| error.to_string())
    }

    fn text(value: serde_json::Value) -> String {
        shown(&resolve(value).unwrap().unwrap().wanted)
    }

    #[test]
    fn an_access_port_and_trunks() {
        assert_eq!(resolve(json!({})).unwrap(), None);
        assert_eq!(text(json!({"vlan": 100})), "100 PVID untagged");
        assert_eq!(text(json!({"vlanTrunk": []})), "none");
        assert_eq!(text(json!({"vlanTrunk": [{"id": 10}]})), "1 PVID untagged, 10");
        let trunk = json!([{"minID": 20, "maxID": 22}, {"id": 21}, {"minID": 10, "maxID": 10, "id": 30}]);
        assert_eq!(text(json!({"vlan": 5, "vlanTrunk": trunk})), "5 PVID untagged, 10, 20-22, 30");
        let native = json!({"vlan": 11, "vlanTrunk": [{"minID": 10, "maxID": 12}]});
        assert_eq!(text(native), "10, 11 PVID untagged, 12");
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_key() {
        for (value, named) in [
            (json!({"vlan": 4095}), ["vlan", "4095"]),
            (json!({"vlan": -1}), ["vlan", "-1"]),
            (json!({"vlanTrunk": [{"id": 0}]}), ["vlanTrunk", "id 0"]),
            (json!({"vlanTrunk": [{"minID": 10}]}), ["minID 10", "maxID"]),
            (json!({"vlanTrunk": [{"maxID": 10}]}), ["maxID 10", "minID"]),
            (json!({"vlanTrunk": [{"minID": 20, "maxID": 10}]}), ["minID 20", "maxID 10"]),
            (json!({"vlanTrunk": [{"minID": 1, "maxID": 4095}]}), ["maxID", "4095"]),
        ] {
            let error = resolve(value).unwrap_err();
            assert!(named.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn a_port_is_in_its_vlans_and_in_no_other() {
        let vlans = |value| resolve(value).unwrap().unwrap();
        let tagged = |id| Vlan { id, pvid: false, untagged: false };
        let own = Vlan { id: 100, pvid: true, untagged: true };
        let first = Vlan { id: 1, pvid: false, untagged: true };
        let access = vlans(json!({"vlan": 100}));
        assert!(access.is_met_by(&[own], Some(1)));
        for found in [&[][..], &[tagged(100)], &[own, tagged(200)], &[first, own]] {
            assert!(!access.is_met_by(found, Some(1)), "{found:?}");
        }
        let keeping = vlans(json!({"vlan": 100, "preserveDefaultVlan": true}));
        assert!(keeping.is_met_by(&[first, own], Some(1)) && !keeping.is_met_by(&[first, own], Some(7)));
    }

    #[test]
    fn the_default_vlan_is_left_unless_it_is_wanted() {
        let vlans = |value| resolve(value).unwrap().unwrap();
        assert_eq!(vlans(json!({"vlan": 100})).without(Some(1)), Some(1));
        assert_eq!(vlans(json!({"vlan": 100, "preserveDefaultVlan": true})).without(Some(1)), None);
        assert_eq!(vlans(json!({"vlan": 1})).without(Some(1)), None);
        assert_eq!(vlans(json!({"vlanTrunk": []})).without(Some(1)), None);
        assert_eq!(vlans(json!({"vlan": 100})).without(None), None);
    }
}
