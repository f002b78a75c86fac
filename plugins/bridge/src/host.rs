//! The bridge itself, shared by every container of the network and by whoever else uses it: created if it is absent,
//! completed where it lacks something, never taken back.

use cni_net::{
    AddressOptions, BridgeSpec, Family, Link, LinkChange, NetError, Netlink, PairError, SysctlError, forwarding,
    random_mac, sysctl,
};
use cni_plugin::{IfName, MacAddr};
use ipnetwork::IpNetwork;

use crate::plan::conflicts;
use crate::settings::Settings;

/// Why the bridge can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The pair.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// A setting could not be written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// There are no random numbers for the bridge's address.
    #[error("cannot choose a MAC address: {0}")]
    Random(#[from] std::io::Error),
    /// The name belongs to something else.
    #[error("{name:?} already exists but is not a bridge (it is a {kind}): choose another name for \"bridge\"")]
    NotABridge {
        /// The configured name.
        name: IfName,
        /// What has it.
        kind: String,
    },
    /// It vanished while it was being used.
    #[error("bridge {0} was deleted by somebody else during this ADD: try again")]
    Vanished(IfName),
    /// Another address is in the way.
    #[error(
        "{bridge:?} already has an IP address different from {wanted}: it has {present}; forceAddress would replace it"
    )]
    AddressConflict {
        /// The bridge.
        bridge: IfName,
        /// The gateway's address.
        wanted: IpNetwork,
        /// The address in the way.
        present: IpNetwork,
    },
}

/// The bridge as it was found or made.
#[derive(Debug, Clone)]
pub struct BridgeLink {
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: MacAddr,
}

/// Makes sure that the bridge exists, is up and doesn't listen to router advertisements. Idempotent, and safe beside
/// others that do the same at the same time. An existing bridge keeps its MTU, address and VLAN filtering.
pub fn ensure_bridge(socket: &Netlink, settings: &Settings) -> Result<BridgeLink, HostError> {
    let link = match find_bridge(socket, &settings.bridge)? {
        Some(link) => link,
        None => create_bridge(socket, settings)?,
    };
    // Before it is up: the node must not take addresses and routes from a container (CVE-2020-10749).
    let accept_ra = format!("net/ipv6/conf/{}/accept_ra", settings.bridge);
    if let Err(error) = sysctl::ensure(&accept_ra, "0") {
        // A kernel without IPv6 accepts no advertisement either.
        if sysctl::read("net/ipv6/conf/all/forwarding").is_ok() {
            return Err(error.into());
        }
    }
    let raise = (!link.up).then_some(true);
    let promisc = (settings.promisc && link.promiscuity == 0).then_some(true);
    if raise.is_some() || promisc.is_some() {
        socket.change_link(link.index, &LinkChange { up: raise, promisc, ..LinkChange::default() })?;
    }
    Ok(BridgeLink { index: link.index, mac: link.mac.unwrap_or(MacAddr([0; 6])) })
}

/// The link of that name, which must be a bridge.
pub fn find_bridge(socket: &Netlink, name: &IfName) -> Result<Option<Link>, HostError> {
    match socket.link_by_name(name.as_str())? {
        Some(link) if link.kind.as_deref() != Some("bridge") => {
            let kind = link.kind.unwrap_or_else(|| "physical or loopback device".to_owned());
            Err(HostError::NotABridge { name: name.clone(), kind })
        }
        found => Ok(found),
    }
}

/// The address is chosen here: one that the kernel chose would follow the lowest of the ports, and the neighbours would
/// lose their gateway each time it changed.
fn create_bridge(socket: &Netlink, settings: &Settings) -> Result<Link, HostError> {
    let name = settings.bridge.clone();
    socket.create_bridge(&BridgeSpec {
        name: name.clone(),
        mtu: settings.mtu,
        mac: Some(random_mac()?),
        vlan_filtering: false,
    })?;
    find_bridge(socket, &name)?.ok_or(HostError::Vanished(name))
}

/// Gives the bridge the gateways' addresses and lets the node forward in their families. Idempotent.
pub fn ensure_gateways(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    gateways: &[IpNetwork],
) -> Result<(), HostError> {
    if gateways.is_empty() {
        return Ok(());
    }
    let present: Vec<IpNetwork> = socket.addresses(bridge.index)?.into_iter().map(|found| found.network).collect();
    for wanted in gateways.iter().filter(|wanted| !present.contains(wanted)) {
        make_room(socket, settings, bridge, gateways, *wanted, &present)?;
        // The gateway must answer at once, not after a second of duplicate address detection.
        socket.add_address(bridge.index, *wanted, &AddressOptions { no_dad: true, ..AddressOptions::default() })?;
        if bridge.mac != MacAddr([0; 6]) {
            // Setting the address that it has makes the kernel keep it, on a bridge that somebody else made too.
            socket.change_link(bridge.index, &LinkChange { mac: Some(bridge.mac), ..LinkChange::default() })?;
        }
    }
    for family in Family::ALL {
        if gateways.iter().any(|gateway| Family::of(gateway.ip()) == family) {
            forwarding::ensure(family)?;
        }
    }
    Ok(())
}

fn make_room(
    socket: &Netlink,
    settings: &Settings,
    bridge: &BridgeLink,
    gateways: &[IpNetwork],
    wanted: IpNetwork,
    present: &[IpNetwork],
) -> Result<(), HostError> {
    let in_the_way = present.iter().filter(|found| conflicts(**found, wanted) && !gateways.contains(found));
    for found in in_the_way {
        if !settings.force_address {
            return Err(HostError::AddressConflict { bridge: settings.bridge.clone(), wanted, present: *found });
        }
        socket.delete_address(bridge.index, *found)?;
    }
    Ok(())
}
