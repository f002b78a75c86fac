//! ADD: makes the link, and what it needs.

use cni_attach::ipam::Addresses;
use cni_attach::{Sides, mtu, single};
use cni_net::{IpVlan, LinkSpec};
use cni_plugin::{Attachment, CniError, CniResult, Interface, IpConfig, Request, Undo};

use crate::config::Config;
use crate::settings::{Settings, chained};

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let (config, owner) = (&request.config, &attachment.owner);
    let settings = Settings::resolve(config)?;
    let previous = chained(config, request.prev_result.as_ref())?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;
    let parent = settings.parent.ensure(&sides, request.prev_result.as_ref(), owner, undo)?;
    parent.refuse_bridge_port(&sides)?;
    let mtu = mtu::on_parent(config.mtu, &config.ipam, &parent.link)?;

    // 2. IPAM works while the link is made, or the chain has given the addresses already.
    let addresses = match previous {
        Some(previous) => Addresses::Known(previous.clone()),
        None => Addresses::start(Some(request.ipam(&config.ipam.plugin_type)), &config.ipam, undo)?,
    };

    // 3. The link.
    let kind = IpVlan { parent: parent.link.index, mode: settings.mode };
    let spec = LinkSpec { mtu, ..LinkSpec::new(owner.ifname.clone(), &kind) };
    let made = single::create(&sides, owner, &spec, parent.place, undo);
    let link = made.map_err(|error| parent.explain(error))?;

    // 4. Addresses and routes; the link goes up, and the kernel announces the addresses.
    let dns = settings.dns.clone();
    let result = single::configure(request, attachment, &sides, &link, addresses, dns, undo)?;
    Ok(match previous {
        Some(previous) => in_place_of(result, &previous.interfaces),
        None => request.with_prev_result(result),
    })
}

/// The result with the chain's interfaces behind the new one, which has all of the chain's addresses now.
fn in_place_of(mut result: CniResult, interfaces: &[Interface]) -> CniResult {
    result.interfaces.extend_from_slice(interfaces);
    let moved = |ip: IpConfig| IpConfig { interface: Some(0), ..ip };
    CniResult { ips: result.ips.into_iter().map(moved).collect(), ..result }
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
        cni_testing::golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("ipvlan", |example| {
            let owner = Owner {
                network: "net".parse().unwrap(),
                container_id: "c1".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            };
            let config: Config = cni_plugin::json::decode(example.config.clone()).unwrap();
            let settings = Settings::resolve(&config).unwrap();
            let ipam = CniResult::from_delegate(cni_testing::ipam::result(&example.config), SpecVersion::V1_1_0);
            let interface = Interface::new("eth0", MacAddr([2; 6]), "/ns");
            let result = result::with_interfaces(vec![interface], 0, ipam.unwrap(), settings.dns.clone());
            let kind = IpVlan { parent: 0, mode: settings.mode };
            let spec = LinkSpec { mtu: settings.mtu, ..LinkSpec::new(owner.ifname.clone(), &kind) };
            let layer3 = Layer3::of(&result, &owner.ifname).unwrap().commands(Place::Container);
            lines(&[single::commands(&spec, "up0", &owner), layer3].concat())
        });
    }
}
