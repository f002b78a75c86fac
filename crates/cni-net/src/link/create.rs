//! Creating links, each with one message.

use std::fmt;

use cni_plugin::{IfName, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::kind::LinkKind;
use super::{Link, LinkChange};
use crate::errno::Errno;
use crate::error::{Failure, KernelError, NetError, Operation};
use crate::netlink::{Netlink, rtm};
use crate::netns::NetNs;

/// A link that should exist. Prints itself as the arguments of `ip link`: `add br0 mtu 1400 type bridge`.
#[derive(Clone)]
pub struct LinkSpec<'a> {
    /// Its name.
    pub name: IfName,
    /// What it is.
    pub kind: &'a dyn LinkKind,
    /// In bytes; the kernel's choice if none.
    pub mtu: Option<u32>,
    /// Its Ethernet address; the kernel's choice if none.
    pub mac: Option<MacAddr>,
    /// The bridge (bond, VRF) that it becomes a port of.
    pub master: Option<u32>,
    /// It is up from the start.
    pub up: bool,
}

impl<'a> LinkSpec<'a> {
    /// A link with a name, down, and the kernel's choice of everything else.
    pub fn new(name: IfName, kind: &'a dyn LinkKind) -> Self {
        Self { name, kind, mtu: None, mac: None, master: None, up: false }
    }

    pub(super) fn message(&self) -> LinkMessage {
        let mut message = self.kind.message(self.name.as_str());
        if self.up {
            message.header.flags |= LinkFlags::Up;
            message.header.change_mask |= LinkFlags::Up;
        }
        message.attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        message.attributes.extend(self.master.map(LinkAttribute::Controller));
        message
    }

    pub(super) fn operation(&self) -> Operation {
        Operation::CreateLink { kind: self.kind.name(), name: self.name.clone() }
    }
}

impl fmt::Display for LinkSpec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "add {}", self.name)?;
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        write!(f, " type {}", self.kind)
    }
}

impl Netlink {
    /// Creates the link in this socket's namespace and returns it as it is then. Not idempotent.
    ///
    /// # Errors
    /// [`NetError::Exists`] if the name is taken; otherwise the kernel's.
    pub fn create_link(&self, spec: &LinkSpec<'_>) -> Result<Link, NetError> {
        match self.create(&spec.message(), &spec.name) {
            Ok(made) => made.ok_or_else(|| NetError::NoAnswer { operation: spec.operation() }),
            Err(failure) => Err(failure.of_creation(spec)),
        }
    }

    /// Creates the link in another namespace, `inside` being a socket there, and returns it as it is then. Indexes of other
    /// links in `spec`, such as a parent's, are of this socket's namespace. Not idempotent.
    ///
    /// # Errors
    /// [`NetError::Exists`] if the name is taken there; otherwise the kernel's.
    pub fn create_link_in(&self, spec: &LinkSpec<'_>, namespace: &NetNs, inside: &Netlink) -> Result<Link, NetError> {
        let name = spec.name.as_str();
        match self.create_named_in(spec, &spec.name, namespace) {
            // Older kernels look for the name in this socket's namespace, such as the `eth0` of a node (`rtnl_newlink` in
            // net/core/rtnetlink.c of Linux 6.1): then the link gets its name there.
            Err(failure) if failure.is(Errno::EXIST) && inside.link_by_name(name)?.is_none() => {
                let temporary: IfName = format!("cni-{}", std::process::id()).parse().unwrap_or(spec.name.clone());
                let created = self.create_named_in(spec, &temporary, namespace);
                created.map_err(|failure| failure.of_creation(spec))?;
                let made = inside.link_by_name(temporary.as_str())?;
                let made = made.ok_or_else(|| NetError::NoAnswer { operation: spec.operation() })?;
                let named = LinkChange { name: Some(spec.name.clone()), ..LinkChange::default() };
                if let Err(error) = inside.change_link(made.index, &named) {
                    // The first failure is the one to report.
                    let _ = inside.delete_link(made.index);
                    return Err(error);
                }
                Ok(Link { name: name.to_owned(), ..made })
            }
            Err(failure) => Err(failure.of_creation(spec)),
            // The kernel sends no echo to another namespace.
            Ok(()) => inside.link_by_name(name)?.ok_or_else(|| NetError::NoAnswer { operation: spec.operation() }),
        }
    }

    fn create_named_in(&self, spec: &LinkSpec<'_>, name: &IfName, namespace: &NetNs) -> Result<(), Failure> {
        let mut message = LinkSpec { name: name.clone(), ..spec.clone() }.message();
        message.attributes.push(LinkAttribute::NetNsFd(namespace.raw_fd()));
        self.tell(rtm::NEWLINK, &message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Says whether the kernel knows this kind of link, and loads its module if it can; creates none. The kind must be one
    /// that is on another link, with 0 as that one's index, which no link has; or one that takes no hardware address of zeros
    /// (`dummy_validate` in drivers/net/dummy.c).
    ///
    /// # Errors
    /// [`NetError::Refused`] if it doesn't (`EOPNOTSUPP`), or without privileges.
    pub fn probe_kind(&self, name: &IfName, kind: &dyn LinkKind) -> Result<(), NetError> {
        let spec = LinkSpec { mac: Some(MacAddr([0; 6])), ..LinkSpec::new(name.clone(), kind) };
        match self.tell(rtm::NEWLINK, &spec.message(), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => self.delete_named(name).map_err(|failure| failure.of(spec.operation())),
            Err(failure @ Failure::Kernel(_)) if !failure.is(Errno::OPNOTSUPP) && !failure.is(Errno::PERM) => Ok(()),
            Err(failure) => Err(failure.of_creation(&spec)),
        }
    }

    /// Creates the link that `message` describes, and returns it as the kernel echoes it.
    pub(super) fn create(&self, message: &LinkMessage, name: &IfName) -> Result<Option<Link>, Failure> {
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
        let answers: Vec<Link> = self.ask(rtm::NEWLINK, message, flags)?;
        let made = answers.into_iter().find(|link| link.name == name.as_str());
        // Before Linux 6.2 there is no echo.
        Ok(made.or_else(|| self.link_by_name(name.as_str()).ok().flatten()))
    }
}

impl Failure {
    fn of_creation(self, spec: &LinkSpec<'_>) -> NetError {
        let operation = spec.operation();
        match (self, spec.kind.feature()) {
            (failure, _) if failure.is(Errno::EXIST) => NetError::Exists { operation, name: spec.name.to_string() },
            // With a sentence it is "Unknown device type": the kind itself is missing.
            (Failure::Kernel(KernelError { errno: Errno::OPNOTSUPP, text: None }), Some(feature)) => {
                NetError::Unsupported { operation, feature }
            }
            (failure, _) => failure.of(operation),
        }
    }
}
