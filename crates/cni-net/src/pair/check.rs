//! What of a pair isn't as ADD made it.

use std::path::Path;

use cni_plugin::{CniResult, Difference, IfName, Interface};

use super::is_veth;
use crate::{Link, NetError, Netlink};

/// The pair as ADD made it and later plugins of the chain left it.
#[derive(Debug, Clone, Copy)]
pub struct PairCheck<'a> {
    /// The container's end.
    pub ifname: &'a IfName,
    /// Where it is.
    pub netns: &'a Path,
    /// Of both ends, in bytes; not compared if none. Nor is the container's where no MTU was told of it, as before 1.1.0:
    /// a later plugin may have changed it.
    pub mtu: Option<u32>,
    /// The container's end has been set up.
    pub up: bool,
    /// The result of ADD. Later plugins may have changed hardware addresses and MTUs and said so; then the result counts.
    pub told: &'a CniResult,
}

impl PairCheck<'_> {
    /// Compares the host's end: that it is there, up, and as it was told.
    pub fn host(&self, link: Option<&Link>) -> Vec<Difference> {
        let Some(link) = link else { return vec![Difference::missing("the host's end of the veth pair")] };
        let mut differences = self.end(link, self.told.host_interface(&link.name), self.mtu);
        if !link.up {
            differences.push(Difference::new(format!("link {}", link.name), "up", "down"));
        }
        differences
    }

    /// Compares the container's end: that it is there, the other end of the host's, up, and as it was told. Returns it too.
    pub fn container(
        &self,
        inside: &Netlink,
        host: Option<&Link>,
    ) -> Result<(Option<Link>, Vec<Difference>), NetError> {
        let thing = format!("interface {}", self.ifname);
        let Some(link) = inside.link_by_name(self.ifname.as_str())? else {
            return Ok((None, vec![Difference::missing(format!("{thing} in {:?}", self.netns))]));
        };
        let mut differences = self.end(&link, self.told.interface(self.ifname).map(|(_, told)| told), None);
        if !is_veth(&link) {
            differences.push(Difference::new(&thing, "veth", link.kind.as_deref().unwrap_or("physical")));
        } else if let Some(host) = host.filter(|host| link.peer_index != Some(host.index)) {
            let expected = format!("the other end of {}", host.name);
            differences.push(Difference::new(&thing, expected, "another link's other end"));
        }
        if self.up && !link.up {
            differences.push(Difference::new(thing, "up", "down"));
        }
        Ok((Some(link), differences))
    }

    fn end(&self, link: &Link, told: Option<&Interface>, untold_mtu: Option<u32>) -> Vec<Difference> {
        let mut differences = Vec::new();
        let told_mtu = told.map(|told| told.mtu).filter(|mtu| *mtu > 0);
        if let Some(mtu) = self.mtu.and(told_mtu.or(untold_mtu)).filter(|mtu| *mtu != link.mtu) {
            differences.push(Difference::new(format!("mtu of {}", link.name), mtu, link.mtu));
        }
        differences.extend(check_mac(link, told));
        differences
    }
}

/// Compares the link's hardware address with the one that was told, if one was.
pub fn check_mac(link: &Link, told: Option<&Interface>) -> Option<Difference> {
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let told = told.filter(|told| !told.mac.is_empty() && !told.mac.eq_ignore_ascii_case(&mac))?;
    Some(Difference::new(format!("MAC address of {}", link.name), &told.mac, mac))
}
