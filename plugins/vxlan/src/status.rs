//! STATUS: fails if an ADD would fail now, as far as that can be seen without a container.

use cni_net::Netlink;
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;
use crate::underlay::Underlay;
use crate::{device, peers};

/// Asks for the configuration, the file of the peers, the underlay, the kernel's VXLAN and its packet filter, and for devices that are
/// in the way.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &request.network)?;
    probe(request, &settings).map_err(CniError::unavailable)
}

fn probe(request: &Request<Config>, settings: &Settings) -> Result<(), CniError> {
    let node = Netlink::open()?;
    let peers = peers::read(&settings.peers)?;
    let underlay = Underlay::find(&node, settings, peers::family(&peers))?;
    let plan = Plan::new(settings, &underlay, &peers)?;
    device::probe(&node, &plan, &request.network)?;
    Ok(Netfilter::new().can_set_vxlan_peers()?)
}
