//! ADD: publishes the ports.

use std::collections::BTreeSet;
use std::rc::Rc;

use cni_net::{Netlink, pair};
use cni_netfilter::{Evicted, Flush, Netfilter, Purpose};
use cni_plugin::{Attachment, CniError, CniResult, Lock, Request, Undo};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::plan::{plan, warn_of_unpublished};
use crate::settings::Settings;
use crate::{go, link, listener, localnet, service};

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
    // Nothing that a killed call has left at work may come after this.
    Lock::hold_attachment(owner, undo)?;
    let containers: Vec<IpNetwork> = wanted.iter().map(|forwards| forwards.container).collect();
    let backend = filter.choose(settings.backend, Purpose::Ports, &containers)?;

    // 2. Where 127.0.0.1 is to be served, the link that leads to the container. And what tells later that the container is
    //    gone.
    let socket = Netlink::open()?;
    let way = localnet::way(&socket, &wanted)?;
    service::exclude(&socket, &settings, &mut wanted)?;
    link::note(&mut wanted, link::towards(&socket, owner, prev)?.as_ref());

    // 3. The rules. Of ADDs at the same moment one gets a port; where there is no lock, that is right as long as nobody wants
    //    the same one. Other ports are not waited for: a tool that hangs keeps nobody else waiting.
    listener::warn(&wanted);
    let ports = wanted.iter().flat_map(|forwards| &forwards.ports);
    let turn = Lock::if_possible(Lock::of_ports(ports.map(|port| (port.protocol.number(), port.host_port))))?;
    let (taken_back, taken_owner, taken) = (Rc::clone(&filter), owner.clone(), wanted.clone());
    undo.push("the port rules", move || taken_back.take_back_ports(&taken_owner, &taken));
    go::evict(&filter, &wanted)?;
    let displaced = filter.add_ports(backend, &wanted)?;
    drop(turn);
    let evicted: BTreeSet<&str> = displaced.evicted.iter().map(|Evicted { holder, .. }| holder.as_str()).collect();
    for holder in evicted {
        eprintln!("a port was still published for {holder}, whose link is gone: its ports are withdrawn");
    }

    // 4. Only now, with the guard in place, packets from 127.0.0.1 may leave through the container's link.
    if let Some(way) = &way {
        localnet::permit(way)?;
    }

    // 5. A client that never pauses must not stay with a container that had the port before. The ports work without.
    let ports = wanted.iter().flat_map(|forwards| &forwards.ports);
    let withdrawn = displaced.evicted.iter().flat_map(|evicted| &evicted.ports).chain(&displaced.withdrawn);
    let is_local = |address| localnet::is_local(&socket, address);
    let forgotten = Netfilter::forget_flows(withdrawn, Flush::Ours);
    let forgotten = forgotten.and(Netfilter::forget_flows(ports, Flush::Stale(&is_local)));
    if let Err(error) = forgotten {
        eprintln!("flows to a former holder of these ports may continue: {error}");
    }

    Ok(prev.clone())
}
