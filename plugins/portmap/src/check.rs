//! CHECK: compares the rules and the settings with the plan, and names each difference.

use cni_net::Netlink;
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, Request, verdict};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;
use crate::{container_link, localnet, service_addresses};

/// Compares the rules and settings of the owner; succeeds at once without ports.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let prev = request.require_prev_result()?;
    let mut wanted = plan(&settings, &attachment.owner, prev);
    if wanted.is_empty() {
        return Ok(());
    }
    if !settings.nat {
        return verdict(&Netfilter::new().check_open_ports(&wanted)?);
    }
    let socket = Netlink::open()?;
    let loopback_link = container_link::serving_loopback(&socket, &wanted)?;
    container_link::note_index(&socket, &attachment.owner, prev, &mut wanted)?;
    // The node may have got other service addresses since ADD, which is no difference; but where there are conditions, the
    // rules that exclude the addresses are in one chain with them.
    if wanted.iter().any(|wanted| !wanted.conditions.is_empty()) {
        service_addresses::exclude(&socket, &settings, &mut wanted)?;
    }
    let mut differences = Netfilter::new().check_ports(settings.backend, &wanted)?;
    if let Some(link) = &loopback_link {
        differences.extend(localnet::check(link)?);
    }
    verdict(&differences)
}
