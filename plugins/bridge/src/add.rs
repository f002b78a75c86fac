//! ADD: makes the plan so.

use std::rc::Rc;

use cni_net::{Layer3, LinkChange, NetNs, Netlink, pair};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, CniResult, Ipam, Request, Undo};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::plan::{self, AddressPlan, Links};
use crate::settings::{Mode, Settings};
use crate::{host, veth};

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
    pair::refuse_repeat(&socket, &inside, attachment)?;

    // 2. IPAM works while the links are made.
    let ipam = settings.ipam().map(|plugin| Ipam::new(&request.delegates, plugin, request.version));
    let pending = ipam.as_ref().map(|ipam| ipam.start_add(undo)).transpose()?;

    // 3. The bridge, shared with others and therefore never taken back.
    let bridge = host::ensure_bridge(&socket, &settings)?;

    // 4. The pair. Deleting the host's end takes the container's, its addresses and its routes along.
    let pair = veth::create(&socket, &namespace, &settings, owner, &bridge, undo)?;

    // 5. The container's addresses and routes.
    let (addresses, dns) = match pending {
        Some(pending) => {
            let result = pending.finish()?;
            (AddressPlan::new(&settings, owner, &result), settings.dns.clone().unwrap_or(result.dns))
        }
        None => (AddressPlan::default(), settings.dns.clone().unwrap_or_default()),
    };
    let links = Links {
        bridge: (settings.bridge.clone(), bridge.mac),
        host: (pair.host_name.clone(), pair.host_mac),
        container: (owner.ifname.clone(), pair.container_mac),
        sandbox: attachment.netns.to_string_lossy().into_owned(),
    };
    let (gateways, masquerade) = (addresses.gateways.clone(), addresses.masquerade.clone());
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

    // 6. The bridge as gateway.
    host::ensure_gateways(&socket, &settings, &bridge, &gateways)?;

    // 7. Masquerading.
    if let Some(backend) = backend {
        let (taken_back, owner) = (Rc::clone(&filter), owner.clone());
        let hints: Vec<IpNetwork> = result.ips.iter().map(|ip| ip.address).collect();
        undo.push("the masquerade rules", move || taken_back.remove_masquerade(&owner, &hints));
        filter.add_masquerade(backend, &masquerade)?;
    }
    Ok(result)
}
