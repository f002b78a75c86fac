//! CHECK: compares the whole plan with what is there, and names each difference.

mod container;
mod host;
mod port;

use cni_net::pair::{self, PairCheck};
use cni_net::{NetNs, Netlink, localnet};
use cni_netfilter::{MacGuard, Netfilter};
use cni_plugin::{Attachment, CniError, CniResult, Difference, Request, verdict};

use crate::config::Config;
use crate::plan::AddressPlan;
use crate::settings::{Mode, Settings};

/// What there is to compare with.
struct Wanted<'a> {
    settings: &'a Settings,
    /// The result of ADD, as later plugins left it.
    told: &'a CniResult,
    plan: &'a AddressPlan,
}

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let told = request.require_result_of_add()?;
    let ifname = &attachment.owner.ifname;
    told.require_of_add(ifname, matches!(settings.mode, Mode::Layer3 { .. }))?;
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Netlink::open()?;
    let inside = Netlink::open_in(&namespace)?;
    let plan = AddressPlan::from_result(&settings, &attachment.owner, told);
    let wanted = Wanted { settings: &settings, told, plan: &plan };

    let mut found = Vec::new();
    let bridge = host::bridge(&wanted, &socket, &mut found)?;
    host::gateway(&wanted, &socket, bridge.as_ref(), &mut found)?;
    let port = pair::find_or_told(&socket, &attachment.owner, told)?;
    let up = settings.mode != (Mode::Layer2 { up: false });
    let ends = PairCheck { ifname, netns: &attachment.netns, mtu: settings.mtu, up, told };
    port::check(&wanted, &ends, &socket, bridge.as_ref(), port.as_ref(), &mut found)?;
    let mac = container::check(&wanted, &ends, &inside, port.as_ref(), &mut found)?;

    let filter = Netfilter::new();
    if settings.masquerade {
        found.extend(filter.compare_masquerade(settings.backend, &plan.masquerade)?);
    }
    if settings.mac_guard
        && let (Some(port), Some(mac)) = (port, mac)
    {
        let port = port.name.parse().map_err(|error| CniError::plugin(format!("{error}")))?;
        found.extend(filter.check_mac_guard(&MacGuard { owner: attachment.owner.clone(), port, mac })?);
    }
    if localnet::needs_guard([settings.bridge.as_str()]) {
        found.extend(filter.check_localnet_guard()?);
    }
    verdict(&found)?;
    match settings.ipam() {
        Some(plugin) => request.ipam(plugin).check(),
        None => Ok(()),
    }
}

fn expect(differences: &mut Vec<Difference>, thing: impl Into<String>, expected: &str, found: &str) {
    if expected != found {
        differences.push(Difference::new(thing.into(), expected, found));
    }
}

fn state(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}
