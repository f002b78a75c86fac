//! A result in the shape of the configuration's version.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::Value;

use super::{CniResult, Dns, Interface, IpConfig, Route};
use crate::protocol::version::{ResultShape, SpecVersion};

/// Why a result can't be written in an old version.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A result of 0.1.0 or 0.2.0 can't be without an address.
    #[error("cannot convert: no valid IP addresses: a result of version {0} needs one")]
    NoAddress(SpecVersion),
    /// The result could not be encoded.
    #[error("cannot encode the result: {0}")]
    Encode(#[from] serde_json::Error),
}

impl CniResult {
    /// The result as JSON text of `version`: four spaces a level, keys in the order that the Go plugins print them in,
    /// what is empty or zero left out.
    ///
    /// Old versions have less: up to 0.2.0 there is one address a family and no interface, up to 0.4.0 interfaces have
    /// no MTU, socket path and PCI device.
    pub fn to_json(&self, version: SpecVersion) -> Result<Vec<u8>, WriteError> {
        Ok(match version.shape() {
            ResultShape::Ip4Ip6 => crate::protocol::json::pretty(&self.as_ip4_ip6(version)?),
            ResultShape::VersionedIps => crate::protocol::json::pretty(&self.as_versioned_ips(version)),
            // Through a `Value`, whose keys are sorted.
            ResultShape::Current => crate::protocol::json::pretty(&self.as_current(version)?),
        })
    }

    fn as_current(&self, version: SpecVersion) -> Result<Value, serde_json::Error> {
        let wire = Current {
            cni_version: version.as_str(),
            interfaces: &self.interfaces,
            ips: &self.ips,
            routes: &self.routes,
            dns: &self.dns,
        };
        serde_json::to_value(wire)
    }

    fn as_versioned_ips(&self, version: SpecVersion) -> VersionedIps<'_> {
        let interfaces = self.interfaces.iter().map(|interface| Interface {
            mtu: 0,
            socket_path: String::new(),
            pci_id: String::new(),
            ..interface.clone()
        });
        let ips = self.ips.iter().map(|ip| VersionedIp {
            version: if ip.address.is_ipv4() { "4" } else { "6" },
            interface: ip.interface,
            address: ip.address.to_string(),
            gateway: ip.gateway,
        });
        VersionedIps {
            cni_version: version.as_str(),
            interfaces: interfaces.collect(),
            ips: ips.collect(),
            routes: &self.routes,
            dns: &self.dns,
        }
    }

    fn as_ip4_ip6(&self, version: SpecVersion) -> Result<Ip4Ip6<'_>, WriteError> {
        let first = |v4: bool| {
            let ip = self.ips.iter().find(|ip| ip.address.is_ipv4() == v4)?;
            let routes = self.routes.iter().filter(|route| route.dst.is_ipv4() == v4);
            Some(OldIp {
                ip: ip.address,
                gateway: ip.gateway,
                routes: routes.map(|route| OldRoute { dst: route.dst, gw: route.gw }).collect(),
            })
        };
        let (ip4, ip6) = (first(true), first(false));
        if ip4.is_none() && ip6.is_none() {
            return Err(WriteError::NoAddress(version));
        }
        Ok(Ip4Ip6 { cni_version: version.as_str(), ip4, ip6, dns: &self.dns })
    }
}

#[derive(Serialize)]
struct Current<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    interfaces: &'a [Interface],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ips: &'a [IpConfig],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
    #[serde(skip_serializing_if = "Dns::is_empty")]
    dns: &'a Dns,
}

#[derive(Serialize)]
struct VersionedIps<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<VersionedIp>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
    dns: &'a Dns,
}

#[derive(Serialize)]
struct VersionedIp {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

#[derive(Serialize)]
struct Ip4Ip6<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<OldIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<OldIp>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct OldIp {
    ip: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<OldRoute>,
}

#[derive(Serialize)]
struct OldRoute {
    dst: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
}
