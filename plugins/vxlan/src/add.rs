//! ADD: stretches the bridge, and makes the container's link fit.

use std::rc::Rc;

use cni_attach::vxlan_device;
use cni_net::{Link, LinkChange, NetError, Netlink};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, CniResult, Interface, Request, Undo};

use crate::config::Config;
use crate::ends::Ends;
use crate::plan::Plan;
use crate::settings::Settings;
use crate::underlay::Underlay;
use crate::{device, peers};

/// Makes the device and its entries, and returns the previous result with the MTUs as they are then, and with the device.
/// Idempotent.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched. The file is read in turn, so that no ADD applies an older one
    // after a newer one.
    let settings = Settings::resolve(&request.config, &request.network)?;
    let mut result = request.require_prev_result()?.clone();
    let ends = Ends::find(attachment)?;
    let _turn = vxlan_device::turn()?;
    let peers = peers::read(&settings.peers)?;
    let underlay = Underlay::find(&ends.node, &settings, peers::family(&peers))?;
    let plan = Plan::new(&settings, &underlay, &peers)?;
    plan.refuse_small(result.ips_of(&attachment.owner.ifname).iter().map(|ip| ip.address.ip()))?;

    // 2. The device, with the attachment's mark; down if it is new.
    let device = device::ensure(&ends, &plan, &attachment.owner, undo)?;

    // 3. Where frames go to, and whose packets are let in, before any is.
    let is_changed = vxlan_device::set_entries(&ends.node, device.index, &plan.entries)?;
    if is_changed || !Netfilter::new().check_vxlan_peers(&plan.guard)?.is_empty() {
        vxlan_device::refresh_guard(&ends.node)?;
    }
    if !device.up {
        ends.node.change_link(device.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    }

    // 4. The MTU of both ends, and of a bridge that does not follow its ports because its own was set.
    fit(&ends.node, &ends.port, &plan, undo, Netlink::open)?;
    let namespace = Rc::clone(&ends.namespace);
    fit(&ends.inside, &ends.container, &plan, undo, move || Netlink::open_in(&namespace))?;
    let bridge = fit_bridge(&ends, &plan)?;

    // 5. What is there now.
    report(request, &mut result, &ends, (&plan, bridge));
    result
        .interfaces
        .extend(device.mac.map(|mac| Interface::new(&device.name, mac, "").with_mtu(request.mtu_reported(plan.mtu))));
    Ok(result)
}

/// Gives one end of the pair its MTU. `again` opens another socket for taking it back: this one may be what has failed.
fn fit(
    socket: &Netlink,
    link: &Link,
    plan: &Plan,
    undo: &mut Undo,
    again: impl FnOnce() -> Result<Netlink, NetError> + 'static,
) -> Result<(), CniError> {
    let change = LinkChange { mtu: Some(plan.mtu_of_container(link.mtu)), ..LinkChange::default() };
    let (index, before) = (link.index, change.before(link));
    if change == before {
        return Ok(());
    }
    undo.push(format!("the MTU of {}", link.name), move || again()?.change_link(index, &before));
    Ok(socket.change_link(index, &change)?)
}

/// Gives the bridge an MTU that fits if it has a larger one; returns what it has then.
fn fit_bridge(ends: &Ends, plan: &Plan) -> Result<u32, CniError> {
    let bridge = ends.node.link_by_index(ends.bridge.index)?.unwrap_or_else(|| ends.bridge.clone());
    if bridge.mtu > plan.mtu {
        ends.node.change_link(bridge.index, &LinkChange { mtu: Some(plan.mtu), ..LinkChange::default() })?;
    }
    Ok(bridge.mtu.min(plan.mtu))
}

/// Writes the MTUs into the result, where the plugin before this one has put these links.
fn report(request: &Request<Config>, result: &mut CniResult, ends: &Ends, (plan, bridge): (&Plan, u32)) {
    let pair = [&ends.container, &ends.port].map(|end| plan.mtu_of_container(end.mtu));
    for interface in &mut result.interfaces {
        let mtu = match (interface.sandbox.is_empty(), interface.name.as_str()) {
            (false, name) if name == ends.container.name => pair[0],
            (true, name) if name == ends.port.name => pair[1],
            (true, name) if name == ends.bridge.name => bridge,
            _ => continue,
        };
        interface.mtu = request.mtu_reported(mtu);
    }
}
