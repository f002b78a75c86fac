//! Creating links, each with one message.

use std::fmt;

use cni_plugin::{IfName, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::rand::{GetRandomFlags, getrandom};

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

/// How many temporary names are tried.
const TEMPORARY_NAMES: usize = 8;

/// A name that no other process chooses, of whichever PID namespace.
fn random_name() -> Result<IfName, Failure> {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| Failure::Kernel(KernelError { errno: errno.raw_os_error(), text: None }))?;
    format!("cni-{:08x}", u32::from_ne_bytes(bytes)).parse().map_err(|_| Failure::NoAnswer)
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
            // Older kernels look for the name in this socket's namespace, such as the `eth0` of a node (`rtnl_newlink` in
            // net/core/rtnetlink.c of Linux 6.1): then the link gets its name there.
            Err(failure) if failure.is(Errno::EXIST) && inside.link_by_name(spec.name.as_str())?.is_none() => {
                let temporary = self.create_temporary_in(spec, namespace, inside, random_name)?;
                inside.named(spec, &temporary)
            }
            Err(failure) => Err(failure.of_creation(spec)),
            // The kernel sends no echo to another namespace.
            Ok(()) => inside.made(spec, &spec.name),
        }
    }

    /// Creates the link under a name that neither namespace has, and returns that name.
    fn create_temporary_in(
        &self,
        spec: &LinkSpec<'_>,
        namespace: &NetNs,
        inside: &Netlink,
        mut name: impl FnMut() -> Result<IfName, Failure>,
    ) -> Result<IfName, NetError> {
        let mut left = TEMPORARY_NAMES;
        loop {
            left -= 1;
            let temporary = name().map_err(|failure| failure.of_creation(spec))?;
            match self.create_named_in(spec, &temporary, namespace) {
                Ok(()) => return Ok(temporary),
                Err(failure) if failure.is(Errno::EXIST) && left > 0 => {}
                Err(failure) => {
                    // Without an answer it may be there.
                    if matches!(failure, Failure::NoAnswer) {
                        let _ = inside.delete_named(&temporary);
                    }
                    return Err(failure.of_creation(spec));
                }
            }
        }
    }

    /// Gives the link of this socket's namespace that was created under a temporary name its own, or deletes it.
    fn named(&self, spec: &LinkSpec<'_>, temporary: &IfName) -> Result<Link, NetError> {
        let made = self.made(spec, temporary)?;
        let named = LinkChange { name: Some(spec.name.clone()), ..LinkChange::default() };
        self.change_link(made.index, &named).inspect_err(|_| {
            // By its index: without an answer it may have either name. The first failure is the one to report.
            let _ = self.delete_link(made.index);
        })?;
        Ok(Link { name: spec.name.to_string(), ..made })
    }

    /// The link of this socket's namespace that was just created under this name, which is deleted if it can't be read.
    fn made(&self, spec: &LinkSpec<'_>, name: &IfName) -> Result<Link, NetError> {
        let found = self.link_by_name(name.as_str());
        let made = found.and_then(|link| link.ok_or_else(|| NetError::NoAnswer { operation: spec.operation() }));
        made.inspect_err(|_| {
            let _ = self.delete_named(name);
        })
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{Bridge, MacVlan, MacVlanMode};

    /// Runs `test` in private namespaces, with a socket there and one in the namespace `blue`, and a parent's index.
    fn with_blue(name: &str, test: impl FnOnce(&Netlink, &NetNs, &Netlink, u32)) {
        cni_testing::private::run(name, || {
            assert!(Command::new("ip").args(["netns", "add", "blue"]).status().unwrap().success());
            let blue = NetNs::open("/run/netns/blue".as_ref()).unwrap();
            let (netlink, inside) = (Netlink::open().unwrap(), Netlink::open_in(&blue).unwrap());
            let parent = LinkSpec::new("cni0".parse().unwrap(), &Bridge { vlan_filtering: false });
            let parent = netlink.create_link(&parent).unwrap().index;
            test(&netlink, &blue, &inside, parent);
        });
    }

    /// The names of all links of `blue` but `lo`, as `ip` sees them.
    fn in_blue() -> Vec<String> {
        let output = Command::new("ip").args(["-n", "blue", "-o", "link"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
        names.filter(|name| *name != "lo").map(str::to_owned).collect()
    }

    #[test]
    fn a_temporary_name_that_is_taken_is_passed_over() {
        with_blue(
            "link::create::tests::a_temporary_name_that_is_taken_is_passed_over",
            |netlink, blue, inside, parent| {
                let kind = MacVlan::new(parent, MacVlanMode::Bridge);
                let spec = LinkSpec::new("eth0".parse().unwrap(), &kind);
                inside
                    .create_link(&LinkSpec::new("cni-1".parse().unwrap(), &Bridge { vlan_filtering: false }))
                    .unwrap();
                let mut tried = 0;
                let names = |free_from: usize, tried: &mut usize| {
                    *tried += 1;
                    Ok(if *tried < free_from { "cni-1" } else { "cni-2" }.parse().unwrap())
                };
                let refused = netlink.create_temporary_in(&spec, blue, inside, || names(usize::MAX, &mut tried));
                assert!(matches!(refused, Err(NetError::Exists { .. })) && tried == TEMPORARY_NAMES, "{tried}");
                assert_eq!(in_blue(), ["cni-1"]);
                tried = 0;
                let temporary = netlink.create_temporary_in(&spec, blue, inside, || names(3, &mut tried)).unwrap();
                assert_eq!(inside.named(&spec, &temporary).unwrap().name, "eth0");
                assert_eq!(tried, 3);
                let mut links = in_blue();
                links.sort();
                assert_eq!(links, ["cni-1", "eth0"]);
            },
        );
    }

    #[test]
    fn a_link_that_cannot_get_its_name_is_deleted() {
        with_blue(
            "link::create::tests::a_link_that_cannot_get_its_name_is_deleted",
            |netlink, blue, inside, parent| {
                let kind = MacVlan::new(parent, MacVlanMode::Bridge);
                let spec = LinkSpec::new("eth0".parse().unwrap(), &kind);
                let temporary = netlink.create_temporary_in(&spec, blue, inside, random_name).unwrap();
                inside.create_link(&LinkSpec::new("eth0".parse().unwrap(), &Bridge { vlan_filtering: false })).unwrap();
                assert!(matches!(inside.named(&spec, &temporary), Err(NetError::Exists { .. })));
                assert_eq!(in_blue(), ["eth0"]);
            },
        );
    }

    #[test]
    fn random_names_are_names_and_differ() {
        let (one, other) = (random_name().unwrap(), random_name().unwrap());
        assert!(one.as_str().starts_with("cni-") && one.as_str().len() == 12 && one != other, "{one} {other}");
    }
}
