//! CHECK of a link: that it is there, up, and as the result of ADD reports it.

use std::path::Path;

use cni_net::{Link, NetError, Netlink};
use cni_plugin::{Attachment, CniError, CniResult, Difference, IfName, Interface, Request};

/// The result of ADD, with which CHECK compares, refused if it can't be one of this attachment: it must have the
/// container's interface, and an address of it if ADD gave it any (`addresses`).
///
/// # Errors
/// What is missing.
pub fn result_of_add<'a, C>(
    request: &'a Request<C>,
    attachment: &Attachment,
    addresses: bool,
) -> Result<&'a CniResult, CniError> {
    let result = request.require_result_of_add()?;
    result.require_of_add(&attachment.owner.ifname, addresses)?;
    Ok(result)
}

/// An attachment's links as ADD made them and later plugins of the chain left them.
#[derive(Debug, Clone, Copy)]
pub struct LinkCheck<'a> {
    /// The container's interface.
    pub ifname: &'a IfName,
    /// The namespace that it is in.
    pub netns: &'a Path,
    /// What it is: `veth`, `macvlan`, …; empty if it may be anything.
    pub kind: &'a str,
    /// In bytes; not compared if none. Nor is the container's where the result has none, as before 1.1.0: a later plugin
    /// may have changed it.
    pub mtu: Option<u32>,
    /// The container's interface has been set up.
    pub up: bool,
    /// The result of ADD. Later plugins may have changed hardware addresses and MTUs and reported that; then the result
    /// counts.
    pub result: &'a CniResult,
}

impl<'a> LinkCheck<'a> {
    /// The links of this attachment, which are of this kind, the container's up.
    pub fn new(attachment: &'a Attachment, kind: &'a str, mtu: Option<u32>, result: &'a CniResult) -> Self {
        Self { ifname: &attachment.owner.ifname, netns: &attachment.netns, kind, mtu, up: true, result }
    }

    /// Compares the host's end of a veth pair: that it is there, up, and as the result reports it.
    pub fn host_end(&self, link: Option<&Link>) -> Vec<Difference> {
        let Some(link) = link else { return vec![Difference::missing("the host's end of the veth pair")] };
        let mut differences = self.reported(link, self.result.host_interface(&link.name), self.mtu);
        if !link.up {
            differences.push(Difference::new(format!("link {}", link.name), "up", "down"));
        }
        differences
    }

    /// Compares the container's interface: that it is there, of its kind, up, and as the result reports it; and, of a veth
    /// pair, that it is the other end of `host_end`. Returns it too.
    ///
    /// # Errors
    /// The kernel's.
    pub fn container(
        &self,
        inside: &Netlink,
        host_end: Option<&Link>,
    ) -> Result<(Option<Link>, Vec<Difference>), NetError> {
        let thing = format!("interface {}", self.ifname);
        let Some(link) = inside.link_by_name(self.ifname.as_str())? else {
            return Ok((None, vec![Difference::missing(format!("{thing} in {:?}", self.netns))]));
        };
        let reported = self.result.interface(self.ifname).map(|(_, reported)| reported);
        let mut differences = self.reported(&link, reported, None);
        if !self.kind.is_empty() && link.kind.as_deref() != Some(self.kind) {
            differences.push(Difference::new(&thing, self.kind, link.kind.as_deref().unwrap_or("physical")));
        } else if let Some(host) = host_end.filter(|host| link.peer_index != Some(host.index)) {
            let expected = format!("the other end of {}", host.name);
            differences.push(Difference::new(&thing, expected, "another link's other end"));
        }
        if self.up && !link.up {
            differences.push(Difference::new(thing, "up", "down"));
        }
        Ok((Some(link), differences))
    }

    fn reported(&self, link: &Link, reported: Option<&Interface>, unreported_mtu: Option<u32>) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mtu = reported.map(|reported| reported.mtu).filter(|mtu| *mtu > 0);
        if let Some(mtu) = self.mtu.and(mtu.or(unreported_mtu)).filter(|mtu| *mtu != link.mtu) {
            differences.push(Difference::new(format!("mtu of {}", link.name), mtu, link.mtu));
        }
        differences.extend(check_mac(link, reported));
        differences
    }
}

/// Compares the link's hardware address with the reported one, if the result has one.
pub fn check_mac(link: &Link, reported: Option<&Interface>) -> Option<Difference> {
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let other = reported.filter(|reported| !reported.mac.is_empty() && !reported.mac.eq_ignore_ascii_case(&mac))?;
    Some(Difference::new(format!("MAC address of {}", link.name), &other.mac, mac))
}
