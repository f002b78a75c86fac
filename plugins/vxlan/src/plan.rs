//! The plan: the device, its forwarding entries and the MTU that fits, as data, computed without access to the kernel.

use std::net::IpAddr;

use cni_attach::{Place, vxlan_device};
use cni_net::{IPV6_MIN_MTU, LinkSpec, VxLan, VxlanFdbEntry};
use cni_netfilter::VxlanPeers;
use cni_plugin::{Family, IfName, NameError};

use crate::device::accept_ra;
use crate::peers::Peer;
use crate::settings::{MTU_MIN, Settings};
use crate::underlay::Underlay;

/// Why nothing can be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Packets of that size don't fit the underlay.
    #[error(
        "mtu: {mtu} is out of range: {MTU_MIN} to {fits}, which is the MTU of {underlay} ({below}) less the {overhead} bytes that \
         VXLAN adds over {family}; 0 takes what fits"
    )]
    TooLarge {
        /// As configured.
        mtu: u32,
        /// The largest that fits.
        fits: u32,
        /// The link below.
        underlay: String,
        /// Its MTU.
        below: u32,
        /// What VXLAN adds.
        overhead: u32,
        /// Of the underlay.
        family: Family,
    },
    /// Nothing fits.
    #[error(
        "{underlay} has an MTU of {below}, which leaves no room for packets in VXLAN (it adds {overhead} bytes over {family}): raise it"
    )]
    NoRoom {
        /// The link below.
        underlay: String,
        /// Its MTU.
        below: u32,
        /// What VXLAN adds.
        overhead: u32,
        /// Of the underlay.
        family: Family,
    },
    /// The underlay's MTU says nothing.
    #[error(
        "mtu: it is expected, because the MTU of {0}, which has the address of `local`, is not that of the way to the peers"
    )]
    Unknown(String),
    /// IPv6 in the container doesn't work with so little.
    #[error(
        "mtu: {mtu} is too small for the container's IPv6 address {address}: IPv6 needs {IPV6_MIN_MTU} (RFC 8200); {way_out}"
    )]
    TooSmallForIpv6 {
        /// What it would be.
        mtu: u32,
        /// The container's address.
        address: IpAddr,
        /// What to do about it.
        way_out: String,
    },
    /// Never: the name is made of a prefix and a number.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The device's name: `vxlan42`.
    pub name: IfName,
    /// What it is.
    pub kind: VxLan,
    /// The device's MTU, and the largest that the container's link may have.
    pub mtu: u32,
    /// The container's link is to have just that MTU, and not only none above it.
    pub is_configured: bool,
    /// Where frames go to, sorted.
    pub entries: Vec<VxlanFdbEntry>,
    /// Who may send.
    pub guard: VxlanPeers,
    /// The name of the link below.
    pub underlay: String,
}

impl Plan {
    /// The plan for a network with these peers on a node with this underlay.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(settings: &Settings, underlay: &Underlay, peers: &[Peer]) -> Result<Self, PlanError> {
        let others = || peers.iter().filter(|peer| !underlay.own.contains(&peer.address));
        let with_macs =
            |peer: &Peer| peer.macs.iter().map(|mac| VxlanFdbEntry::new(*mac, peer.address)).collect::<Vec<_>>();
        let flood = others().map(|peer| VxlanFdbEntry::flood(peer.address));
        let mut entries: Vec<_> = flood.chain(others().flat_map(with_macs)).collect();
        entries.sort_unstable();
        let (vni, port) = (settings.vni, settings.port);
        Ok(Self {
            name: vxlan_device::name(vni)?,
            kind: VxLan { vni, port, link: underlay.link, local: underlay.local, learning: true },
            mtu: mtu(settings, underlay)?,
            is_configured: settings.mtu.is_some(),
            entries,
            guard: VxlanPeers { port, peers: others().map(|peer| peer.address).collect() },
            underlay: underlay.name.clone(),
        })
    }

    /// The MTU that a link of the container, which has this one, is to have.
    pub fn mtu_of_container(&self, present: u32) -> u32 {
        if self.is_configured { self.mtu } else { present.min(self.mtu) }
    }

    /// Refuses an MTU that is too small for one of the container's addresses.
    ///
    /// # Errors
    /// [`PlanError::TooSmallForIpv6`].
    pub fn refuse_small(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), PlanError> {
        let Some(address) = addresses.into_iter().find(|address| self.mtu < IPV6_MIN_MTU && address.is_ipv6()) else {
            return Ok(());
        };
        let way_out = if self.is_configured {
            "configure a larger one".to_owned()
        } else {
            format!("raise the MTU of {}", self.underlay)
        };
        Err(PlanError::TooSmallForIpv6 { mtu: self.mtu, address, way_out })
    }
}

fn mtu(settings: &Settings, underlay: &Underlay) -> Result<u32, PlanError> {
    let Some(below) = underlay.mtu else {
        return settings.mtu.ok_or_else(|| PlanError::Unknown(underlay.name.clone()));
    };
    let (overhead, family) = (VxLan::overhead(underlay.family == Family::V6), underlay.family);
    let underlay = underlay.name.clone();
    match (below.checked_sub(overhead).filter(|fits| *fits >= MTU_MIN), settings.mtu) {
        (None, _) => Err(PlanError::NoRoom { underlay, below, overhead, family }),
        (Some(fits), Some(mtu)) if mtu > fits => {
            Err(PlanError::TooLarge { mtu, fits, underlay, below, overhead, family })
        }
        (Some(fits), configured) => Ok(configured.unwrap_or(fits)),
    }
}

/// The commands of `ip` and `bridge`, on a node without the device.
impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, kind, mtu, underlay, .. } = self;
        let spec = LinkSpec { mtu: Some(*mtu), master: None, ..LinkSpec::new(name.clone(), kind) };
        let dev = if kind.link.is_some() { format!(" dev {underlay}") } else { String::new() };
        writeln!(f, "ip link {spec}{dev}\n{}", Place::Node.sysctl(&accept_ra(name), "0"))?;
        writeln!(f, "ip link set {name} master BRIDGE")?;
        self.entries.iter().try_for_each(|entry| {
            let verb = if entry.mac == VxlanFdbEntry::FLOOD { "append" } else { "add" };
            writeln!(f, "bridge fdb {verb} {} dev {name} dst {}", entry.mac, entry.to)
        })?;
        writeln!(f, "ip link set {name} up")?;
        let to = if self.is_configured { "mtu" } else { "at most mtu" };
        writeln!(f, "# both ends of the container's pair, and BRIDGE: {to} {mtu}\n# {}", self.guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::peers;

    fn plan(mtu: i64, below: u32, local: &str, file: &str) -> Result<Plan, PlanError> {
        let config = Config { vni: Some(42), local: local.to_owned(), mtu, ..Config::default() };
        let settings = Settings::resolve(&config, &"net".parse().unwrap()).unwrap();
        let local: IpAddr = local.parse().unwrap();
        let (name, family) = ("eth0".to_owned(), Family::of(local));
        let underlay = Underlay { name, link: None, local: Some(local), mtu: Some(below), family, own: vec![local] };
        Plan::new(&settings, &underlay, &peers::parse(file.as_bytes()).unwrap())
    }

    #[test]
    fn the_node_itself_is_no_peer() {
        let plan = plan(0, 1500, "192.0.2.1", "192.0.2.2 02:00:00:00:00:02\n192.0.2.1 02:00:00:00:00:01").unwrap();
        let entries: Vec<String> = plan.entries.iter().map(ToString::to_string).collect();
        assert_eq!(entries, ["00:00:00:00:00:00 dst 192.0.2.2", "02:00:00:00:00:02 dst 192.0.2.2"]);
        assert_eq!(plan.guard.peers.len(), 1);
    }

    #[test]
    fn the_mtu_fits_the_underlay() {
        let of =
            |mtu, below, local| plan(mtu, below, local, "").map(|plan| plan.mtu).map_err(|error| error.to_string());
        assert_eq!(of(0, 1500, "192.0.2.1"), Ok(1450));
        assert_eq!(of(0, 1500, "2001:db8::1"), Ok(1430));
        assert_eq!(of(1400, 9000, "192.0.2.1"), Ok(1400));
        let refused = of(1451, 1500, "192.0.2.1").unwrap_err();
        assert!(
            ["1451", "68 to 1450", "eth0 (1500)", "50 bytes"].iter().all(|part| refused.contains(part)),
            "{refused}"
        );
        assert!(of(0, 117, "192.0.2.1").unwrap_err().contains("raise it"));
    }

    #[test]
    fn a_container_with_ipv6_needs_room() {
        let small = plan(0, 1300, "192.0.2.1", "").unwrap();
        assert_eq!((small.mtu_of_container(1500), small.mtu_of_container(1200)), (1250, 1200));
        assert!(small.refuse_small(["10.0.0.1".parse().unwrap()]).is_ok());
        let refused = small.refuse_small(["fd00::1".parse().unwrap()]).unwrap_err().to_string();
        assert!(refused.contains("1250") && refused.contains("eth0"), "{refused}");
    }
}
