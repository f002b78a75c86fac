//! ADD: makes the plan so.

use std::rc::Rc;

use cni_net::{Layer3, LinkChange, NetNs, Netlink};
use cni_netfilter::{MacGuard, MacGuardHint, Netfilter};
use cni_plugin::{Attachment, CniError, CniResult, IfName, Ipam, Owner, Request, Undo};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::plan::{self, AddressPlan, Links};
use crate::settings::{Mode, Settings};
use crate::{gateway, host, veth};

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let filter = Rc::new(Netfilter::new());
    let backend = if settings.masquerade { Some(filter.choose(settings.backend)?) } else { None };
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Rc::new(Netlink::open()?);
    let inside = Netlink::open_in(&namespace)?;
    refuse_repeat(&socket, &inside, owner, attachment)?;

    // 2. IPAM works while the links are made.
    let ipam = settings.ipam().map(|plugin| Ipam::new(&request.delegates, plugin, request.version));
    let pending = ipam.as_ref().map(|ipam| ipam.start_add(undo)).transpose()?;

    // 3. The bridge, shared with others and therefore never taken back.
    let bridge = host::ensure_bridge(&socket, &settings)?;

    // 4. The pair. Deleting the host's end takes the container's, its addresses and its routes along.
    let pair = veth::create(&socket, &namespace, &settings, owner, &bridge, undo)?;

    // 5. The spoof check, before the container's end is up and could send.
    if settings.mac_guard {
        let guard = MacGuard { owner: owner.clone(), port: pair.host_name.clone(), mac: pair.container_mac };
        let (taken_back, owner) = (Rc::clone(&filter), owner.clone());
        let hint = MacGuardHint { port: Some(guard.port.clone()), mac: Some(guard.mac) };
        undo.push("the spoof check", move || taken_back.remove_mac_guard(&owner, &hint, false));
        filter.add_mac_guard(&guard)?;
    }

    // 6. The bridge, or an interface in the containers' VLAN, as gateway.
    let (addresses, dns) = match pending {
        Some(pending) => {
            let result = pending.finish()?;
            (AddressPlan::new(&settings, owner, &result), settings.dns.clone().unwrap_or(result.dns))
        }
        None => (AddressPlan::default(), settings.dns.clone().unwrap_or_default()),
    };
    let gateway = match addresses.gateways.is_empty() {
        true => None,
        false => Some(gateway::ensure_link(&socket, &settings, &bridge)?),
    };
    if let Some(link) = &gateway {
        gateway::ensure_addresses(&socket, &settings, link, &addresses.gateways)?;
    }

    // 7. The container's addresses and routes.
    let links = Links {
        bridge: (settings.bridge.clone(), bridge.mac),
        host: (pair.host_name.clone(), pair.host_mac),
        container: (owner.ifname.clone(), pair.container_mac),
        vlan_gateway: gateway.filter(|_| settings.vlan_gateway.is_some()).map(|link| (link.name, link.mac)),
        sandbox: attachment.netns.to_string_lossy().into_owned(),
    };
    let masquerade = addresses.masquerade.clone();
    let result = plan::result(&links, addresses, dns);
    match settings.mode {
        Mode::Layer3 { .. } => {
            let layer3 = Layer3 { dad: settings.dad, ..Layer3::of(&result, &owner.ifname)? };
            layer3.apply(&namespace, &inside, pair.container_index)?;
        }
        Mode::Layer2 { up: true } => {
            inside.change_link(pair.container_index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        }
        Mode::Layer2 { up: false } => {}
    }

    // 8. Masquerading.
    if let Some(backend) = backend {
        let (taken_back, owner) = (Rc::clone(&filter), owner.clone());
        let hints: Vec<IpNetwork> = result.ips.iter().map(|ip| ip.address).collect();
        undo.push("the masquerade rules", move || taken_back.remove_masquerade(&owner, &hints));
        filter.add_masquerade(backend, &masquerade)?;
    }
    Ok(result)
}

/// A second ADD of the same attachment must fail before IPAM is asked: taking the failure back would release the first
/// one's addresses.
fn refuse_repeat(socket: &Netlink, inside: &Netlink, owner: &Owner, attachment: &Attachment) -> Result<(), CniError> {
    let ifname: &IfName = &owner.ifname;
    if let Some(found) = inside.link_by_name(ifname.as_str())? {
        let what = found.kind.unwrap_or_else(|| "link".to_owned());
        return Err(CniError::plugin(format!(
            "the container has an interface {ifname} already (a {what}, in {:?}): DEL it first, or use another CNI_IFNAME",
            attachment.netns
        )));
    }
    match socket.link_by_altname(&plan::host_altname(owner))? {
        // The other end's namespace is gone, and the kernel is about to remove the pair.
        Some(stale) if stale.peer_netnsid.is_some_and(|id| id < 0) => Ok(socket.delete_link(stale.index).map(drop)?),
        Some(found) => Err(CniError::plugin(format!(
            "{owner} is attached already, by {} and an interface in another namespace: DEL it first",
            found.name
        ))),
        None => Ok(()),
    }
}
