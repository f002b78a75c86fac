//! The plans of the examples, as commands of `ip`, `bridge` and `sysctl`, with the packet filter's part in words, compared with files that were read before they were
//! committed.

use cni_attach::forwarding;
use cni_attach::pair::{self, PairSpec};
use cni_attach::print::{Place, lines};
use cni_netfilter::MacGuard;
use cni_plugin::{CniArgs, CniResult, Dns, IfName, Interface, MacAddr, Owner, SpecVersion};
use serde_json::Value;

use crate::plan::AddressPlan;
use crate::settings::{Mode, Settings};
use crate::vlan::PortVlans;
use crate::{bridge, gateway};

#[test]
fn the_examples_plans() {
    cni_testing::golden::dir(env!("CARGO_MANIFEST_DIR"))
        .compare_examples("bridge", |example| lines(&commands(&example.config)));
}

/// The plan for an address 9 of each range, on a node that has no such bridge yet.
fn commands(config: &Value) -> Vec<String> {
    let owner =
        Owner { network: "net".parse().unwrap(), container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() };
    let config = cni_plugin::json::decode(config.clone()).map(|decoded| (decoded, cni_testing::ipam::result(config)));
    let (config, ipam) = config.unwrap();
    let settings = Settings::resolve(&config, &CniArgs::default(), SpecVersion::V1_1_0).unwrap();
    let plan = match settings.mode {
        Mode::Layer3 { .. } => {
            AddressPlan::new(&settings, &owner, &CniResult::from_delegate(ipam, SpecVersion::V1_1_0).unwrap())
        }
        Mode::Layer2 { .. } => AddressPlan::default(),
    };
    let names = settings.host_name.as_ref().map_or_else(Vec::new, |template| template.names(&owner).unwrap());
    let pair = PairSpec { names: &names, mtu: settings.mtu, mac: settings.mac, ..PairSpec::of(&owner) };
    let host = names.first().cloned().unwrap_or_else(|| pair::host_names(&owner).next().unwrap());
    [
        the_bridge(&settings),
        pair.commands(Some(settings.bridge.as_str())),
        port(&settings, &host),
        the_gateway(&settings, &plan),
        container(&settings, &plan, &owner),
        filter(&settings, &plan, &owner, &host),
    ]
    .concat()
}

fn the_bridge(settings: &Settings) -> Vec<String> {
    let (name, kind) = (&settings.bridge, bridge::kind(settings));
    let promisc = if settings.promisc { " promisc on" } else { "" };
    vec![
        Place::Node.ip(&format!("link {}", bridge::spec(settings, &kind))),
        Place::Node.sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0"),
        Place::Node.sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        Place::Node.ip(&format!("link set {name} up{promisc}")),
    ]
}

fn port(settings: &Settings, port: &IfName) -> Vec<String> {
    let on = |flag| if flag { "on" } else { "off" };
    let mut commands = Vec::new();
    if settings.hairpin || settings.isolated {
        let (hairpin, isolated) = (on(settings.hairpin), on(settings.isolated));
        commands.push(format!("bridge link set dev {port} hairpin {hairpin} isolated {isolated}"));
    }
    commands.extend(settings.vlans.iter().flat_map(|vlans| vlan_commands(vlans, port)));
    commands
}

fn vlan_commands(vlans: &PortVlans, port: &IfName) -> Vec<String> {
    let left = vlans.without(Some(1)).map(|id| format!("bridge vlan del dev {port} vid {id}"));
    let added = vlans.wanted.iter().map(|vlan| {
        let (pvid, untagged) = (if vlan.pvid { " pvid" } else { "" }, if vlan.untagged { " untagged" } else { "" });
        format!("bridge vlan add dev {port} vid {}{pvid}{untagged}", vlan.id)
    });
    left.into_iter().chain(added).collect()
}

fn the_gateway(settings: &Settings, plan: &AddressPlan) -> Vec<String> {
    let mut commands = Vec::new();
    if plan.gateways.is_empty() {
        return commands;
    }
    let mut name = settings.bridge.clone();
    if let Some(link) = gateway::vlan_link_name(settings, &settings.bridge).unwrap() {
        let port = gateway::port_name(&link).unwrap();
        let created = format!("link add {port} master {} up type veth peer name {link}", settings.bridge);
        commands.push(Place::Node.ip(&created));
        commands.extend([&port, &link].map(|name| Place::Node.sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0")));
        commands.extend(vlan_commands(&settings.gateway_port().unwrap(), &port));
        commands.push(Place::Node.ip(&format!("link set {link} up")));
        name = link;
    }
    for gateway in &plan.gateways {
        let dad = if gateway.address.is_ipv6() { " nodad" } else { "" };
        let prefix_route = if gateway.needs_no_prefix_route() { " noprefixroute" } else { "" };
        commands.push(Place::Node.ip(&format!("address add {} dev {name}{dad}{prefix_route}", gateway.address)));
        if gateway.is_outside() {
            commands.push(Place::Node.ip(&format!("route add {} dev {name}", gateway.subnet)));
        }
    }
    commands.extend(forwarding::commands(plan.gateways.iter().map(|gateway| gateway.address.ip())));
    commands
}

fn filter(settings: &Settings, plan: &AddressPlan, owner: &Owner, port: &IfName) -> Vec<String> {
    let mac = settings.mac.unwrap_or(MacAddr([2, 0, 0, 0, 0, 1]));
    let guard = settings.mac_guard.then(|| MacGuard { owner: owner.clone(), port: port.clone(), mac }.to_string());
    guard.into_iter().chain(plan.masquerade.iter().map(ToString::to_string)).collect()
}

fn container(settings: &Settings, plan: &AddressPlan, owner: &Owner) -> Vec<String> {
    let up = Place::Container.ip(&format!("link set {} up", owner.ifname));
    match settings.mode {
        Mode::Layer2 { up: false } => Vec::new(),
        Mode::Layer2 { up: true } => vec![up],
        Mode::Layer3 { .. } => {
            let mac = MacAddr([2, 0, 0, 0, 0, 1]);
            let interfaces =
                [("br0", ""), ("veth0", ""), ("eth0", "/ns")].map(|(name, ns)| Interface::new(name, mac, ns));
            let result = plan.result(interfaces.into(), Dns::default());
            plan.layer3(settings, &result, &owner.ifname).unwrap().commands(Place::Container)
        }
    }
}
