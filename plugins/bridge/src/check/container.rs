//! The container's end of the pair, its addresses and its routes.

use cni_net::pair::PairCheck;
use cni_net::{Layer3, Link, Netlink};
use cni_plugin::{CniError, Difference, MacAddr};

use super::Wanted;
use crate::plan;

/// Compares the interface and returns its hardware address.
pub(super) fn check(
    wanted: &Wanted<'_>,
    pair: &PairCheck<'_>,
    inside: &Netlink,
    port: Option<&Link>,
    differences: &mut Vec<Difference>,
) -> Result<Option<MacAddr>, CniError> {
    let (link, found) = pair.container(inside, port)?;
    differences.extend(found);
    let Some(link) = link else { return Ok(None) };
    let layer3 = Layer3::of(&plan::with_addresses(wanted.told, wanted.plan), pair.ifname)?;
    let layer3 = Layer3 { on_link: wanted.plan.on_link(), ..layer3 };
    let layer3 = layer3.without_routes_of_others(wanted.told, inside)?;
    differences.extend(layer3.check(inside, link.index)?);
    Ok(link.mac)
}
