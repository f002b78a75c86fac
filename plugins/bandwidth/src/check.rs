//! CHECK: every limit is there, and packets go through it.

use cni_net::{Link, NetError, NetNs, Netlink, Place, QdiscKind};
use cni_plugin::{Attachment, CniError, CniResult, Difference, Owner, Request, verdict};

use crate::config::Config;
use crate::ifb::Traces;
use crate::plan::{Plan, Shape};
use crate::settings::{EgressDevice, Settings};
use crate::{host, ifb};

/// Compares what is configured, whichever implementation made it. Without a limit there is nothing to compare.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let result = request.require_result_of_add()?;
    if settings.is_empty() {
        return Ok(());
    }
    let plan = Plan::new(&settings);
    let namespace = NetNs::open(&attachment.netns)?;
    let inside = Netlink::open_in(&namespace)?;
    let interface = host::interface(&inside, &attachment.owner.ifname, &namespace)?;
    let node = Netlink::open()?;
    let end = plan.needs_host().then(|| host::end_of(&node, &interface)).transpose()?;
    let mut differences = Vec::new();
    if let (Some(shape), Some(end)) = (&plan.ingress, &end) {
        differences.extend(limit(&node, end, shape)?);
    }
    match (&plan.egress, plan.device, &end) {
        (Some(shape), EgressDevice::Container, _) => differences.extend(limit(&inside, &interface, shape)?),
        (Some(shape), EgressDevice::Ifb, Some(end)) => {
            differences.extend(through_ifb(&node, end, &attachment.owner, result, shape)?);
        }
        _ => {}
    }
    verdict(&differences)
}

fn limit(socket: &Netlink, link: &Link, shape: &Shape) -> Result<Option<Difference>, NetError> {
    let thing = format!("root qdisc of {}", link.name);
    let wanted = QdiscKind::Tbf(shape.tbf);
    Ok(match socket.qdisc(link.index, Place::Root)?.map(|found| found.kind) {
        Some(QdiscKind::Tbf(found)) if shape.is(&found) => None,
        Some(found) => Some(Difference::new(thing, wanted, found)),
        None => Some(Difference::new(thing, wanted, "nothing")),
    })
}

fn through_ifb(
    node: &Netlink,
    end: &Link,
    owner: &Owner,
    result: &CniResult,
    shape: &Shape,
) -> Result<Vec<Difference>, NetError> {
    let redirects = node.redirects(end.index)?.unwrap_or_default();
    let traces = Traces { redirects, result: Some(result) };
    let Some(ifb) = ifb::find(node, owner, &traces)? else {
        return Ok(vec![Difference::missing(format!("ifb of {owner}"))]);
    };
    let mut differences = Vec::from_iter(limit(node, &ifb, shape)?);
    if !ifb.up {
        differences.push(Difference::new(format!("link {}", ifb.name), "up", "down"));
    }
    if !traces.redirects.contains(&ifb.index) {
        differences
            .push(Difference::missing(format!("filter that redirects what {} receives to {}", end.name, ifb.name)));
    }
    Ok(differences)
}
