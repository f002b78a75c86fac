//! What can go wrong between us and the kernel: each error says which operation on which object failed, and why.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use cni_plugin::{IfName, MacAddr};
use ipnetwork::IpNetwork;

use crate::errno::{Errno, needs};
use crate::netns::NetNsError;

/// The least MTU that IPv6 works with (RFC 8200, section 5): a link with less has none at all (`ipv6_add_dev` in
/// net/ipv6/addrconf.c).
pub const IPV6_MIN_MTU: u32 = 1280;

/// An operation and its object, in the words of a message: "cannot {operation}".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // The fields are the operation's own arguments.
pub enum Operation {
    FindLink { name: String },
    FindLinkByIndex { link: LinkId },
    ListLinks,
    CreateLink { kind: &'static str, name: IfName },
    CreateVeth { host: IfName, peer: IfName },
    ChangeLink { link: LinkId },
    MoveLink { link: LinkId, to: PathBuf },
    NameLink { link: LinkId, altname: String },
    UnnameLink { link: LinkId, altname: String },
    ChangePort { link: LinkId },
    DeleteLink { link: LinkId },
    ListVlans { link: LinkId },
    AddVlans { link: LinkId, ids: Vec<u16> },
    DeleteVlans { link: LinkId, ids: Vec<u16> },
    ListAddresses { link: LinkId },
    ListAllAddresses { namespace: Option<i32> },
    AddAddress { link: LinkId, address: IpNetwork },
    DeleteAddress { link: LinkId, address: IpNetwork },
    ListRoutes,
    AddRoute { link: LinkId, destination: IpNetwork, gateway: Option<IpAddr> },
    DeleteRoute { link: LinkId, destination: IpNetwork, gateway: Option<IpAddr> },
    LookUpRoute { to: IpAddr },
    ListRules,
    FindNeighbour { link: LinkId, mac: MacAddr },
    AddFdbEntry { link: LinkId, mac: MacAddr, to: IpAddr },
    DeleteFdbEntry { link: LinkId, mac: MacAddr, to: IpAddr },
    ListFdb { link: LinkId },
    FindNextHop { link: LinkId, to: IpAddr },
    SetNeighbour { link: LinkId, address: IpAddr, mac: MacAddr },
    DeleteNeighbour { link: LinkId, address: IpAddr },
    ListNeighbours { link: LinkId },
    AddQdisc { link: LinkId, qdisc: String },
    FindQdisc { link: LinkId },
    DeleteQdisc { link: LinkId },
    AddRedirect { link: LinkId, to: u32 },
    ListFilters { link: LinkId },
    AddRule { rule: String },
    DeleteRule { rule: String },
}

/// A link in a message: by its name, where that could be learnt after the failure, else by its number. Boxed, for errors
/// are passed on by value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkId(Box<(u32, Option<String>)>);

impl From<u32> for LinkId {
    fn from(index: u32) -> Self {
        Self(Box::new((index, None)))
    }
}

impl LinkId {
    pub(crate) fn index(&self) -> u32 {
        self.0.0
    }

    pub(crate) fn set_name(&mut self, name: Option<String>) {
        self.0.1 = name;
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            (_, Some(name)) => f.write_str(name),
            (index, None) => write!(f, "link {index}"),
        }
    }
}

impl Operation {
    /// The link that it is about, if it is about one.
    pub(crate) fn link_mut(&mut self) -> Option<&mut LinkId> {
        match self {
            Self::ChangeLink { link }
            | Self::MoveLink { link, .. }
            | Self::NameLink { link, .. }
            | Self::UnnameLink { link, .. }
            | Self::ChangePort { link }
            | Self::DeleteLink { link }
            | Self::ListVlans { link }
            | Self::AddVlans { link, .. }
            | Self::DeleteVlans { link, .. }
            | Self::ListAddresses { link }
            | Self::AddAddress { link, .. }
            | Self::DeleteAddress { link, .. }
            | Self::AddRoute { link, .. }
            | Self::DeleteRoute { link, .. }
            | Self::FindNeighbour { link, .. }
            | Self::AddFdbEntry { link, .. }
            | Self::DeleteFdbEntry { link, .. }
            | Self::ListFdb { link }
            | Self::FindNextHop { link, .. }
            | Self::SetNeighbour { link, .. }
            | Self::DeleteNeighbour { link, .. }
            | Self::ListNeighbours { link }
            | Self::AddQdisc { link, .. }
            | Self::FindQdisc { link }
            | Self::DeleteQdisc { link }
            | Self::AddRedirect { link, .. }
            | Self::ListFilters { link } => Some(link),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FindLink { name } => write!(f, "find link {name}"),
            Self::FindLinkByIndex { link } => write!(f, "find {link}"),
            Self::ListLinks => write!(f, "list links"),
            Self::CreateLink { kind, name } => write!(f, "create {kind} {name}"),
            Self::CreateVeth { host, peer } => write!(f, "create veth pair {host} and {peer}"),
            Self::ChangeLink { link } => write!(f, "change {link}"),
            Self::MoveLink { link, to } => write!(f, "move {link} to the namespace {to:?}"),
            Self::NameLink { link, altname } => write!(f, "give {link} the alternative name {altname:?}"),
            Self::UnnameLink { link, altname } => write!(f, "take the alternative name {altname:?} from {link}"),
            Self::ChangePort { link } => write!(f, "change bridge port {link}"),
            Self::DeleteLink { link } => write!(f, "delete {link}"),
            Self::ListVlans { link } => write!(f, "list the VLANs of bridge port {link}"),
            Self::AddVlans { link, ids } => write!(f, "add {} to bridge port {link}", vlans(ids)),
            Self::DeleteVlans { link, ids } => write!(f, "delete {} from bridge port {link}", vlans(ids)),
            Self::ListAddresses { link } => write!(f, "list the addresses of {link}"),
            Self::ListAllAddresses { namespace: None } => write!(f, "list all addresses"),
            Self::ListAllAddresses { namespace: Some(number) } => {
                write!(f, "list the addresses of the namespace with the link-netnsid {number}")
            }
            Self::AddAddress { link, address } => write!(f, "add address {address} to {link}"),
            Self::DeleteAddress { link, address } => write!(f, "delete address {address} from {link}"),
            Self::ListRoutes => write!(f, "list routes"),
            Self::AddRoute { link, destination, gateway } => write_route(f, "add", link, destination, *gateway),
            Self::DeleteRoute { link, destination, gateway } => write_route(f, "delete", link, destination, *gateway),
            Self::ListRules => write!(f, "list policy rules"),
            Self::FindNeighbour { link, mac } => write!(f, "look up {mac} in the forwarding database of {link}"),
            Self::AddFdbEntry { link, mac, to } => write!(f, "add forwarding entry {mac} dst {to} to {link}"),
            Self::DeleteFdbEntry { link, mac, to } => write!(f, "delete forwarding entry {mac} dst {to} of {link}"),
            Self::ListFdb { link } => write!(f, "list the forwarding entries of {link}"),
            Self::FindNextHop { link, to } => write!(f, "look up the neighbour {to} of {link}"),
            Self::SetNeighbour { link, address, mac } => write!(f, "set neighbour {address} lladdr {mac} of {link}"),
            Self::DeleteNeighbour { link, address } => write!(f, "delete neighbour {address} of {link}"),
            Self::ListNeighbours { link } => write!(f, "list the neighbours of {link}"),
            Self::LookUpRoute { to } => write!(f, "look up the route to {to}"),
            Self::AddQdisc { link, qdisc } => write!(f, "add qdisc {qdisc} to {link}"),
            Self::FindQdisc { link } => write!(f, "find the qdisc of {link}"),
            Self::DeleteQdisc { link } => write!(f, "delete the qdisc of {link}"),
            Self::AddRedirect { link, to } => write!(f, "redirect what {link} receives to link {to}"),
            Self::ListFilters { link } => write!(f, "list the filters of {link}"),
            Self::AddRule { rule } => write!(f, "add rule {rule}"),
            Self::DeleteRule { rule } => write!(f, "delete rule {rule}"),
        }
    }
}

fn vlans(ids: &[u16]) -> String {
    match ids {
        [id] => format!("VLAN {id}"),
        _ => format!(
            "{} VLANs from {} to {}",
            ids.len(),
            ids.iter().min().copied().unwrap_or_default(),
            ids.iter().max().copied().unwrap_or_default()
        ),
    }
}

fn write_route(
    f: &mut fmt::Formatter<'_>,
    verb: &str,
    link: &LinkId,
    destination: &IpNetwork,
    gateway: Option<IpAddr>,
) -> fmt::Result {
    match gateway {
        Some(gateway) => write!(f, "{verb} route {destination} via {gateway} on {link}"),
        None => write!(f, "{verb} route {destination} on {link}"),
    }
}

/// The kernel's refusal: an error number, and since 4.12 often a sentence (`NLMSGERR_ATTR_MSG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own words, where it has any.
    pub text: Option<String>,
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = io::Error::from_raw_os_error(self.errno).to_string();
        // std appends the number, which says nothing more.
        let reason = reason.split(" (os error").next().unwrap_or_default();
        match &self.text {
            Some(text) => write!(f, "{reason} ({})", text.trim_end_matches('.'))?,
            None => f.write_str(reason)?,
        }
        f.write_str(&needs(&io::Error::from_raw_os_error(self.errno), "CAP_NET_ADMIN"))
    }
}

/// Why a verb of [`crate::Netlink`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// No route socket: out of file descriptors, or a sandbox that forbids netlink.
    #[error("cannot open a route netlink socket: {source}")]
    Socket {
        /// The system's reason.
        source: io::Error,
    },
    /// The namespace to open the socket in could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
    /// What should be created is there already.
    #[error("cannot {operation}: {name} exists already")]
    Exists {
        /// What was tried.
        operation: Operation,
        /// What is there: a link's name, or the address or route in the words of `ip`.
        name: String,
    },
    /// The link to act on does not exist in this socket's namespace.
    #[error("cannot {operation}: there is no such link")]
    NoSuchLink {
        /// What was tried.
        operation: Operation,
    },
    /// The kernel was built without something that is needed.
    #[error("cannot {operation}: this kernel lacks {feature}")]
    Unsupported {
        /// What was tried.
        operation: Operation,
        /// What is missing, with the kernel's configuration option.
        feature: &'static str,
    },
    /// The link has no IPv6.
    #[error("cannot add address {address} to {name}: {why}")]
    NoIpv6 {
        /// The IPv6 address.
        address: IpNetwork,
        /// The link's name.
        name: String,
        /// Why that is so, and the way out.
        why: NoIpv6,
    },
    /// The kernel refused for another reason.
    #[error("cannot {operation}: {reason}")]
    Refused {
        /// What was tried.
        operation: Operation,
        /// What the kernel said.
        reason: KernelError,
    },
    /// The socket failed, or the answer is one that we cannot read.
    #[error("cannot {operation}: the kernel's answer is missing or unreadable")]
    NoAnswer {
        /// What was tried.
        operation: Operation,
    },
    /// The kernel's list changed each time it was read, so that it may lack entries.
    #[error("cannot {operation}: the list kept changing while it was read; try again")]
    Interrupted {
        /// What was tried.
        operation: Operation,
    },
}

/// Why a link has no IPv6.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoIpv6 {
    /// It is switched off on this link.
    #[error(
        "IPv6 is disabled on it: run `sysctl -w {sysctl}=0` (for new links: net.ipv6.conf.default.disable_ipv6), or \
         configure no IPv6 addresses"
    )]
    Disabled {
        /// The setting.
        sysctl: String,
    },
    /// The kernel has no IPv6, as with `ipv6.disable=1` on its command line.
    #[error(
        "this kernel has no IPv6: configure no IPv6 addresses, or remove ipv6.disable from the kernel command line"
    )]
    Kernel,
    /// Its MTU is less than 1280.
    #[error(
        "its MTU of {mtu} is too small for IPv6, which needs {IPV6_MIN_MTU} (RFC 8200): raise it, or configure no IPv6 \
         addresses"
    )]
    SmallMtu {
        /// In bytes.
        mtu: u32,
    },
}

impl NoIpv6 {
    pub(crate) fn disabled(link: &str) -> Self {
        // sysctl(8) takes a slash in a name for a dot.
        Self::Disabled { sysctl: format!("net.ipv6.conf.{}.disable_ipv6", link.replace('.', "/")) }
    }
}

impl NetError {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { reason, .. } => Some(reason.errno),
            Self::Exists { .. } => Some(Errno::EXIST),
            Self::NoSuchLink { .. } => Some(Errno::NODEV),
            _ => None,
        }
    }
}

/// A failed exchange, before it is known which operation it was part of.
#[derive(Debug)]
pub(crate) enum Failure {
    Kernel(KernelError),
    NoAnswer,
    Interrupted,
}

impl Failure {
    pub(crate) fn is(&self, errno: i32) -> bool {
        matches!(self, Failure::Kernel(reason) if reason.errno == errno)
    }

    /// The error of `operation`.
    pub(crate) fn of(self, operation: Operation) -> NetError {
        match self {
            Failure::Kernel(KernelError { errno: Errno::NODEV, .. }) => NetError::NoSuchLink { operation },
            Failure::Kernel(reason) => NetError::Refused { operation, reason },
            Failure::NoAnswer => NetError::NoAnswer { operation },
            Failure::Interrupted => NetError::Interrupted { operation },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_operation_object_and_reason() {
        let operation = Operation::AddAddress { link: 7.into(), address: "10.0.0.5/24".parse().unwrap() };
        let reason = KernelError { errno: 17, text: None };
        assert_eq!(
            NetError::Refused { operation: operation.clone(), reason }.to_string(),
            "cannot add address 10.0.0.5/24 to link 7: File exists"
        );
        let reason = KernelError { errno: 22, text: Some("Nexthop has invalid gateway.".to_owned()) };
        assert_eq!(
            NetError::Refused { operation, reason }.to_string(),
            "cannot add address 10.0.0.5/24 to link 7: Invalid argument (Nexthop has invalid gateway)"
        );
    }

    #[test]
    fn the_setting_that_disables_ipv6_is_named_as_sysctl_takes_it() {
        assert!(NoIpv6::disabled("br0.100").to_string().contains("net.ipv6.conf.br0/100.disable_ipv6=0"));
    }

    #[test]
    fn a_missing_device_has_its_own_error() {
        let failure = Failure::Kernel(KernelError { errno: Errno::NODEV, text: None });
        let error = failure.of(Operation::ChangeLink { link: 7.into() });
        assert_eq!(error.to_string(), "cannot change link 7: there is no such link");
        assert_eq!(error.errno(), Some(19));
    }
}
