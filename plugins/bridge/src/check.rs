//! CHECK: compares the whole plan with the kernel's state, and names each difference.

use cni_attach::check::{check_mac, result_of_add};
use cni_attach::{LinkCheck, Sides, forwarding, pair};
use cni_net::{Link, NetError, Netlink, Route, RouteFilter, localnet};
use cni_netfilter::{MacGuard, Netfilter};
use cni_plugin::{Attachment, CniError, CniResult, Difference, Family, MacAddr, Request, verdict};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::plan::AddressPlan;
use crate::settings::{Mode, Settings};
use crate::vlan::{self, PortVlans};
use crate::{bridge, gateway};

/// What there is to compare with.
struct Wanted<'a> {
    settings: &'a Settings,
    plan: &'a AddressPlan,
    /// The result of ADD, as later plugins left it.
    result: &'a CniResult,
    /// The pair.
    links: LinkCheck<'a>,
}

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let result = result_of_add(request, attachment, settings.ipam().is_some())?;
    let sides = Sides::open(&attachment.netns)?;
    let plan = AddressPlan::from_result(&settings, owner, result);
    let up = settings.mode != (Mode::Layer2 { up: false });
    let links = LinkCheck { up, ..LinkCheck::new(attachment, "veth", settings.mtu, result) };
    let wanted = Wanted { settings: &settings, plan: &plan, result, links };

    // 1. The bridge, the gateway and the pair.
    let mut found = Vec::new();
    let bridge = wanted.bridge(&sides.host, &mut found)?;
    wanted.gateway(&sides.host, bridge.as_ref(), &mut found)?;
    let port = pair::find_or_reported(&sides.host, owner, result)?;
    wanted.port(&sides.host, bridge.as_ref(), port.as_ref(), &mut found)?;
    let mac = wanted.container(&sides.container.netlink, port.as_ref(), &mut found)?;

    // 2. The packet filter.
    let filter = Netfilter::new();
    found.extend(settings.masquerade.check(&filter, &plan.masquerade)?);
    if settings.mac_guard
        && let (Some(port), Some(mac)) = (port, mac)
    {
        let guard = MacGuard { owner: owner.clone(), port: port.name.parse()?, mac };
        found.extend(filter.check_mac_guard(&guard)?);
    }
    if localnet::needs_guard([settings.bridge.as_str()]) {
        found.extend(filter.check_localnet_guard()?);
    }
    verdict(&found)?;

    // 3. The reservations.
    match settings.ipam() {
        Some(plugin) => request.ipam(plugin).check(),
        None => Ok(()),
    }
}

impl Wanted<'_> {
    /// Compares the bridge and returns it.
    fn bridge(&self, host: &Netlink, differences: &mut Vec<Difference>) -> Result<Option<Link>, CniError> {
        let settings = self.settings;
        let Some(bridge) = bridge::find(host, &settings.bridge)? else {
            differences.push(Difference::missing(format!("bridge {}", settings.bridge)));
            return Ok(None);
        };
        let thing = format!("bridge {}", bridge.name);
        expect(differences, &thing, "up", state(bridge.up));
        differences.extend(check_mac(&bridge, self.result.host_interface(&bridge.name)));
        // Others may want it promiscuous too, so only the lack of it is a difference.
        if settings.promisc && !bridge.promisc {
            differences.push(Difference::new(&thing, "promiscuous", "not promiscuous"));
        }
        if bridge::refuse_without_filtering(settings, &bridge).is_err() {
            differences.push(Difference::new(format!("VLAN filtering of {thing}"), "on", "off"));
        }
        Ok(Some(bridge))
    }

    /// Compares the gateway's link, addresses and forwarding.
    fn gateway(
        &self,
        host: &Netlink,
        bridge: Option<&Link>,
        differences: &mut Vec<Difference>,
    ) -> Result<(), CniError> {
        let gateways = &self.plan.gateways;
        let link = match bridge {
            Some(bridge) if self.settings.vlan_gateway.is_some() && !gateways.is_empty() => {
                self.vlan_gateway(host, bridge, differences)?
            }
            _ => bridge.cloned(),
        };
        if let Some(link) = link {
            let present = host.addresses(link.index)?;
            for gateway in gateways {
                if !present.iter().any(|found| found.network == gateway.address) {
                    let of = if link.kind.as_deref() == Some("bridge") { "bridge" } else { "interface" };
                    let address = gateway.address;
                    differences.push(Difference::missing(format!("gateway address {address} of {of} {}", link.name)));
                }
                if gateway.is_outside() && !has_route(host, &link, gateway.subnet)? {
                    differences.push(Difference::missing(format!("route {} dev {}", gateway.subnet, link.name)));
                }
            }
        }
        differences.extend(forwarding::check(gateways.iter().map(|gateway| gateway.address.ip()))?);
        Ok(())
    }

    /// The interface in the containers' VLAN, and its other end in the bridge, if it has one.
    fn vlan_gateway(
        &self,
        host: &Netlink,
        bridge: &Link,
        differences: &mut Vec<Difference>,
    ) -> Result<Option<Link>, CniError> {
        let settings = self.settings;
        let Some(name) = gateway::vlan_link_name(settings, &bridge.name.parse()?)? else { return Ok(None) };
        let thing = format!("gateway interface {name}");
        let Some(link) = gateway::find_vlan_link(host, &name)? else {
            differences.push(Difference::missing(thing));
            return Ok(None);
        };
        expect(differences, thing, "up", state(link.up));
        differences.extend(check_mac(&link, self.result.host_interface(name.as_str())));
        if let (Some(port), Some(vlans)) = (bridge::other_end(host, &link)?, settings.gateway_port()) {
            expect(differences, format!("link {}", port.name), "up", state(port.up));
            if check_master(bridge, &port, differences) {
                check_vlans(&vlans, host, bridge, &port, differences)?;
            }
        }
        Ok(Some(link))
    }

    /// Compares the host's end of the pair, as a port of the bridge.
    fn port(
        &self,
        host: &Netlink,
        bridge: Option<&Link>,
        port: Option<&Link>,
        differences: &mut Vec<Difference>,
    ) -> Result<(), CniError> {
        let settings = self.settings;
        differences.extend(self.links.host_end(port));
        let Some(port) = port else { return Ok(()) };
        let Some(bridge) = bridge.filter(|bridge| check_master(bridge, port, differences)) else { return Ok(()) };
        let name = &port.name;
        let found = port.port.as_ref();
        let hairpin = found.is_some_and(|port| port.hairpin);
        expect(differences, format!("hairpin of {name}"), on(settings.hairpin), on(hairpin));
        let isolated = found.is_some_and(|port| port.isolated);
        expect(differences, format!("isolation of {name}"), on(settings.isolated), on(isolated));
        match &settings.vlans {
            Some(vlans) => check_vlans(vlans, host, bridge, port, differences),
            None => Ok(()),
        }
    }

    /// Compares the container's end, its addresses and its routes, and returns its hardware address.
    fn container(
        &self,
        inside: &Netlink,
        port: Option<&Link>,
        differences: &mut Vec<Difference>,
    ) -> Result<Option<MacAddr>, CniError> {
        let (link, found) = self.links.container(inside, port)?;
        differences.extend(found);
        let Some(link) = link else { return Ok(None) };
        let layer3 = self.plan.layer3(self.settings, self.result, self.links.ifname)?;
        differences.extend(layer3.check_result(self.result, inside, link.index)?);
        Ok(link.mac)
    }
}

fn has_route(host: &Netlink, link: &Link, subnet: IpNetwork) -> Result<bool, NetError> {
    let filter = RouteFilter { family: Family::of(subnet.ip()), device: Some(link.index), table: None };
    let wanted = Route::new(subnet, None, link.index);
    Ok(host.routes(&filter)?.iter().any(|found| wanted.is_met_by(found)))
}

/// True if the link is a port of the bridge; otherwise that is the difference, and its settings as a port are not compared.
fn check_master(bridge: &Link, port: &Link, differences: &mut Vec<Difference>) -> bool {
    if port.master == Some(bridge.index) {
        return true;
    }
    let found = port.master.map_or_else(|| "none".to_owned(), |index| format!("link {index}"));
    differences.push(Difference::new(format!("master of {}", port.name), &bridge.name, found));
    false
}

/// Every VLAN that the port should be in, and no other one.
fn check_vlans(
    wanted: &PortVlans,
    host: &Netlink,
    bridge: &Link,
    port: &Link,
    differences: &mut Vec<Difference>,
) -> Result<(), CniError> {
    if wanted.wanted.is_empty() {
        return Ok(());
    }
    let found = host.port_vlans(port.index)?;
    let default = bridge.bridge.as_ref().and_then(|bridge| bridge.default_vlan);
    if !wanted.is_met_by(&found, default) {
        let thing = format!("VLANs of {}", port.name);
        differences.push(Difference::new(thing, vlan::shown(&wanted.wanted), vlan::shown(&found)));
    }
    Ok(())
}

fn expect(differences: &mut Vec<Difference>, thing: impl Into<String>, expected: &str, found: &str) {
    if expected != found {
        differences.push(Difference::new(thing.into(), expected, found));
    }
}

fn state(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}
