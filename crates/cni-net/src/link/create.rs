//! Creating links, each with one message.

use std::fmt;

use cni_plugin::{IfName, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::kind::LinkKind;
use super::mac::random_mac;
use super::{Link, LinkChange};
use crate::errno::Errno;
use crate::error::{Failure, KernelError, NetError, Operation};
use crate::netlink::{Netlink, rtm};
use crate::netns::NetNs;

/// How many temporary names are tried: another reason for `EEXIST`, such as a VLAN that the parent has already, doesn't go away.
const NAMES_TRIED: u32 = 3;

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
        match self.create_named_in(spec, &spec.name, namespace) {
            Ok(()) => inside.made(spec, &spec.name),
            Err(failure) if failure.is(Errno::EXIST) && inside.link_by_name(spec.name.as_str())?.is_none() => {
                self.create_and_rename(spec, namespace, inside)
            }
            Err(failure) => Err(failure.of_creation(spec)),
        }
    }

    /// For kernels that look for the name in this socket's namespace, where it may be that of a node's own `eth0` (`rtnl_newlink` in
    /// net/core/rtnetlink.c of Linux 6.1): the link is created under a name of its own, and gets its name inside.
    fn create_and_rename(&self, spec: &LinkSpec<'_>, namespace: &NetNs, inside: &Netlink) -> Result<Link, NetError> {
        let mut left = NAMES_TRIED;
        let temporary = loop {
            let name = temporary_name().unwrap_or(spec.name.clone());
            left -= 1;
            match self.create_named_in(spec, &name, namespace) {
                Ok(()) => break name,
                Err(failure) if failure.is(Errno::EXIST) && left > 0 => {}
                Err(failure) => return Err(failure.of_creation(spec)),
            }
        };
        let made = inside.made(spec, &temporary)?;
        let named = LinkChange { name: Some(spec.name.clone()), ..LinkChange::default() };
        if let Err(error) = inside.change_link(made.index, &named) {
            // The first failure is the one to report.
            let _ = inside.delete_link(made.index);
            return Err(error);
        }
        Ok(Link { name: spec.name.to_string(), ..made })
    }

    /// The link that was made from another namespace, to which the kernel sends no echo. Where it can't be read, it is deleted.
    fn made(&self, spec: &LinkSpec<'_>, name: &IfName) -> Result<Link, NetError> {
        let found = self.link_by_name(name.as_str());
        let found = found.and_then(|found| found.ok_or_else(|| NetError::NoAnswer { operation: spec.operation() }));
        if found.is_err() {
            // The first failure is the one to report.
            let _ = self.delete_named(name);
        }
        found
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

/// One that no other call uses at the same time, whatever namespace of processes it is in.
fn temporary_name() -> Option<IfName> {
    let [.., a, b, c, d] = random_mac().ok()?.0;
    format!("cni-{a:02x}{b:02x}{c:02x}{d:02x}").parse().ok()
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
