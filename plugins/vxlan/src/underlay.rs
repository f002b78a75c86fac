//! The network below: by which link, from which address and with which MTU the peers are reached.

use std::net::IpAddr;

use cni_attach::parent;
use cni_net::{Link, NetError, Netlink};
use cni_plugin::Family;

use crate::settings::{Reach, Settings};

/// Why the peers can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No such link.
    #[error("dev: there is no link {0:?} on the node: one by which the peers are reached is expected")]
    NoDev(String),
    /// Nothing says by which link.
    #[error(
        "dev, local: neither is configured, and there is no default route whose link could be taken: name the link by which the \
         peers are reached (\"dev\": \"eth0\"), or the address of this node that they know (\"local\": \"192.0.2.1\")"
    )]
    NoDefaultRoute,
    /// The link has no address that the peers could answer to.
    #[error("dev: {dev} has no {family} address, and the peers have such: add one, or choose another link")]
    NoAddress {
        /// The link.
        dev: String,
        /// The peers' family.
        family: Family,
    },
    /// No such address.
    #[error("local: {0} is on no link of this node: an address of the node that the peers know is expected")]
    NoLocal(IpAddr),
    /// The address is of the other family.
    #[error("local: {local} is not {family}, as the peers' addresses are")]
    OtherFamily {
        /// As configured.
        local: IpAddr,
        /// The peers' family.
        family: Family,
    },
}

/// How the peers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The link's name, for messages and plans.
    pub name: String,
    /// The index of the link that packets are to leave by; `None` if the routes decide.
    pub link: Option<u32>,
    /// The address that packets are to come from; `None` if the kernel decides.
    pub local: Option<IpAddr>,
    /// The link's MTU; `None` if the peers are not behind it, as with an address of `lo`.
    pub mtu: Option<u32>,
    /// The addresses' family.
    pub family: Family,
    /// The node's own addresses there, which are no peers.
    pub own: Vec<IpAddr>,
}

impl Underlay {
    /// Looks at the node. `family` is that of the peers, if there are any.
    ///
    /// # Errors
    /// [`UnderlayError`].
    pub fn find(node: &Netlink, settings: &Settings, family: Option<Family>) -> Result<Self, UnderlayError> {
        match &settings.reach {
            Reach::DefaultRoute => {
                let link = parent::default_route_link(node)?.ok_or(UnderlayError::NoDefaultRoute)?;
                Self::of_link(node, link, family)
            }
            Reach::Dev(dev) => {
                let link = node.link_by_name(dev.as_str())?.ok_or_else(|| UnderlayError::NoDev(dev.to_string()))?;
                Self::of_link(node, link, family)
            }
            Reach::Local(local) => {
                let own = Family::of(*local);
                if let Some(family) = family.filter(|family| *family != own) {
                    return Err(UnderlayError::OtherFamily { local: *local, family });
                }
                let index = node.link_of_address(*local)?.ok_or(UnderlayError::NoLocal(*local))?;
                let link = node.link_by_index(index)?.ok_or(UnderlayError::NoLocal(*local))?;
                let mtu = (!link.loopback).then_some(link.mtu);
                Ok(Self { name: link.name, link: None, local: Some(*local), mtu, family: own, own: vec![*local] })
            }
        }
    }

    fn of_link(node: &Netlink, link: Link, family: Option<Family>) -> Result<Self, UnderlayError> {
        let usable =
            node.addresses(link.index)?.into_iter().filter(|address| !address.link_local || address.network.is_ipv4());
        let own: Vec<IpAddr> = usable.map(|address| address.network.ip()).collect();
        let of = |family: Family| own.iter().copied().find(|address| Family::of(*address) == family);
        // Without peers that say it: IPv4 wherever there is any.
        let family = family.unwrap_or(if of(Family::V4).is_some() || of(Family::V6).is_none() {
            Family::V4
        } else {
            Family::V6
        });
        let first = of(family).ok_or_else(|| UnderlayError::NoAddress { dev: link.name.clone(), family })?;
        Ok(Self {
            name: link.name,
            link: Some(link.index),
            // Only with an address the kernel makes a device that speaks IPv6. Of IPv4 ones it chooses itself, and goes on when
            // the link gets another one.
            local: Some(first).filter(IpAddr::is_ipv6),
            mtu: Some(link.mtu),
            family,
            own,
        })
    }
}
