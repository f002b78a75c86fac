//! The link that the container's link is on (`master` in the configuration): of the node, or of the container itself
//! (`linkInContainer`).

use std::io::ErrorKind;

use cni_net::{Link, NetError, Netlink, RouteFilter};
use cni_plugin::{CniError, CniResult, Detachment, Difference, Family, Ipam, IpamConfig, Lock, Owner, Request, Undo};

use crate::print::Place;
use crate::removal::Removal;
use crate::sides::Sides;
use crate::{made_vlan, single};

/// The main routing table (`RT_TABLE_MAIN`).
pub(crate) const MAIN: u32 = 254;

/// Why there is no such link.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It isn't there.
    #[error("master: there is no link {name:?} {place}")]
    NotFound {
        /// As configured.
        name: String,
        /// Where it should be.
        place: Place,
    },
    /// The previous result has more than one.
    #[error("master: it is not configured, and prevResult has several interfaces {place} ({names}): name one of them")]
    Several {
        /// All of them.
        names: String,
        /// Where they are.
        place: Place,
    },
    /// Only a named link of the node can be made.
    #[error("createMaster needs a \"master\" of the node, named LINK.ID, and no linkInContainer")]
    CreateNeedsName,
    /// There is none to choose.
    #[error(
        "master: it is not configured, and there is no default route {place} whose link could be taken: name a link"
    )]
    NoDefaultRoute {
        /// Where there is none.
        place: Place,
    },
    /// Nothing can be on it.
    #[error("master: {0} is no Ethernet interface: name another link")]
    NotEthernet(String),
    /// The kernel sets no VLAN up on it (`vlan_dev_open` in net/8021q/vlan_dev.c).
    #[error("master: {0} is down, and a VLAN on it can't be up: ip link set {0} up")]
    Down(String),
    /// A bridge has its packets.
    #[error("master: {port} is a port of the bridge {bridge}, which gets all of its packets: name {bridge}")]
    BridgePort {
        /// The link.
        port: String,
        /// Its bridge.
        bridge: String,
    },
}

/// The keys `master` and `linkInContainer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentSettings {
    /// Its name; none leaves the choice to `ParentSettings::find`.
    pub name: Option<String>,
    /// Whose it is.
    pub place: Place,
    /// It is made as a VLAN link if it is absent ([`made_vlan`]).
    pub create: bool,
}

/// The link that the container's is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// As it is now.
    pub link: Link,
    /// Whose it is.
    pub place: Place,
}

impl ParentSettings {
    /// The keys `master`, `linkInContainer` and `createMaster`.
    ///
    /// # Errors
    /// [`ParentError::CreateNeedsName`].
    pub fn resolve(master: &str, link_in_container: bool, create: bool) -> Result<Self, ParentError> {
        let place = if link_in_container { Place::Container } else { Place::Node };
        if create && (master.is_empty() || link_in_container) {
            return Err(ParentError::CreateNeedsName);
        }
        Ok(Self { name: (!master.is_empty()).then(|| master.to_owned()), place, create })
    }

    /// As `ParentSettings::find`, for an ADD, which makes the link if that is configured; what takes that back is pushed to
    /// `undo`, so that a second ADD must have been refused before.
    ///
    /// # Errors
    /// [`ParentError`] and [`made_vlan::MadeVlanError`].
    pub fn ensure(
        &self,
        sides: &Sides,
        prev_result: Option<&CniResult>,
        owner: &Owner,
        undo: &mut Undo,
    ) -> Result<Parent, CniError> {
        if let Some(name) = self.name.as_deref().filter(|_| self.create) {
            made_vlan::ensure(&sides.host, name, owner, undo)?;
        }
        Ok(self.find(sides, prev_result)?)
    }

    /// The link. Where none is configured, it is the one interface there that the plugins earlier in the chain reported;
    /// else the link of the default route, which is IPv4's where there are two.
    ///
    /// # Errors
    /// [`ParentError`].
    fn find(&self, sides: &Sides, prev_result: Option<&CniResult>) -> Result<Parent, ParentError> {
        let place = self.place;
        let socket = sides.socket(place);
        let name = match &self.name {
            Some(name) => Some(name.clone()),
            None => self.reported(prev_result)?,
        };
        let link = match name {
            Some(name) => socket.link_by_name(&name)?.ok_or(ParentError::NotFound { name, place })?,
            None => default_route_link(socket)?.ok_or(ParentError::NoDefaultRoute { place })?,
        };
        if link.loopback || link.mac.is_none() {
            return Err(ParentError::NotEthernet(link.name));
        }
        Ok(Parent { link, place })
    }

    fn reported(&self, prev_result: Option<&CniResult>) -> Result<Option<String>, ParentError> {
        let is_there = |sandbox: &str| sandbox.is_empty() == (self.place == Place::Node);
        let interfaces = prev_result.map(|result| result.interfaces.as_slice()).unwrap_or_default();
        let names: Vec<&str> = interfaces
            .iter()
            .filter(|found| !found.name.is_empty() && is_there(&found.sandbox))
            .map(|found| found.name.as_str())
            .collect();
        match names[..] {
            [] => Ok(None),
            [name] => Ok(Some(name.to_owned())),
            _ => Err(ParentError::Several { names: names.join(", "), place: self.place }),
        }
    }

    /// Compares the link below `link`, which is of this kind, with the configured one. Where none is configured there is
    /// nothing to compare: the default route may have changed since ADD, and the kernel deletes a link with its parent.
    ///
    /// # Errors
    /// The kernel's.
    pub fn check(&self, sides: &Sides, link: &Link) -> Result<Option<Difference>, NetError> {
        let Some(name) = &self.name else { return Ok(None) };
        let thing = format!("link below {}", link.name);
        let Some(parent) = sides.socket(self.place).link_by_name(name)? else {
            return Ok(Some(Difference::missing(format!("master {name}"))));
        };
        let is_there = link.peer_netnsid.is_none() == (self.place == Place::Container);
        let is_it = is_there && link.peer_index == Some(lower_index(&parent, link.kind.as_deref().unwrap_or_default()));
        Ok((!is_it).then(|| Difference::new(thing, name, "another link")))
    }

    /// The link that an ADD would find, as far as that can be seen without a container and a chain: none if it is the
    /// container's.
    ///
    /// # Errors
    /// [`ParentError`], as STATUS reports it.
    pub fn status(&self) -> Result<Option<Link>, CniError> {
        if self.place == Place::Container {
            return Ok(None);
        }
        let place = self.place;
        let find = || -> Result<Link, CniError> {
            let host = Netlink::open()?;
            Ok(match &self.name {
                Some(name) if self.create => made_vlan::probe(&host, name)?,
                Some(name) => host.link_by_name(name)?.ok_or(ParentError::NotFound { name: name.clone(), place })?,
                None => default_route_link(&host)?.ok_or(ParentError::NoDefaultRoute { place })?,
            })
        };
        find().map(Some).map_err(CniError::unavailable)
    }
}

impl Parent {
    /// Refuses a link whose packets a bridge gets, for links that want to be given them as the bridge is: the kernel says
    /// only `EBUSY`.
    ///
    /// # Errors
    /// [`ParentError::BridgePort`].
    pub fn refuse_bridge_port(&self, sides: &Sides) -> Result<(), ParentError> {
        if self.link.port.is_none() {
            return Ok(());
        }
        let bridge = self.link.master.map(|index| sides.socket(self.place).link_by_index(index)).transpose()?.flatten();
        let bridge = bridge.map_or_else(|| "that it is in".to_owned(), |bridge| bridge.name);
        Err(ParentError::BridgePort { port: self.link.name.clone(), bridge })
    }

    /// The error that no link could be made on this one, with the reason where the kernel has only a number for it.
    pub fn explain(&self, error: NetError) -> CniError {
        let kind = error.errno().map(|errno| std::io::Error::from_raw_os_error(errno).kind());
        let reason = match kind {
            Some(ErrorKind::InvalidInput) => "a macvlan in mode \"passthru\" is the only one on its master",
            // netdev_rx_handler_register in net/core/dev.c
            Some(ErrorKind::ResourceBusy) => {
                "its packets go to a bridge, a bond, or links of another kind on it already"
            }
            _ => return error.into(),
        };
        CniError::plugin(format!("{error}: master {}: {reason}", self.link.name))
    }
}

/// All of DEL, for a plugin that has nothing but a link of this kind and what that one is on: as [`single::del`].
///
/// # Errors
/// The first failure.
pub fn del<C>(request: &Request<C>, detachment: &Detachment, kind: &str, ipam: &IpamConfig) -> Result<(), CniError> {
    // What a killed ADD has left at work must not be done after this.
    let _alone = Lock::if_possible(Lock::of_attachment(&detachment.owner))?;
    let mut removal = Removal::begin(request, ipam, Ipam::del);
    removal.link(single::delete(detachment, kind, request.prev_result.as_ref()));
    removal.step(made_vlan::release(&Netlink::open()?, &detachment.owner));
    removal.finish()
}

/// All of GC, for such a plugin: as [`single::gc`].
///
/// # Errors
/// The first failure.
pub fn gc<C>(request: &Request<C>, valid: &[Owner], ipam: &IpamConfig) -> Result<(), CniError> {
    let mut removal = Removal::begin(request, ipam, Ipam::gc);
    removal.step(Lock::settle_orphans(&request.network));
    removal.link(single::retain(&request.network, valid));
    removal.step(made_vlan::retain(&Netlink::open()?, &request.network, valid));
    removal.finish()
}

/// Refuses a link that is down, for a VLAN on it.
///
/// # Errors
/// [`ParentError::Down`].
pub fn refuse_down(parent: &Link) -> Result<(), ParentError> {
    if parent.up { Ok(()) } else { Err(ParentError::Down(parent.name.clone())) }
}

/// The index that the kernel puts links of this kind on: on a macvlan they are on what is below that, and the same for
/// ipvlan (`macvlan_common_newlink`, `ipvlan_link_new`).
pub(crate) fn lower_index(parent: &Link, kind: &str) -> u32 {
    let same = matches!(kind, "macvlan" | "ipvlan") && parent.kind.as_deref() == Some(kind);
    if same { parent.peer_index.unwrap_or(parent.index) } else { parent.index }
}

/// The link of the default route with the lowest metric, IPv4's where there are two. Lists the main table of a family.
///
/// # Errors
/// The kernel's.
pub fn default_route_link(socket: &Netlink) -> Result<Option<Link>, NetError> {
    for family in Family::ALL {
        let routes = socket.routes(&RouteFilter { family, device: None, table: Some(MAIN) })?;
        let default = routes.iter().filter(|route| route.dst.prefix() == 0);
        if let Some(route) = default.min_by_key(|route| route.priority.unwrap_or(0)) {
            return socket.link_by_index(route.device);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_plugin::Interface;

    fn reported(interfaces: &[(&str, &str)], link_in_container: bool) -> Result<Option<String>, String> {
        let interface = |(name, sandbox): &(&str, &str)| Interface {
            name: (*name).to_owned(),
            sandbox: (*sandbox).to_owned(),
            ..Interface::default()
        };
        let result = CniResult { interfaces: interfaces.iter().map(interface).collect(), ..CniResult::default() };
        let settings = ParentSettings::resolve("", link_in_container, false).unwrap();
        settings.reported(Some(&result)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_chains_one_interface_on_the_right_side_is_the_master() {
        assert_eq!(reported(&[], false), Ok(None));
        assert_eq!(reported(&[("bond0", ""), ("eth7", "/ns")], false), Ok(Some("bond0".to_owned())));
        assert_eq!(reported(&[("bond0", ""), ("eth7", "/ns")], true), Ok(Some("eth7".to_owned())));
        let refused = reported(&[("a", ""), ("b", "")], false).unwrap_err();
        assert!(refused.contains("a, b") && refused.contains("on the node"), "{refused}");
    }
}
