//! ADD: makes the plan so.

use std::rc::Rc;

use cni_net::{Layer3, LinkChange, NetError, NetNs, Netlink, Pair, localnet, mtu, pair};
use cni_netfilter::{MacGuard, MacGuardHint, Netfilter, Purpose};
use cni_plugin::{Attachment, CniError, CniResult, IfName, Interface, Lock, MacAddr, Owner, Request, Undo};

use crate::config::Config;
use crate::gateway::GatewayLink;
use crate::host::BridgeLink;
use crate::plan::{self, AddressPlan};
use crate::settings::{Mode, Settings};
use crate::{gateway, host, mac, veth};

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let filter = Rc::new(Netfilter::new());
    let names = settings.host_name.as_ref().map_or_else(|| Ok(Vec::new()), |template| template.names(owner))?;
    let choose = || filter.choose(settings.backend, Purpose::Masquerade, &request.config.ipam.subnets());
    let backend = settings.masquerade.then(choose).transpose()?;
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Rc::new(Netlink::open()?);
    let inside = Netlink::open_in(&namespace)?;
    pair::refuse_repeat(&socket, &inside, attachment, undo)?;

    // 2. IPAM works while the links are made.
    let pending = settings.ipam().map(|plugin| request.ipam(plugin).start_add(undo)).transpose()?;

    // 3. The bridge, shared with others and therefore never taken back. Nobody may delete it while it has no port yet.
    //    Where there is no lock, nobody does: DEL leaves the bridge.
    let lock = Lock::if_possible(Lock::to_use_bridges())?;
    let bridge = host::ensure_bridge(&socket, &settings)?;
    localnet::keep_guarded([bridge.name.as_str()], || filter.guard_localnet())?;
    mac::refuse_taken(&socket, &settings, &bridge)?;

    // 4. The pair. Deleting the host's end takes the container's, its addresses and its routes along.
    let pair = veth::create(&socket, &settings, (owner, &namespace, &names), &bridge, undo)?;
    drop(lock);

    // 5. The spoof check, before the container's end is up and could send.
    if settings.mac_guard {
        guard_source(&filter, owner, &pair, undo)?;
    }

    // 6. What IPAM says, completed by the configuration.
    let (addresses, dns) = match pending {
        Some(pending) => {
            let result = pending.finish()?;
            (AddressPlan::new(&settings, owner, &result), settings.dns.clone().unwrap_or(result.dns))
        }
        None => (AddressPlan::default(), settings.dns.clone().unwrap_or_default()),
    };
    mtu::refuse_ipv6(settings.mtu, addresses.ips.iter().map(|ip| ip.address))?;
    addresses.refuse_dead_ends()?;

    // 7. The bridge, or an interface in the containers' VLAN, as gateway.
    let gateway = gateway::ensure(&socket, &settings, &bridge, &addresses.gateways)?;

    // 8. The container's addresses and routes; its interface goes up.
    let interfaces = told(request, attachment, &socket, (&bridge, &pair, gateway.as_ref()))?;
    let result = plan::result(interfaces, &addresses, dns);
    let passes = || veth::wait_for_carrier(&socket, pair.host_index, (bridge.index, &addresses.gateways));
    let layer3 = Layer3 { dad: settings.dad, on_link: addresses.on_link(), ..Layer3::of(&result, &owner.ifname)? };
    configure(&settings, &layer3, (&namespace, &inside, pair.container_index), passes, undo)?;
    if !result.ips.is_empty() {
        veth::announce(&inside, &pair)?;
    }

    // 9. Masquerading.
    if let Some(backend) = backend {
        let is_alive = |key: &str| pair::is_attached(&socket, key);
        filter.masquerade(backend, owner, &addresses.masquerade, &is_alive, undo)?;
    }
    Ok(request.with_prev_result(result))
}

/// The links for the result.
fn told(
    request: &Request<Config>,
    attachment: &Attachment,
    socket: &Netlink,
    (bridge, pair, gateway): (&BridgeLink, &Pair, Option<&GatewayLink>),
) -> Result<Vec<Interface>, CniError> {
    // As they are now: a bridge's MTU may have followed its new port's.
    let now = |name: &IfName, index, mac: MacAddr| -> Result<Interface, NetError> {
        let link = socket.link_by_index(index)?;
        let mac = link.as_ref().and_then(|link| link.mac).unwrap_or(mac);
        let mtu = request.mtu_told(link.map_or(0, |link| link.mtu));
        Ok(Interface::new(name.as_str(), mac, "").with_mtu(mtu))
    };
    let sandbox = attachment.netns.to_string_lossy();
    let pair_mtu = request.mtu_told(pair.mtu);
    let mut interfaces = vec![
        now(&bridge.name, bridge.index, bridge.mac)?,
        Interface::new(pair.host_name.as_str(), pair.host_mac, "").with_mtu(pair_mtu),
        Interface::new(attachment.owner.ifname.as_str(), pair.container_mac, &sandbox).with_mtu(pair_mtu),
    ];
    if let Some(link) = gateway.filter(|link| link.index != bridge.index) {
        interfaces.push(now(&link.name, link.index, link.mac)?);
    }
    Ok(interfaces)
}

fn guard_source(filter: &Rc<Netfilter>, owner: &Owner, pair: &Pair, undo: &mut Undo) -> Result<(), CniError> {
    let guard = MacGuard { owner: owner.clone(), port: pair.host_name.clone(), mac: pair.container_mac };
    let (taken_back, owner) = (Rc::clone(filter), owner.clone());
    let hint = MacGuardHint { port: Some(guard.port.clone()), mac: Some(guard.mac) };
    undo.push("the spoof check", move || taken_back.remove_mac_guard(&owner, &hint, false));
    Ok(filter.add_mac_guard(&guard)?)
}

fn configure(
    settings: &Settings,
    layer3: &Layer3,
    (namespace, inside, index): (&NetNs, &Netlink, u32),
    passes: impl FnOnce() -> Result<(), NetError>,
    undo: &mut Undo,
) -> Result<(), CniError> {
    match settings.mode {
        Mode::Layer3 { .. } => Ok(layer3.apply(namespace, (inside, index), passes, undo)?),
        Mode::Layer2 { up: true } => {
            Ok(inside.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?)
        }
        Mode::Layer2 { up: false } => Ok(()),
    }
}
