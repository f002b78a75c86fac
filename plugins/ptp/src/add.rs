//! ADD: makes the plan so.

use std::rc::Rc;

use cni_net::{NetNs, Netlink, PairSpec, forwarding, mtu, pair};
use cni_netfilter::{Netfilter, Purpose};
use cni_plugin::{Attachment, CniError, CniResult, Request, Undo};

use crate::config::Config;
use crate::plan::{self, Plan};
use crate::settings::Settings;

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let filter = Rc::new(Netfilter::new());
    let choose = || filter.choose(settings.backend, Purpose::Masquerade, &request.config.ipam.subnets());
    let backend = settings.masquerade.then(choose).transpose()?;
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Rc::new(Netlink::open()?);
    let inside = Netlink::open_in(&namespace)?;
    pair::refuse_repeat(&socket, &inside, attachment, undo)?;

    // 2. IPAM works while the pair is made.
    let pending = request.ipam(&settings.ipam).start_add(undo)?;

    // 3. The pair. Deleting the host's end takes the container's along, and all addresses and routes of both.
    let spec = PairSpec { owner, namespace: &namespace, names: &[], mtu: settings.mtu, mac: None, master: None };
    let made = pair::create(&socket, &spec, undo)?;

    // 4. The plan for IPAM's addresses.
    let sandbox = attachment.netns.to_string_lossy();
    let result = plan::result(
        (&made, request.mtu_told(made.mtu)),
        &owner.ifname,
        &sandbox,
        pending.finish()?,
        settings.dns.clone(),
    );
    let plan = Plan::of(&settings, owner, &result)?;
    mtu::refuse_ipv6(settings.mtu, plan.layer3.addresses.iter().copied())?;

    // 5. The host's end first: the gateway is there when the container's end comes up and looks for it.
    //    Forwarding stays when the attachment goes, as others need it too.
    plan.families().try_for_each(|family| forwarding::ensure(&socket, family))?;
    plan.host(made.host_name.clone()).apply_to_host(&socket, made.host_index)?;
    plan.layer3.apply(&namespace, (&inside, made.container_index), || Ok(()), undo)?;

    // 6. Masquerading.
    if let Some(backend) = backend {
        let is_alive = |key: &str| pair::is_attached(&socket, key);
        filter.masquerade(backend, owner, &plan.masquerade, &is_alive, undo)?;
    }
    Ok(request.with_prev_result(result))
}
