//! CHECK: compares the rules and the settings with the plan, and names each difference.

use cni_net::Netlink;
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, Request, verdict};

use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;
use crate::{link, localnet, service};

/// Compares. Without ports there is nothing to compare.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let mut wanted = plan(&settings, &attachment.owner, request.require_prev_result()?);
    if wanted.is_empty() {
        return Ok(());
    }
    let filter = Netfilter::new();
    let socket = Netlink::open()?;
    let way = localnet::way(&socket, &wanted)?;
    link::note(&mut wanted, link::towards(&socket, &attachment.owner, request.require_prev_result()?)?.as_ref());
    // Others are none of ADD's faults, but the rules that ask for them stand with the conditions.
    if wanted.iter().any(|wanted| !wanted.conditions.is_empty()) {
        service::exclude(&socket, &settings, &mut wanted)?;
    }
    let mut differences = filter.compare_ports(settings.backend, &wanted)?;
    if let Some(way) = &way {
        differences.extend(localnet::check(way)?);
    }
    verdict(&differences)
}
