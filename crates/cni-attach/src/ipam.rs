//! The IPAM plugin of a network, which may have none: then it is layer 2 only.

use cni_plugin::{CniError, CniResult, Ipam, IpamConfig, PendingAdd, Request, SpecVersion, Undo};

/// A network without addresses, which results of this version can't express.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no valid IP addresses: a result of version {0} must have one, so a network without ipam needs \
     cniVersion 0.3.0 or later"
)]
pub struct Layer2TooOld(pub SpecVersion);

/// Refuses a network without addresses for versions before 0.3.0.
///
/// # Errors
/// [`Layer2TooOld`].
pub fn refuse_layer2(version: SpecVersion) -> Result<(), Layer2TooOld> {
    if version < SpecVersion::V0_3_0 { Err(Layer2TooOld(version)) } else { Ok(()) }
}

/// The IPAM plugin, if the network has one.
///
/// # Errors
/// [`Layer2TooOld`].
pub fn configured<C>(request: &Request<C>, ipam: &IpamConfig) -> Result<Option<Ipam>, Layer2TooOld> {
    if ipam.plugin_type.is_empty() {
        refuse_layer2(request.version)?;
        return Ok(None);
    }
    Ok(Some(request.ipam(&ipam.plugin_type)))
}

/// True for an IPAM plugin that sends packets through the container's link: dhcp. Its ADD needs the link, with its hardware
/// address, and its DEL sends a release; so ADD starts it when the link is there, and DEL calls it before the link goes.
pub fn needs_link(plugin_type: &str) -> bool {
    plugin_type == "dhcp"
}

/// Where the addresses of an ADD come from.
#[derive(Debug, Default)]
pub enum Addresses {
    /// None: layer 2 only.
    #[default]
    None,
    /// From an earlier plugin of the chain.
    Known(CniResult),
    /// From an IPAM plugin at work.
    Pending(PendingAdd),
    /// From an IPAM plugin that is started when the link is there.
    WithLink(Ipam),
}

impl Addresses {
    /// Starts the IPAM plugin of this configuration, unless it has to wait for the link; as [`Ipam::start_add`].
    ///
    /// # Errors
    /// As [`Ipam::start_add`].
    pub fn start(ipam: Option<Ipam>, config: &IpamConfig, undo: &mut Undo) -> Result<Self, CniError> {
        match ipam {
            None => Ok(Self::None),
            Some(ipam) if needs_link(&config.plugin_type) => Ok(Self::WithLink(ipam)),
            Some(ipam) => Ok(Self::Pending(ipam.start_add(undo)?)),
        }
    }

    /// True if an IPAM plugin uses the link before it has addresses.
    pub fn need_link(&self) -> bool {
        matches!(self, Self::WithLink(_))
    }

    /// Waits for them, now that the link is there. `None` if there are none to come.
    ///
    /// # Errors
    /// IPAM's.
    pub fn finish(self, undo: &mut Undo) -> Result<Option<CniResult>, CniError> {
        match self {
            Self::None => Ok(None),
            Self::Known(result) => Ok(Some(result)),
            Self::Pending(pending) => pending.finish().map(Some),
            Self::WithLink(ipam) => ipam.start_add(undo)?.finish().map(Some),
        }
    }
}
