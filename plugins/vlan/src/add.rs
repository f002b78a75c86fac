//! ADD: makes the link, and what it needs.

use cni_attach::ipam::{self, Addresses};
use cni_attach::parent::refuse_down;
use cni_attach::{Sides, mtu, single};
use cni_net::{Link, LinkSpec, NetError, VlanLink};
use cni_plugin::{Attachment, CniError, CniResult, Request, Undo};

use crate::config::Config;
use crate::settings::Settings;

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum AddError {
    /// The kernel refused.
    #[error(transparent)]
    Net(NetError),
    /// A master has one link for each ID, in whatever namespace (`vlan_check_real_dev` in net/8021q/vlan.c).
    #[error(
        "vlanId: VLAN {id} of {master} is in use, by a link here or in another container, and the kernel has only one for each \
         ID of a master: for several containers in a VLAN, use macvlan or bridge on a link of the VLAN"
    )]
    Taken {
        /// The VLAN ID.
        id: u16,
        /// The link below.
        master: String,
    },
}

impl AddError {
    /// That the interface's own name is free has been seen before.
    fn of(error: NetError, id: u16, master: &Link) -> Self {
        match error {
            NetError::Exists { .. } => Self::Taken { id, master: master.name.clone() },
            other => Self::Net(other),
        }
    }
}

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let (config, owner) = (&request.config, &attachment.owner);
    let settings = Settings::resolve(config)?;
    let ipam = ipam::configured(request, &config.ipam)?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;
    let parent = settings.parent.ensure(&sides, request.prev_result.as_ref(), owner, undo)?;
    refuse_down(&parent.link)?;
    let mtu = mtu::on_parent(config.mtu, &config.ipam, &parent.link)?;

    // 2. IPAM works while the link is made.
    let addresses = Addresses::start(ipam, &config.ipam, undo)?;

    // 3. The link, which has the parent's hardware address.
    let kind = VlanLink { parent: parent.link.index, id: settings.vlan_id };
    let spec = LinkSpec { mtu, ..LinkSpec::new(owner.ifname.clone(), &kind) };
    let made = single::create(&sides, owner, &spec, parent.place, undo);
    let link = made.map_err(|error| AddError::of(error, settings.vlan_id, &parent.link))?;

    // 4. Addresses and routes; the link goes up, and the kernel announces the addresses.
    let dns = settings.dns.clone();
    let result = single::configure(request, attachment, &sides, &link, addresses, dns, undo)?;
    Ok(request.with_prev_result(result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_attach::print::{Place, lines};
    use cni_attach::{Layer3, result};
    use cni_plugin::{MacAddr, Owner, SpecVersion};

    /// The plan for an address 9 of each range, on a node whose default route is through `up0`.
    #[test]
    fn the_examples_plans() {
        cni_testing::golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("vlan", |example| {
            let owner = Owner {
                network: "net".parse().unwrap(),
                container_id: "c1".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            };
            let config: Config = cni_plugin::json::decode(example.config.clone()).unwrap();
            let settings = Settings::resolve(&config).unwrap();
            let ipam = CniResult::from_delegate(cni_testing::ipam::result(&example.config), SpecVersion::V1_1_0);
            let interface = cni_plugin::Interface::new("eth0", MacAddr([2; 6]), "/ns");
            let result = result::with_interfaces(vec![interface], 0, ipam.unwrap(), settings.dns.clone());
            let kind = VlanLink { parent: 0, id: settings.vlan_id };
            let spec = LinkSpec { mtu: settings.mtu, ..LinkSpec::new(owner.ifname.clone(), &kind) };
            let layer3 = Layer3::of(&result, &owner.ifname).unwrap().commands(Place::Container);
            lines(&[single::commands(&spec, "up0", &owner), layer3].concat())
        });
    }
}
