//! ADD: carries out the plan.

use std::rc::Rc;

use cni_attach::ipam::Addresses;
use cni_attach::pair::{self, PairSpec};
use cni_attach::{Sides, forwarding, masquerade, mtu, result};
use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, CniResult, Request, Undo};

use crate::config::Config;
use crate::plan::{CONTAINER_INDEX, Plan};
use crate::settings::Settings;

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let filter = Rc::new(Netfilter::asking(pair::is_there));
    let backend = settings.masquerade.choose(&filter, &request.config.ipam)?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;

    // 2. IPAM works while the pair is made.
    let addresses = Addresses::start(Some(request.ipam(&settings.ipam)), &request.config.ipam, undo)?;

    // 3. The pair. Deleting the host's end deletes the container's too, and all addresses and routes of both.
    let pair = pair::create(&sides, &PairSpec { mtu: settings.mtu, ..PairSpec::of(owner) }, undo)?;

    // 4. The plan for IPAM's addresses.
    let interfaces = pair.interfaces(request, attachment).into();
    let ipam = addresses.finish(undo)?.unwrap_or_default();
    let result = result::with_interfaces(interfaces, CONTAINER_INDEX, ipam, settings.dns.clone());
    let plan = Plan::of(&settings, owner, &result)?;
    mtu::refuse_ipv6(settings.mtu, plan.container.addresses.iter().copied())?;

    // 5. The host's end first: the gateway is there when the container's end comes up and looks for it.
    //    Forwarding stays when the attachment goes, as others need it too.
    forwarding::ensure(&sides.host, plan.addresses())?;
    plan.host(&pair.host_name).apply_to_host(&sides.host, pair.host_index)?;
    plan.container.apply(&sides.container, pair.container_index, || Ok(()), undo)?;

    // 6. Masquerading.
    masquerade::add(&filter, backend, &plan.masquerade, undo)?;
    Ok(request.with_prev_result(result))
}
