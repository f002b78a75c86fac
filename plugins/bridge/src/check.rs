//! CHECK: compares the whole plan with what is there, and names each difference.

use cni_net::{Family, Layer3, Link, NetNs, Netlink, forwarding, pair};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, CniResult, Difference, Interface, Ipam, Request, verdict};

use crate::config::Config;
use crate::host;
use crate::plan::{self, AddressPlan};
use crate::settings::{Mode, Settings};

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let told = request
        .prev_result
        .as_ref()
        .ok_or_else(|| CniError::plugin("CHECK needs prevResult, the result of ADD, and the configuration has none"))?;
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Netlink::open()?;
    let inside = Netlink::open_in(&namespace)?;
    let plan = AddressPlan::from_result(&settings, owner, told);

    let mut differences = Vec::new();
    let bridge = host::find_bridge(&socket, &settings.bridge)?;
    check_bridge(&socket, &settings, bridge.as_ref(), told, &plan, &mut differences)?;
    let port = pair::find_or_told(&socket, owner, told)?;
    check_port(&settings, bridge.as_ref(), port.as_ref(), &mut differences);
    check_container(&settings, attachment, &inside, port.as_ref(), told, &plan, &mut differences)?;
    if settings.masquerade {
        let filter = Netfilter::new();
        differences.extend(filter.check_masquerade(filter.choose(settings.backend)?, &plan.masquerade)?);
    }
    verdict(&differences)?;
    match settings.ipam() {
        Some(plugin) => Ipam::new(&request.delegates, plugin, request.version).check(),
        None => Ok(()),
    }
}

fn check_bridge(
    socket: &Netlink,
    settings: &Settings,
    bridge: Option<&Link>,
    told: &CniResult,
    plan: &AddressPlan,
    differences: &mut Vec<Difference>,
) -> Result<(), CniError> {
    let name = &settings.bridge;
    let Some(bridge) = bridge else {
        differences.push(Difference::missing(format!("bridge {name}")));
        return Ok(());
    };
    expect(differences, format!("bridge {name}"), "up", state(bridge.up));
    let is_it = |interface: &&Interface| interface.name == name.as_str() && interface.sandbox.is_empty();
    expect_mac(differences, bridge, told.interfaces.iter().find(is_it));
    if settings.promisc && bridge.promiscuity == 0 {
        differences.push(Difference::new(format!("bridge {name}"), "promiscuous", "not promiscuous"));
    }
    let present = socket.addresses(bridge.index)?;
    for gateway in &plan.gateways {
        if !present.iter().any(|found| found.network == *gateway) {
            differences.push(Difference::missing(format!("gateway address {gateway} of bridge {name}")));
        }
    }
    for family in Family::ALL {
        if plan.gateways.iter().any(|gateway| Family::of(gateway.ip()) == family) {
            differences.extend(forwarding::check(family)?);
        }
    }
    Ok(())
}

fn check_port(settings: &Settings, bridge: Option<&Link>, port: Option<&Link>, differences: &mut Vec<Difference>) {
    differences.extend(pair::check_host(port, settings.mtu, None));
    let Some(port) = port else { return };
    if port.master.is_none() || port.master != bridge.map(|bridge| bridge.index) {
        let found = port.master.map_or_else(|| "none".to_owned(), |index| format!("link {index}"));
        differences.push(Difference::new(format!("master of {}", port.name), &settings.bridge, found));
        return;
    }
    let found = port.port.as_ref();
    let hairpin = found.is_some_and(|port| port.hairpin);
    expect(differences, format!("hairpin of {}", port.name), on(settings.hairpin), on(hairpin));
    let isolated = found.is_some_and(|port| port.isolated);
    expect(differences, format!("isolation of {}", port.name), on(settings.isolated), on(isolated));
}

fn check_container(
    settings: &Settings,
    attachment: &Attachment,
    inside: &Netlink,
    port: Option<&Link>,
    told: &CniResult,
    plan: &AddressPlan,
    differences: &mut Vec<Difference>,
) -> Result<(), CniError> {
    let ifname = &attachment.owner.ifname;
    let Some(link) = inside.link_by_name(ifname.as_str())? else {
        differences.push(Difference::missing(format!("interface {ifname} in {:?}", attachment.netns)));
        return Ok(());
    };
    if settings.mode != (Mode::Layer2 { up: false }) {
        expect(differences, format!("interface {ifname}"), "up", state(link.up));
    }
    let told_link = told.interface(ifname).map(|(_, told)| told);
    differences.extend(pair::check_container(&link, port, settings.mtu, told_link));
    let layer3 = Layer3::of(&plan::with_addresses(told, plan), ifname)?;
    differences.extend(layer3.check(inside, link.index)?);
    Ok(())
}

/// The result's MAC counts: a later plugin may have changed it and said so.
fn expect_mac(differences: &mut Vec<Difference>, link: &Link, told: Option<&Interface>) {
    let Some(told) = told.filter(|told| !told.mac.is_empty()) else { return };
    let found = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if !found.eq_ignore_ascii_case(&told.mac) {
        differences.push(Difference::new(format!("MAC address of {}", link.name), &told.mac, found));
    }
}

fn expect(differences: &mut Vec<Difference>, thing: String, expected: &str, found: &str) {
    if expected != found {
        differences.push(Difference::new(thing, expected, found));
    }
}

fn state(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}
