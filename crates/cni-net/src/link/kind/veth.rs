//! Veth pairs.

use cni_plugin::{IfName, MacAddr};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::errno::Errno;
use crate::error::{NetError, Operation};
use crate::link::Link;
use crate::netlink::Netlink;
use crate::netns::NetNs;

/// The veth pair that should exist: `host` in the socket's namespace, `peer` in another one.
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// The end in the socket's namespace.
    pub host: VethEnd,
    /// It is up from birth.
    pub host_up: bool,
    /// The bridge that the host's end becomes a port of.
    pub master: Option<u32>,
    /// The other end. It is down: the kernel refuses to raise it with the same message.
    pub peer: VethEnd,
    /// The peer's namespace; it is created there and never is in another one.
    pub peer_namespace: &'a NetNs,
}

/// One end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// Its name.
    pub name: IfName,
    /// Its MTU; 1500 if none.
    pub mtu: Option<u32>,
    /// Its Ethernet address; random if none.
    pub mac: Option<MacAddr>,
}

/// What was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VethIndexes {
    /// The host end's index.
    pub host: u32,
    /// The host end's Ethernet address.
    pub host_mac: MacAddr,
    /// The peer's index, in its own namespace.
    pub peer: u32,
    /// The host end's MTU in bytes; the peer's too where both are given the same or none.
    pub mtu: u32,
}

impl VethEnd {
    /// An end with a name and the kernel's choice of everything else.
    pub fn named(name: IfName) -> VethEnd {
        VethEnd { name, mtu: None, mac: None }
    }

    fn attributes(&self) -> impl Iterator<Item = LinkAttribute> {
        let mac = self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec()));
        self.mtu.map(LinkAttribute::Mtu).into_iter().chain(mac)
    }
}

impl<'a> VethSpec<'a> {
    /// A pair that is no bridge's port, the host's end up.
    pub fn new(host: VethEnd, peer: VethEnd, peer_namespace: &'a NetNs) -> VethSpec<'a> {
        VethSpec { host, host_up: true, master: None, peer, peer_namespace }
    }

    fn message(&self) -> LinkMessage {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new().name(self.peer.name.as_str());
        peer = peer.setns_by_fd(self.peer_namespace.raw_fd());
        let mut peer = peer.build();
        peer.attributes.extend(self.peer.attributes());
        let host = LinkVeth::new(self.host.name.as_str(), self.peer.name.as_str());
        let host = host.set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let mut message = if self.host_up { host.up().build() } else { host.build() };
        message.attributes.extend(self.host.attributes());
        message.attributes.extend(self.master.map(LinkAttribute::Controller));
        message
    }
}

impl Netlink {
    /// Creates the pair with one message: named, with MTUs and addresses, the host's end in its bridge, the
    /// peer in its namespace. Not idempotent. All or nothing, as the kernel does it.
    ///
    /// # Errors
    /// [`NetError::Exists`] with the name that is taken, on either side. Otherwise the kernel's.
    pub fn create_veth(&self, spec: &VethSpec<'_>) -> Result<VethIndexes, NetError> {
        let operation = Operation::CreateVeth { host: spec.host.name.clone(), peer: spec.peer.name.clone() };
        match self.create(&spec.message(), &spec.host.name) {
            Ok(made) => made.as_ref().and_then(VethIndexes::of).ok_or_else(|| {
                // All or nothing, and the first failure is the one to report.
                let _ = self.delete_named(&spec.host.name);
                NetError::NoAnswer { operation }
            }),
            Err(failure) if failure.is(Errno::EXIST) => {
                // The number is the same for both names, and so is the lack of a sentence.
                let host_is_taken = self.link_by_name(spec.host.name.as_str())?.is_some();
                let taken = if host_is_taken { &spec.host.name } else { &spec.peer.name };
                Err(NetError::Exists { operation, name: taken.to_string() })
            }
            Err(failure) => Err(failure.of(operation)),
        }
    }
}

impl VethIndexes {
    fn of(host: &Link) -> Option<Self> {
        Some(Self { host: host.index, host_mac: host.mac?, peer: host.peer_index?, mtu: host.mtu })
    }
}
