//! CHECK: the device, its underlay, its peers and every MTU are as an ADD would make them now.

use cni_attach::vxlan_device::EntryChanges;
use cni_net::{Link, NetError};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::config::Config;
use crate::ends::Ends;
use crate::plan::Plan;
use crate::settings::Settings;
use crate::underlay::Underlay;
use crate::{device, peers};

/// Compares. The peers are those that the file lists now.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &request.network)?;
    request.require_result_of_add()?;
    let ends = Ends::find(attachment)?;
    let peers = peers::read(&settings.peers)?;
    let underlay = Underlay::find(&ends.node, &settings, peers::family(&peers))?;
    let plan = Plan::new(&settings, &underlay, &peers)?;
    let Some(link) = ends.node.link_by_name(plan.name.as_str())? else {
        return verdict(&[Difference::missing(format!("VXLAN device {}", plan.name))]);
    };
    let mut differences = device::compare(&ends.node, &link, &plan)?;
    differences.extend(of_port(&ends, &link)?);
    if !device::is_marked_by(&link, &attachment.owner) {
        differences.push(Difference::missing(format!("mark of {} on {}", attachment.owner, link.name)));
    }
    differences.extend(of_mtus(&ends, &link, &plan));
    let changes = EntryChanges::between(&plan.entries, &ends.node.fdb_entries(link.index)?);
    let (name, file) = (&link.name, settings.peers.display());
    let missing = changes.add.iter().map(|entry| Difference::missing(format!("forwarding entry {entry} of {name}")));
    differences.extend(missing);
    let surplus = changes.delete.iter().map(|entry| {
        Difference::new(format!("forwarding entry {entry} of {name}"), format!("none, as in {file}"), "one")
    });
    differences.extend(surplus);
    differences.extend(Netfilter::new().check_vxlan_peers(&plan.guard)?);
    verdict(&differences)
}

/// The device as a port of the bridge.
fn of_port(ends: &Ends, link: &Link) -> Result<Vec<Difference>, NetError> {
    let mut differences = Vec::new();
    if link.master != Some(ends.bridge.index) {
        let master = link.master.map(|index| ends.node.link_by_index(index)).transpose()?.flatten();
        let found = master.map_or_else(|| "none".to_owned(), |master| master.name);
        differences.push(Difference::new(format!("bridge of {}", link.name), &ends.bridge.name, found));
    }
    if !link.up {
        differences.push(Difference::new(format!("link {}", link.name), "up", "down"));
    }
    if link.master == Some(ends.bridge.index) {
        let missing = device::missing_vlans(ends, link.index)?;
        differences
            .extend(missing.iter().map(|vlan| Difference::missing(format!("VLAN {} of {}", vlan.id, link.name))));
    }
    Ok(differences)
}

fn of_mtus(ends: &Ends, link: &Link, plan: &Plan) -> Vec<Difference> {
    let differs = |link: &Link, wanted: u32| {
        (link.mtu != wanted).then(|| Difference::new(format!("mtu of {}", link.name), wanted, link.mtu))
    };
    let pair = [&ends.container, &ends.port].map(|end| differs(end, plan.mtu_of_container(end.mtu)));
    let bridge = differs(&ends.bridge, ends.bridge.mtu.min(plan.mtu));
    [differs(link, plan.mtu), bridge].into_iter().chain(pair).flatten().collect()
}
