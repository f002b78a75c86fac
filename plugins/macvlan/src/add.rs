//! ADD: makes the link, and what it needs.

use cni_attach::ipam::{self, Addresses};
use cni_attach::{Sides, mac, mtu, result, single};
use cni_net::{Link, LinkChange, LinkSpec, MacVlan, MacVlanMode, NetError};
use cni_plugin::{Attachment, CniError, CniResult, MacAddr, Request, Undo};

use crate::config::Config;
use crate::settings::Settings;

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let (config, owner) = (&request.config, &attachment.owner);
    let settings = Settings::resolve(config, &attachment.args)?;
    let ipam = ipam::configured(request, &config.ipam)?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;
    let parent = settings.parent.ensure(&sides, request.prev_result.as_ref(), owner, undo)?;
    parent.refuse_bridge_port(&sides)?;
    let mtu = mtu::on_parent(config.mtu, &config.ipam, &parent.link)?;

    // 2. IPAM works while the link is made.
    let addresses = Addresses::start(ipam, &config.ipam, undo)?;

    // 3. The link. In passthru mode it has the parent's hardware address from birth.
    let passthru = settings.mode == MacVlanMode::Passthrough;
    let own_mac = (!passthru).then(|| settings.mac.unwrap_or_else(|| mac::of_owner(owner)));
    let kind = MacVlan { parent: parent.link.index, mode: settings.mode, bc_queue_len: settings.bc_queue_len };
    let spec = LinkSpec { mtu, mac: own_mac, ..LinkSpec::new(owner.ifname.clone(), &kind) };
    let made = single::create(&sides, owner, &spec, parent.place, undo);
    let mut link = made.map_err(|error| parent.explain(error))?;
    if let Some(mac) = settings.mac.filter(|_| passthru) {
        share_mac(&sides, &mut link, mac)?;
    }

    // 4. Addresses and routes; the link goes up, and the kernel announces the addresses.
    let dns = settings.dns.clone();
    let mut result = single::configure(request, attachment, &sides, &link, addresses, dns, undo)?;

    // 5. The node's own link to the containers.
    if let Some(shim) = &settings.shim {
        let ips: Vec<_> = result.ips.iter().map(|ip| ip.address.ip()).collect();
        let link = shim.add(&sides.host, &parent.link, owner, &ips, undo)?;
        let mac = link.mac.unwrap_or(MacAddr([0; 6]));
        result.interfaces.push(result::interface(request, &link.name, mac, link.mtu, None));
    }
    Ok(request.with_prev_result(result))
}

/// Gives the link this hardware address, and with it its parent, which gets its own back when the link goes
/// (`macvlan_port_destroy` in drivers/net/macvlan.c).
fn share_mac(sides: &Sides, link: &mut Link, mac: MacAddr) -> Result<(), NetError> {
    sides.container.netlink.change_link(link.index, &LinkChange { mac: Some(mac), ..LinkChange::default() })?;
    link.mac = Some(mac);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_attach::print::{Place, lines};
    use cni_attach::{Layer3, result};
    use cni_plugin::{CniArgs, Interface, Owner, SpecVersion};

    /// The plan for an address 9 of each range, on a node whose default route is through `up0`.
    #[test]
    fn the_examples_plans() {
        cni_testing::golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("macvlan", |example| {
            let owner = Owner {
                network: "net".parse().unwrap(),
                container_id: "c1".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            };
            let config: Config = cni_plugin::json::decode(example.config.clone()).unwrap();
            let settings = Settings::resolve(&config, &CniArgs::default()).unwrap();
            let ipam = CniResult::from_delegate(cni_testing::ipam::result(&example.config), SpecVersion::V1_1_0);
            let interface = Interface::new("eth0", MacAddr([2; 6]), "/ns");
            let result = result::with_interfaces(vec![interface], 0, ipam.unwrap(), settings.dns.clone());
            let kind = MacVlan { parent: 0, mode: settings.mode, bc_queue_len: settings.bc_queue_len };
            let spec = LinkSpec { mtu: settings.mtu, mac: settings.mac, ..LinkSpec::new(owner.ifname.clone(), &kind) };
            let ips: Vec<_> = result.ips.iter().map(|ip| ip.address.ip()).collect();
            let shim = settings.shim.map_or_else(Vec::new, |shim| shim.commands("up0", &owner, &ips));
            let layer3 = Layer3::of(&result, &owner.ifname).unwrap().commands(Place::Container);
            lines(&[single::commands(&spec, "up0", &owner), layer3, shim].concat())
        });
    }
}
