//! What of a pair isn't as ADD made it.

use cni_plugin::{Difference, Interface};

use super::is_veth;
use crate::Link;

/// The host's end: that it is there, up, with this MTU, and the hardware address that the result tells.
pub fn check_host(link: Option<&Link>, mtu: Option<u32>, told: Option<&Interface>) -> Vec<Difference> {
    let Some(link) = link else { return vec![Difference::missing("the host's end of the veth pair")] };
    let mut differences = check_end(link, mtu, told);
    if !link.up {
        differences.push(Difference::new(format!("link {}", link.name), "up", "down"));
    }
    differences
}

/// The container's end: that it is the other end of the host's, and the hardware address that the result tells.
pub fn check_container(
    link: &Link,
    host: Option<&Link>,
    mtu: Option<u32>,
    told: Option<&Interface>,
) -> Vec<Difference> {
    let thing = format!("interface {}", link.name);
    if !is_veth(link) {
        return vec![Difference::new(thing, "veth", link.kind.as_deref().unwrap_or("physical"))];
    }
    let mut differences = check_end(link, mtu, told);
    if let Some(host) = host.filter(|host| link.peer_index != Some(host.index)) {
        let expected = format!("the other end of {}", host.name);
        differences.push(Difference::new(thing, expected, "another link's other end"));
    }
    differences
}

fn check_end(link: &Link, mtu: Option<u32>, told: Option<&Interface>) -> Vec<Difference> {
    let mut differences = Vec::new();
    // A later plugin of the chain may have changed them and said so; then the result counts.
    let told_mtu = told.map(|told| told.mtu).filter(|mtu| *mtu > 0);
    if let Some(mtu) = told_mtu.or(mtu).filter(|mtu| *mtu != link.mtu) {
        differences.push(Difference::new(format!("mtu of {}", link.name), mtu, link.mtu));
    }
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if let Some(told) = told.filter(|told| !told.mac.is_empty() && !told.mac.eq_ignore_ascii_case(&mac)) {
        differences.push(Difference::new(format!("MAC address of {}", link.name), &told.mac, mac));
    }
    differences
}
