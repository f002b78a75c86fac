//! ADD: carries out the plan.

use cni_net::{NetError, NetNs, Netlink, Place, QdiscKind};
use cni_plugin::{Attachment, CniError, CniResult, Interface, Request, Undo};

use crate::config::Config;
use crate::plan::{Plan, Shape};
use crate::settings::{EgressDevice, Settings};
use crate::{host, ifb};

/// Limits what is configured, and returns the previous result, with the ifb if there is one. Not idempotent: a second ADD is
/// refused, for there is a limit already.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let settings = Settings::resolve(&request.config)?;
    let mut result = request.require_prev_result()?.clone();
    for key in &settings.ignored {
        eprintln!("{key} has no effect, as in the reference plugins since v1.6.1: all traffic is limited");
    }
    if settings.is_empty() {
        return Ok(result);
    }
    let plan = Plan::new(&settings);
    let namespace = NetNs::open(&attachment.netns)?;
    let inside = Netlink::open_in(&namespace)?;
    let interface = host::interface(&inside, &attachment.owner.ifname, &namespace)?;
    let node = Netlink::open()?;
    let end = plan.needs_host().then(|| host::end_of(&node, &interface)).transpose()?;
    for shape in plan.ingress.iter().chain(&plan.egress) {
        warn_of_small_burst(shape, interface.mtu);
    }

    // 2. What the container receives, its node's end sends.
    if let (Some(shape), Some(end)) = (&plan.ingress, &end) {
        limit(&node, end.index, shape, undo, Netlink::open)?;
    }

    // 3. What it sends: on its own end, or through an ifb that what the node's end receives is led to.
    match (&plan.egress, plan.device, &end) {
        (Some(shape), EgressDevice::Container, _) => {
            limit(&inside, interface.index, shape, undo, move || Netlink::open_in(&namespace))?;
        }
        (Some(shape), EgressDevice::Ifb, Some(end)) => {
            let ifb = ifb::create(&node, &attachment.owner, end.mtu, undo)?;
            limit(&node, ifb.index, shape, undo, Netlink::open)?;
            redirect(&node, end.index, ifb.index, undo)?;
            result.interfaces.extend(ifb.mac.map(|mac| Interface::new(&ifb.name, mac, "")));
        }
        _ => {}
    }
    Ok(result)
}

/// `again` opens another socket where `socket` is, for taking it back: this one may be what has failed.
fn limit(
    socket: &Netlink,
    link: u32,
    shape: &Shape,
    undo: &mut Undo,
    again: impl FnOnce() -> Result<Netlink, NetError> + 'static,
) -> Result<(), CniError> {
    let made = socket.add_qdisc(link, Place::Root, &QdiscKind::Tbf(shape.tbf));
    if may_be_done(&made) {
        undo.push("the limit", move || again()?.delete_qdisc(link, Place::Root).map(drop));
    }
    made?;
    match (socket.add_qdisc(link, Place::Inner, &QdiscKind::FqCodel), shape.queue) {
        (Err(NetError::Unsupported { .. }), Some(queue)) => {
            Ok(socket.add_qdisc(link, Place::Inner, &QdiscKind::Bfifo(queue))?)
        }
        (Err(NetError::Unsupported { .. }), None) => Ok(()),
        (other, _) => Ok(other?),
    }
}

/// The last step: from here on packets go through the ifb.
fn redirect(socket: &Netlink, from: u32, to: u32, undo: &mut Undo) -> Result<(), CniError> {
    let made = socket.add_qdisc(from, Place::Ingress, &QdiscKind::Ingress);
    if may_be_done(&made) {
        undo.push("the redirection", move || Netlink::open()?.delete_qdisc(from, Place::Ingress).map(drop));
    }
    made.map_err(|error| match error {
        NetError::Exists { .. } => CniError::from(error).details(
            "another program filters what this link receives; \"egressDevice\": \"container\" needs no filter there",
        ),
        _ => error.into(),
    })?;
    Ok(socket.add_redirect(from, to)?)
}

/// An answer that is missing says nothing.
fn may_be_done<T>(made: &Result<T, NetError>) -> bool {
    matches!(made, Ok(_) | Err(NetError::NoAnswer { .. }))
}

/// Not refused: the Go plugin takes such numbers, and its documentation has them as its example.
fn warn_of_small_burst(shape: &Shape, mtu: u32) {
    // An Ethernet header is 14 bytes.
    let (burst, packet) = (shape.tbf.burst(), u64::from(mtu) + 14);
    if burst < packet {
        eprintln!(
            "a burst of {} bits drops every packet of more than {burst} bytes: set {} or more",
            burst * 8,
            packet * 8
        );
    }
}
