//! The bridge itself, shared by every container of the network and by other users: created if it is absent, completed
//! where it lacks something, and not removed by a rollback.

use cni_attach::pair::{self, PairError};
use cni_net::{
    Bridge, ForwardingError, Link, LinkChange, LinkSpec, NetError, NetNsError, Netlink, SysctlError, mac_of_link,
    mac_was_set, random_mac, sysctl,
};
use cni_plugin::{IfName, Lock, MacAddr, NameError};
use ipnetwork::IpNetwork;

use crate::ifname_template::TemplateError;
use crate::settings::Settings;

/// The address of a bridge whose last port has left.
const NO_MAC: MacAddr = MacAddr([0; 6]);
/// `BR_MAX_PORTS` of net/bridge/br_private.h, less the number 0, which no port has.
const MAX_PORTS: usize = 1023;

/// Why the bridge can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The pair.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// A setting could not be written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The node can't be made to forward.
    #[error(transparent)]
    Forwarding(#[from] ForwardingError),
    /// The node's own namespace could not be opened.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// The name of the host's end.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A name that was made up is not valid.
    #[error(transparent)]
    Name(NameError),
    /// There are no random numbers for the bridge's address.
    #[error("cannot choose a MAC address: {0}")]
    Random(#[from] std::io::Error),
    /// A link that isn't a bridge has the name.
    #[error("\"{name}\" already exists but is not a bridge (it is a {kind}): choose another name for \"bridge\"")]
    NotABridge {
        /// The configured name.
        name: IfName,
        /// What has it.
        kind: String,
    },
    /// A link that can't be in a VLAN has the name of the VLAN's gateway interface.
    #[error(
        "\"{name}\" already exists but is not the gateway interface of a VLAN (it is a {kind}): rename it, or choose \
         another name for \"bridge\""
    )]
    NotAVlanLink {
        /// The bridge's name and the VLAN.
        name: IfName,
        /// What has it.
        kind: String,
    },
    /// The other end of the VLAN's gateway interface is in another bridge.
    #[error(
        "the gateway interface \"{name}\" is connected to another bridge than \"{bridge}\": run `ip link set {port} \
         master {bridge}`, or delete it"
    )]
    GatewayElsewhere {
        /// The bridge's name and the VLAN.
        name: IfName,
        /// Its other end.
        port: String,
        /// Where that should be.
        bridge: IfName,
    },
    /// The bridge was made without VLAN filtering.
    #[error(
        "bridge {0} does not filter VLANs, so vlan and vlanTrunk would have no effect: \
         run `ip link set {0} type bridge vlan_filtering 1`, or choose another \"bridge\""
    )]
    NoVlanFiltering(IfName),
    /// The container's hardware address belongs to another link.
    #[error("MAC address {mac} is that of {holder}: request another one for the container, or none")]
    MacTaken {
        /// As requested.
        mac: MacAddr,
        /// Which link has it.
        holder: String,
    },
    /// No more ports.
    #[error("bridge {0} is full: a bridge has 1023 ports at most (BR_MAX_PORTS); spread containers over more bridges")]
    Full(IfName),
    /// It vanished while it was being used.
    #[error("bridge {0} was deleted by another program during this ADD: try again")]
    Vanished(IfName),
    /// Another address is in the way.
    #[error(
        "\"{bridge}\" already has an IP address different from {wanted}: it has {present}; forceAddress would replace it"
    )]
    AddressConflict {
        /// The link that is to have the gateway's address.
        bridge: String,
        /// The gateway's address.
        wanted: IpNetwork,
        /// The address in the way.
        present: IpNetwork,
    },
}

/// The bridge as it was found or made.
#[derive(Debug, Clone)]
pub struct BridgeLink {
    /// Its own name; the configuration may have an alternative one.
    pub name: IfName,
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: MacAddr,
    /// In bytes.
    pub mtu: u32,
    /// The VLAN that it puts new ports into.
    pub default_vlan: Option<u16>,
}

/// Makes sure that the bridge exists, is up and doesn't listen to router advertisements. Idempotent, also beside
/// other calls that do the same. An existing bridge keeps its MTU, addresses and VLAN filtering, and from now
/// on its hardware address too.
pub fn ensure(socket: &Netlink, settings: &Settings) -> Result<BridgeLink, BridgeError> {
    let link = match find(socket, &settings.bridge)? {
        Some(link) => link,
        None => create(socket, settings)?,
    };
    let name: IfName = link.name.parse().map_err(BridgeError::Name)?;
    refuse_without_filtering(settings, &link)?;
    ignore_router_advertisements(&name)?;
    let change = LinkChange {
        up: (!link.up).then_some(true),
        promisc: (settings.promisc && !link.promisc).then_some(true),
        mac: mac_to_set(&link)?,
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        socket.change_link(link.index, &change)?;
    }
    Ok(BridgeLink {
        name,
        index: link.index,
        mac: change.mac.or(link.mac).unwrap_or(NO_MAC),
        mtu: link.mtu,
        default_vlan: link.bridge.and_then(|bridge| bridge.default_vlan),
    })
}

/// The address that the bridge must be given to keep it; `None` if it was given one already.
///
/// Until then it follows the lowest of its ports' (`br_stp_recalculate_bridge_id` in `net/bridge/br_stp_if.c`), and the
/// neighbours lose their gateway each time it changes; without ports it has none at all. The one that it has will do.
/// But not on each ADD: the kernel forgets a link's neighbours when its address is set, even to the same value.
fn mac_to_set(bridge: &Link) -> Result<Option<MacAddr>, BridgeError> {
    match bridge.mac.filter(|mac| *mac != NO_MAC) {
        Some(mac) => Ok((mac_was_set(bridge) != Some(true)).then_some(mac)),
        None => Ok(Some(mac_of_link(bridge.index)?)),
    }
}

/// A bridge that ignores VLANs would join containers that are to be kept apart.
pub fn refuse_without_filtering(settings: &Settings, bridge: &Link) -> Result<(), BridgeError> {
    let filters = bridge.bridge.as_ref().is_some_and(|bridge| bridge.vlan_filtering);
    if settings.vlans.is_none() || filters {
        return Ok(());
    }
    Err(BridgeError::NoVlanFiltering(settings.bridge.clone()))
}

/// Before the link is up: the node must not take addresses and routes from a container (CVE-2020-10749).
pub fn ignore_router_advertisements(link: &IfName) -> Result<(), SysctlError> {
    match sysctl::ensure(&format!("net/ipv6/conf/{link}/accept_ra"), "0") {
        // A link without IPv6 accepts no advertisement either: the kernel has none, or its MTU is too small for it.
        Err(SysctlError::NotFound { .. }) => Ok(()),
        // Where the node's settings can't be changed from here, as in a container, they are its administrator's. A link that
        // forwards ignores router advertisements, unless accept_ra is 2.
        Err(error) if error.is_read_only() && is_router(link) => Ok(()),
        Err(error) if error.is_read_only() => {
            eprintln!(
                "{link} accepts router advertisements from containers, because /proc/sys is read-only: set \
                 net.ipv6.conf.default.accept_ra=0 before the bridge is created, or make /proc/sys writable"
            );
            Ok(())
        }
        other => other.map(drop),
    }
}

fn is_router(link: &IfName) -> bool {
    let is_one = |name: &str| sysctl::read(&format!("net/ipv6/conf/{link}/{name}")).is_ok_and(|value| value == "1");
    is_one("forwarding") && is_one("accept_ra")
}

/// The link of that name, which must be a bridge.
pub fn find(socket: &Netlink, name: &IfName) -> Result<Option<Link>, BridgeError> {
    match socket.link_by_name(name.as_str())? {
        Some(link) if link.kind.as_deref() != Some("bridge") => {
            let kind = link.kind.unwrap_or_else(|| "physical or loopback device".to_owned());
            Err(BridgeError::NotABridge { name: name.clone(), kind })
        }
        found => Ok(found),
    }
}

/// The address is given at birth, so that it is the bridge's from the first moment.
fn create(socket: &Netlink, settings: &Settings) -> Result<Link, BridgeError> {
    let (name, kind) = (&settings.bridge, kind(settings));
    let spec = LinkSpec { mac: Some(random_mac()?), ..spec(settings, &kind) };
    let created = match socket.create_link(&spec) {
        Ok(link) => Some(link),
        // Another ADD was faster.
        Err(NetError::Exists { .. }) => find(socket, name)?,
        Err(error) => return Err(error.into()),
    };
    // A gateway's neighbour solicitations leave from its link-local address, and not before duplicate address detection
    // has let it (`ndisc_send_ns` in net/ipv6/ndisc.c): the first second of published IPv6 ports would be lost. The
    // address comes from a random MAC that this plugin chose. A kernel without IPv6 has no such setting.
    let _ = sysctl::write(&format!("net/ipv6/conf/{name}/accept_dad"), "0");
    created.ok_or_else(|| BridgeError::Vanished(name.clone()))
}

/// Fails if ADD could not create the bridge, or could not add a port to the existing one; changes nothing.
pub fn probe(socket: &Netlink, settings: &Settings, bridge: Option<&Link>) -> Result<(), BridgeError> {
    let Some(bridge) = bridge else { return Ok(socket.probe_bridge(&settings.bridge, &kind(settings))?) };
    refuse_without_filtering(settings, bridge)?;
    if socket.links_with_master(bridge.index)?.len() >= MAX_PORTS {
        return Err(BridgeError::Full(settings.bridge.clone()));
    }
    Ok(())
}

/// The bridge that is created if there is none.
pub fn spec<'a>(settings: &Settings, kind: &'a Bridge) -> LinkSpec<'a> {
    LinkSpec { mtu: settings.mtu, ..LinkSpec::new(settings.bridge.clone(), kind) }
}

pub fn kind(settings: &Settings) -> Bridge {
    Bridge { vlan_filtering: settings.vlans.is_some() }
}

/// Deletes the bridge if it has no port but those of its gateways, together with these. Idempotent.
///
/// The lock keeps ADDs away, which hold it from looking for the bridge until their port is on it. Without one the bridge
/// stays, which is reported on stderr.
pub fn remove_if_empty(socket: &Netlink, name: &IfName) -> Result<(), NetError> {
    let _alone = match Lock::to_delete_shared_links() {
        Ok(lock) => lock,
        Err(error) => {
            eprintln!("removeEmptyBridge: bridge {name} stays: {error}");
            return Ok(());
        }
    };
    let is_bridge = |link: &Link| link.kind.as_deref() == Some("bridge");
    let Some(bridge) = socket.link_by_name(name.as_str())?.filter(is_bridge) else { return Ok(()) };
    let mut gateways = Vec::new();
    for port in socket.links_with_master(bridge.index)? {
        match other_end(socket, &port)?.filter(|peer| is_gateway_of(&peer.name, &bridge.name)) {
            Some(gateway) => gateways.push(gateway.index),
            None => return Ok(()),
        }
    }
    for index in gateways.into_iter().chain([bridge.index]) {
        socket.delete_link(index)?;
    }
    Ok(())
}

/// The other end of a veth, if it is in this namespace too.
pub fn other_end(socket: &Netlink, link: &Link) -> Result<Option<Link>, NetError> {
    let index = link.peer_index.filter(|_| link.kind.as_deref() == Some("veth") && link.peer_netnsid.is_none());
    Ok(index.map(|index| socket.link_by_index(index)).transpose()?.flatten())
}

/// True for `<bridge>.<vlan>`.
fn is_gateway_of(link: &str, bridge: &str) -> bool {
    let vlan = link.strip_prefix(bridge).and_then(|rest| rest.strip_prefix('.'));
    vlan.is_some_and(|vlan| vlan.parse::<u16>().is_ok())
}

/// Refuses an address that another link on the bridge has: its packets and the container's would get mixed up. Of neighbours
/// the bridge knows those that it has seen packets from in the last five minutes.
pub fn refuse_taken_mac(socket: &Netlink, settings: &Settings, bridge: &BridgeLink) -> Result<(), BridgeError> {
    let Some(mac) = settings.mac else { return Ok(()) };
    let taken = |holder: String| Err(BridgeError::MacTaken { mac, holder });
    if mac == bridge.mac {
        return taken(format!("bridge {}", bridge.name));
    }
    let vlan = settings.vlans.as_ref().and_then(|vlans| vlans.access);
    let Some(found) = socket.fdb_entry(bridge.index, mac, vlan)? else { return Ok(()) };
    let Some(link) = socket.link_by_index(found.link)? else { return Ok(()) };
    if found.is_own {
        return taken(format!("link {}", link.name));
    }
    // Another port may lead to a machine that has moved here since.
    if pair::is_of_attachment(&link) {
        return taken(format!("the container behind {} ({})", link.name, link.alias.unwrap_or_default()));
    }
    Ok(())
}
