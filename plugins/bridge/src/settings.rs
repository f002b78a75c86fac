//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use cni_attach::ipam::{self, Layer2TooOld};
use cni_attach::mac::MacError;
use cni_attach::mtu::{self, MtuError};
use cni_attach::{MasqueradeError, MasqueradeSettings};
use cni_netfilter::UnknownBackend;
use cni_plugin::{CniArgs, Dns, Family, IfName, MacAddr, NameError, SpecVersion};

use crate::config::Config;
use crate::ifname_template::{Template, TemplateError};
use crate::mac;

use crate::vlan::{PortVlans, VlanError};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `bridge` or the interface's name.
    #[error("bridge: {0}")]
    Bridge(#[source] NameError),
    /// The container's hardware address.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// `mtu`.
    #[error(transparent)]
    Mtu(#[from] MtuError),
    /// Two keys that exclude each other.
    #[error("{0} and {1} exclude each other: remove one of them")]
    Conflict(&'static str, &'static str),
    /// `ipMasqBackend`.
    #[error(transparent)]
    Backend(#[from] UnknownBackend),
    /// Old results can't say that there is no address.
    #[error(transparent)]
    Layer2TooOld(#[from] Layer2TooOld),
    /// `ipMasqTo`.
    #[error(transparent)]
    MasqueradeTo(#[from] MasqueradeError),
    /// `ipMasqFamilies`.
    #[error("ipMasqFamilies: unknown family {0:?}: expected \"ipv4\" or \"ipv6\"")]
    Family(String),
    /// The template of the host's end.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The port's VLANs.
    #[error(transparent)]
    Vlan(#[from] VlanError),
    /// The name that `bridge` and `vlan` make.
    #[error("bridge and vlan: the gateway interface cannot be named {name:?}: {source}")]
    VlanGateway {
        /// `<bridge>.<vlan>`
        name: String,
        /// The rule that it breaks.
        source: NameError,
    },
    /// The delegate's name.
    #[error("ipam.type: {0:?} is not a plugin's name: it is a file name, without '/'")]
    Ipam(String),
}

/// Whether the network has addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Layer 2 only.
    Layer2 {
        /// The container's interface is set up.
        up: bool,
    },
    /// Addresses from this IPAM plugin.
    Layer3 {
        /// `ipam.type`
        ipam: String,
    },
}

/// A configuration without contradictions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The bridge's name.
    pub bridge: IfName,
    /// In bytes; `None` leaves it to the kernel.
    pub mtu: Option<u32>,
    /// The bridge receives every frame.
    pub promisc: bool,
    /// A frame may leave through the port it came from.
    pub hairpin: bool,
    /// Ports don't exchange frames.
    pub isolated: bool,
    /// The VLANs of the container's port, if it has any to do with them.
    pub vlans: Option<PortVlans>,
    /// The interface that is the gateway where the containers are in a VLAN.
    pub vlan_gateway: Option<IfName>,
    /// Frames with another source address than the container's are dropped.
    pub mac_guard: bool,
    /// The container's hardware address, if it is given.
    pub mac: Option<MacAddr>,
    /// The bridge gets the gateway's address.
    pub gateway: bool,
    /// The container's default route goes through it.
    pub default_gateway: bool,
    /// Conflicting addresses of the bridge are replaced.
    pub force_address: bool,
    /// Packets that leave the network get the node's address.
    pub masquerade: MasqueradeSettings,
    /// The name of the host's end; the default if none.
    pub host_name: Option<Template>,
    /// Duplicate address detection.
    pub dad: bool,
    /// With or without addresses.
    pub mode: Mode,
    /// Replaces what IPAM says.
    pub dns: Option<Dns>,
}

impl Settings {
    /// Resolves the configuration, and refuses options that can't be carried out before anything is changed.
    pub fn resolve(config: &Config, args: &CniArgs, version: SpecVersion) -> Result<Self, SettingsError> {
        if config.hairpin_mode && config.promisc_mode {
            return Err(SettingsError::Conflict("hairpinMode", "promiscMode"));
        }
        let mtu = mtu::configured(config.mtu, &config.ipam)?;
        let vlans = PortVlans::resolve(config)?;
        let bridge = bridge_name(config)?;
        let gateway = config.is_gateway || config.is_default_gateway;
        Ok(Self {
            vlan_gateway: if gateway { vlan_gateway(&bridge, vlans.as_ref())? } else { None },
            bridge,
            vlans,
            mac_guard: config.mac_spoof_check,
            mtu,
            promisc: config.promisc_mode,
            hairpin: config.hairpin_mode,
            isolated: config.port_isolation,
            mac: mac::of_container(config, args)?,
            gateway,
            default_gateway: config.is_default_gateway,
            force_address: config.force_address,
            masquerade: masquerade(config)?,
            host_name: config.host_interface_name.as_deref().map(Template::parse).transpose()?,
            dad: config.enable_dad,
            mode: mode(config, version)?,
            dns: config.dns.configured(),
        })
    }

    /// The IPAM plugin, if the network has one.
    pub fn ipam(&self) -> Option<&str> {
        match &self.mode {
            Mode::Layer2 { .. } => None,
            Mode::Layer3 { ipam } => Some(ipam),
        }
    }

    /// The interface that is the gateway, if the bridge has this name.
    pub fn gateway_name(&self, bridge: &IfName) -> Result<Option<IfName>, NameError> {
        let access = self.vlans.as_ref().and_then(|vlans| vlans.access).filter(|_| self.vlan_gateway.is_some());
        access.map(|access| format!("{bridge}.{access}").parse()).transpose()
    }

    /// The VLANs of the gateway interface's port.
    pub fn gateway_port(&self) -> Option<PortVlans> {
        let vlans = self.vlans.as_ref()?;
        Some(vlans.gateway_port(vlans.access?))
    }
}

/// `bridge`, or the name that the Go plugin gives.
pub fn bridge_name(config: &Config) -> Result<IfName, SettingsError> {
    config.bridge.as_deref().unwrap_or("cni0").parse().map_err(SettingsError::Bridge)
}

/// A network without addresses has nothing to masquerade.
fn masquerade(config: &Config) -> Result<MasqueradeSettings, SettingsError> {
    let families = masquerade_families(config)?;
    let enabled = config.ip_masq && !config.ipam.plugin_type.is_empty();
    let settings = MasqueradeSettings { families, ..MasqueradeSettings::resolve(enabled, &config.ip_masq_backend)? };
    Ok(settings.leaving_with(config.ip_masq_to.as_deref())?)
}

/// `ipMasqFamilies`: both unless it is there; none at all contradicts `ipMasq`.
fn masquerade_families(config: &Config) -> Result<Vec<Family>, SettingsError> {
    let Some(families) = &config.ip_masq_families else { return Ok(Family::ALL.to_vec()) };
    if families.is_empty() && config.ip_masq {
        return Err(SettingsError::Conflict("ipMasq", "ipMasqFamilies []"));
    }
    let family = |text: &String| match text.as_str() {
        "ipv4" => Ok(Family::V4),
        "ipv6" => Ok(Family::V6),
        other => Err(SettingsError::Family(other.to_owned())),
    };
    families.iter().map(family).collect()
}

fn vlan_gateway(bridge: &IfName, vlans: Option<&PortVlans>) -> Result<Option<IfName>, SettingsError> {
    let Some(access) = vlans.and_then(|vlans| vlans.access) else { return Ok(None) };
    let name = format!("{bridge}.{access}");
    name.parse().map(Some).map_err(|source| SettingsError::VlanGateway { name, source })
}

fn mode(config: &Config, version: SpecVersion) -> Result<Mode, SettingsError> {
    let plugin = &config.ipam.plugin_type;
    match (plugin.is_empty(), config.disable_container_interface) {
        (false, _) if plugin.contains('/') || plugin == "." || plugin == ".." => {
            Err(SettingsError::Ipam(plugin.clone()))
        }
        (false, true) => Err(SettingsError::Conflict("disableContainerInterface", "ipam.type")),
        (false, false) => Ok(Mode::Layer3 { ipam: plugin.clone() }),
        (true, down) => {
            ipam::refuse_layer2(version)?;
            Ok(Mode::Layer2 { up: !down })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_netfilter::Backend;
    use serde_json::json;

    fn resolve(value: serde_json::Value) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(value).unwrap();
        Settings::resolve(&config, &CniArgs::default(), SpecVersion::V1_0_0).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_go_plugin() {
        let settings = resolve(json!({})).unwrap();
        assert_eq!(settings.bridge.as_str(), "cni0");
        assert_eq!(settings.mode, Mode::Layer2 { up: true });
        assert_eq!((settings.mtu, settings.masquerade.enabled, settings.mac), (None, false, None));
    }

    #[test]
    fn contradictions_name_both_keys() {
        let refused = resolve(json!({"hairpinMode": true, "promiscMode": true})).unwrap_err();
        assert!(refused.contains("hairpinMode") && refused.contains("promiscMode"), "{refused}");
        let refused = resolve(json!({"disableContainerInterface": true, "ipam": {"type": "x"}})).unwrap_err();
        assert!(refused.contains("disableContainerInterface") && refused.contains("ipam.type"), "{refused}");
    }

    #[test]
    fn bad_values_are_named() {
        assert!(resolve(json!({"bridge": ""})).unwrap_err().contains("empty"));
        assert!(resolve(json!({"mtu": 70000})).unwrap_err().contains("70000"));
        let small = json!({"mtu": 1279, "ipam": {"type": "x", "ranges": [[{"subnet": "fd00::/64"}]]}});
        assert!(resolve(small).unwrap_err().contains("mtu: 1279"));
        assert_eq!(resolve(json!({"mtu": -1})).unwrap().mtu, None);
        assert!(resolve(json!({"ipMasqBackend": "pf"})).unwrap_err().contains("\"pf\""));
        assert!(resolve(json!({"runtimeConfig": {"mac": "x"}})).unwrap_err().contains("runtimeConfig.mac"));
    }

    #[test]
    fn default_gateway_implies_gateway_and_masquerade_needs_addresses() {
        assert!(resolve(json!({"isDefaultGateway": true})).unwrap().gateway);
        assert!(!resolve(json!({"ipMasq": true})).unwrap().masquerade.enabled);
        let settings = resolve(json!({"ipMasq": true, "ipMasqBackend": "nftables", "ipam": {"type": "x"}})).unwrap();
        let masquerade = (settings.masquerade.enabled, settings.masquerade.backend);
        assert_eq!(masquerade, (true, Some(Backend::Nftables)));
    }
}
