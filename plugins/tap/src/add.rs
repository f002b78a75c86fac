//! ADD: makes the device and gives it what IPAM says.

use cni_attach::ipam::Addresses;
use cni_attach::{Sides, ipam, mark, single};
use cni_net::{Link, LinkChange, Netlink};
use cni_plugin::{Attachment, CniError, CniResult, IfName, Request, Undo};

use crate::config::Config;
use crate::device::{self, TapSpec};
use crate::settings::Settings;

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let settings = Settings::resolve(&request.config, &attachment.args)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;
    let bridge = settings.bridge.as_ref().map(|name| bridge(&sides.container.netlink, name)).transpose()?;

    // 2. IPAM works while the device is made.
    let addresses = Addresses::start(ipam, &request.config.ipam, undo)?;

    // 3. The device, its settings, and what IPAM says about it.
    let mut link = make(&request.config, attachment, &sides, undo)?;
    let change = LinkChange {
        mtu: settings.mtu,
        mac: settings.mac,
        master: bridge.map(|bridge| Some(bridge.index)),
        ..LinkChange::default()
    };
    let inside = &sides.container.netlink;
    inside.change_link(link.index, &change)?;
    link.mtu = settings.mtu.unwrap_or(link.mtu);
    link.mac = settings.mac.or(link.mac);
    let result = single::configure(request, attachment, &sides, &link, addresses, settings.dns, undo)?;
    Ok(request.with_prev_result(result))
}

/// Makes the device, down, with the owner's mark. Pushes its deletion to `undo`.
fn make(config: &Config, attachment: &Attachment, sides: &Sides, undo: &mut Undo) -> Result<Link, CniError> {
    let (owner, inside) = (&attachment.owner, &sides.container.netlink);
    let spec = TapSpec {
        name: owner.ifname.clone(),
        multi_queue: config.multi_queue,
        owner: config.owner,
        group: config.group,
    };
    let context = Some(config.selinux_context.as_str()).filter(|context| !context.is_empty());
    single::push_undo(&sides.container, owner, undo);
    device::make(&spec, &sides.container.namespace, context)?;
    let made = inside.link_by_name(owner.ifname.as_str())?;
    let made = made.filter(|link| link.kind.as_deref() == Some(device::KIND));
    let link =
        made.ok_or_else(|| CniError::plugin(format!("tap device {} is not there after it was made", owner.ifname)))?;
    mark::write_in_container(inside, link.index, owner)?;
    Ok(link)
}

/// The bridge in the container.
pub fn bridge(inside: &Netlink, name: &IfName) -> Result<Link, CniError> {
    match inside.link_by_name(name.as_str())? {
        Some(link) if link.bridge.is_some() => Ok(link),
        Some(_) => Err(CniError::plugin(format!("bridge: {name} of the container is no bridge"))),
        None => Err(CniError::plugin(format!(
            "bridge: the container has no bridge {name}: a plugin before this one must have made it"
        ))),
    }
}
