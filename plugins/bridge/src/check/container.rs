//! The container's end of the pair, its addresses and its routes.

use cni_net::{Layer3, Link, Netlink};
use cni_plugin::{CniError, Difference, MacAddr};

use super::{Wanted, expect, expect_mac, state};
use crate::plan;
use crate::settings::Mode;

/// Compares the interface and returns its hardware address.
pub(super) fn check(
    wanted: &Wanted<'_>,
    inside: &Netlink,
    port: Option<&Link>,
    differences: &mut Vec<Difference>,
) -> Result<Option<MacAddr>, CniError> {
    let ifname = &wanted.attachment.owner.ifname;
    let Some(link) = inside.link_by_name(ifname.as_str())? else {
        differences.push(Difference::missing(format!("interface {ifname} in {:?}", wanted.attachment.netns)));
        return Ok(None);
    };
    let thing = format!("interface {ifname}");
    expect(differences, &thing, "veth", link.kind.as_deref().unwrap_or("physical"));
    if wanted.settings.mode != (Mode::Layer2 { up: false }) {
        expect(differences, &thing, "up", state(link.up));
    }
    if port.is_some_and(|port| link.peer_index != Some(port.index)) {
        differences.push(Difference::new(thing, "the other end of the host's link", "another link's other end"));
    }
    let told = wanted.told_container();
    expect_mac(differences, &link, told);
    // A later plugin may have changed it and said so.
    let told_mtu = told.map(|told| told.mtu).filter(|mtu| *mtu > 0);
    if let Some(mtu) = told_mtu.or(wanted.settings.mtu) {
        expect(differences, format!("mtu of {ifname}"), &mtu.to_string(), &link.mtu.to_string());
    }
    let layer3 = Layer3::of(&plan::with_addresses(wanted.told, wanted.plan), ifname)?;
    differences.extend(layer3.check(inside, link.index)?);
    Ok(link.mac)
}
