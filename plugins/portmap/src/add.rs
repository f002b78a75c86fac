//! ADD: publishes the ports.

use std::net::IpAddr;
use std::rc::Rc;

use cni_attach::pair;
use cni_net::{Netlink, RouteKind, addresses_in_all_namespaces};
use cni_netfilter::conntrack::{self, Flush};
use cni_netfilter::{Netfilter, PortForward, PortForwards, Purpose};
use cni_plugin::{Attachment, CniError, CniResult, Lock, Request, Undo};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::plan::{plan, warn_of_unpublished};
use crate::settings::Settings;
use crate::{container_link, listener, localnet, service_addresses};

/// Publishes and returns the previous result. Without ports nothing is started, opened or changed, unless `route_localnet` is
/// on and its guard gone.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let prev = request.require_prev_result()?;
    let mut wanted = plan(&settings, owner, prev);
    let filter = Rc::new(Netfilter::asking(pair::is_there));
    if wanted.iter().all(|wanted| !wanted.guard_localnet) {
        localnet::keep_guarded(&filter, Some(prev))?;
    }
    warn_of_unpublished(&settings, &wanted);
    if wanted.is_empty() {
        return Ok(prev.clone());
    }
    // Processes that a killed call has left at work must have ended before this call changes anything.
    Lock::hold_attachment(owner, undo)?;
    if !settings.nat {
        // What an earlier ADD with another configuration translated.
        filter.remove_ports(owner, &wanted)?;
        filter.add_open_ports(&wanted, undo)?;
        return Ok(prev.clone());
    }
    filter.remove_open_ports(owner, &wanted)?;
    let containers: Vec<IpNetwork> = wanted.iter().map(|forwards| forwards.container).collect();
    let backend = filter.choose(settings.backend, Purpose::Ports, &containers)?;

    // 2. What the plan needs of the node.
    let socket = Netlink::open()?;
    let loopback_link = container_link::serving_loopback(&socket, &wanted)?;
    service_addresses::exclude(&socket, &settings, &mut wanted)?;
    container_link::note_index(&socket, owner, prev, &mut wanted)?;

    // 3. The rules.
    listener::warn(&wanted);
    let withdrawn = filter.add_ports(backend, &wanted, || addresses_in_all_namespaces(&socket), undo)?;

    // 4. Only now, with the guard in place, packets from 127.0.0.1 may leave by the container's link.
    if let Some(link) = &loopback_link {
        localnet::permit(link)?;
    }

    // 5. A client that never pauses must not stay with a container that had the port before.
    forget_former_flows(&filter, &socket, &wanted, &withdrawn);
    Ok(prev.clone())
}

/// A failure is written to stderr: the ports work without.
fn forget_former_flows(filter: &Netfilter, socket: &Netlink, wanted: &[PortForwards], withdrawn: &[PortForward]) {
    let ports = wanted.iter().flat_map(|forwards| &forwards.ports);
    let is_local = |address| is_local(socket, address);
    let forgotten = conntrack::forget_flows(withdrawn, Flush::Ours).map_err(CniError::from);
    // What leads to another member of a share is as good.
    let forgotten = forgotten.and_then(|_| {
        let partners = &filter.partners(wanted)?;
        Ok(conntrack::forget_flows(ports, Flush::Stale { is_local: &is_local, partners })?)
    });
    if let Err(error) = forgotten {
        eprintln!("connections to former holders of these ports may continue: {error}");
    }
}

/// True for an address of the node: packets for it end here. Also if that cannot be determined, because a connection too many
/// that is forgotten does less harm than one too few. The kernel refuses to look up what a `prohibit` route denies.
fn is_local(socket: &Netlink, address: IpAddr) -> bool {
    match socket.route_to(address) {
        Ok(route) => route.is_some_and(|route| route.kind == RouteKind::Local),
        Err(error) => error.errno().is_none(),
    }
}
