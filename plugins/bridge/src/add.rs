//! ADD: carries out the plan.

use std::rc::Rc;

use cni_attach::ipam::Addresses;
use cni_attach::pair::Pair;
use cni_attach::{Sides, masquerade, mtu, pair, result};
use cni_net::{NetError, Netlink, localnet};
use cni_netfilter::{MacGuard, Netfilter};
use cni_plugin::{Attachment, CniError, CniResult, IfName, Interface, Lock, MacAddr, Request, Undo};

use crate::bridge::BridgeLink;
use crate::config::Config;
use crate::gateway::GatewayLink;
use crate::plan::AddressPlan;
use crate::settings::{Mode, Settings};
use crate::{bridge, gateway, port};

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let filter = Rc::new(Netfilter::asking(pair::is_there));
    let names = settings.host_name.as_ref().map_or_else(|| Ok(Vec::new()), |template| template.names(owner))?;
    let backend = settings.masquerade.choose(&filter, &request.config.ipam)?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;

    // 2. IPAM works while the links are made.
    let ipam = settings.ipam().map(|plugin| request.ipam(plugin));
    let pending = Addresses::start(ipam, &request.config.ipam, undo)?;

    // 3. The bridge, shared with others and therefore never taken back. It must not be deleted while it has no port yet.
    //    Where there is no lock, it isn't: DEL leaves the bridge.
    let lock = Lock::if_possible(Lock::to_use_shared_links())?;
    let bridge = bridge::ensure(&sides.host, &settings)?;
    localnet::keep_guarded([bridge.name.as_str()], || filter.add_localnet_guard())?;
    bridge::refuse_taken_mac(&sides.host, &settings, &bridge)?;

    // 4. The pair. Deleting the host's end deletes the container's too, with its addresses and its routes.
    let pair = port::create(&sides, &settings, owner, &names, &bridge, undo)?;
    drop(lock);

    // 5. The spoof check, before the container's end is up and could send.
    if settings.mac_guard {
        let guard = MacGuard { owner: owner.clone(), port: pair.host_name.clone(), mac: pair.container_mac };
        filter.add_mac_guard(&guard, undo)?;
    }

    // 6. What IPAM says, completed by the configuration.
    let ipam = pending.finish(undo)?.unwrap_or_default();
    let addresses = AddressPlan::new(&settings, owner, &ipam);
    mtu::refuse_ipv6(settings.mtu, addresses.ips.iter().map(|ip| ip.address))?;
    addresses.refuse_dead_ends()?;

    // 7. The bridge, or an interface in the containers' VLAN, as gateway.
    let gateway = gateway::ensure(&sides.host, &settings, &bridge, &addresses.gateways)?;

    // 8. The container's addresses and routes; its interface goes up.
    let interfaces = interfaces(request, attachment, &sides.host, &bridge, &pair, gateway.as_ref())?;
    let result = addresses.result(interfaces, settings.dns.clone().unwrap_or(ipam.dns));
    let (container, index) = (&sides.container, pair.container_index);
    match settings.mode {
        Mode::Layer3 { .. } => {
            let passes = || {
                port::wait_for_carrier(&sides.host, pair.host_index, bridge.index, &addresses.gateways)?;
                gateway
                    .as_ref()
                    .map_or(Ok(()), |link| gateway::wait_for_local_routes(&sides.host, link, &addresses.gateways))
            };
            addresses.layer3(&settings, &result, &owner.ifname)?.apply(container, index, passes, undo)?;
            port::announce(&container.netlink, &pair)?;
        }
        Mode::Layer2 { up: true } => container.set_up(index)?,
        Mode::Layer2 { up: false } => {}
    }

    // 9. Masquerading.
    masquerade::add(&filter, backend, &addresses.masquerade, undo)?;
    Ok(request.with_prev_result(result))
}

/// The links for the result: the bridge, the pair, and the gateway's interface if that isn't the bridge.
fn interfaces(
    request: &Request<Config>,
    attachment: &Attachment,
    host: &Netlink,
    bridge: &BridgeLink,
    pair: &Pair,
    gateway: Option<&GatewayLink>,
) -> Result<Vec<Interface>, NetError> {
    // As they are now: a bridge's MTU may have followed its new port's.
    let now = |name: &IfName, index, mac: MacAddr| -> Result<Interface, NetError> {
        let link = host.link_by_index(index)?;
        let mac = link.as_ref().and_then(|link| link.mac).unwrap_or(mac);
        Ok(result::interface(request, name.as_str(), mac, link.map_or(0, |link| link.mtu), None))
    };
    let mut interfaces = vec![now(&bridge.name, bridge.index, bridge.mac)?];
    interfaces.extend(pair.interfaces(request, attachment));
    if let Some(link) = gateway.filter(|link| link.index != bridge.index) {
        interfaces.push(now(&link.name, link.index, link.mac)?);
    }
    Ok(interfaces)
}
