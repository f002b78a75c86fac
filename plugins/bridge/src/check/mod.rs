//! CHECK: compares the whole plan with what is there, and names each difference.

mod container;
mod host;
mod port;

use cni_net::{NetNs, Netlink, pair};
use cni_netfilter::{Backend, MacGuard, Netfilter};
use cni_plugin::{Attachment, CniError, CniResult, Difference, Interface, Ipam, Request, verdict};

use crate::config::Config;
use crate::plan::AddressPlan;
use crate::settings::Settings;

/// What there is to compare with.
struct Wanted<'a> {
    settings: &'a Settings,
    attachment: &'a Attachment,
    /// The result of ADD, as later plugins left it.
    told: &'a CniResult,
    plan: &'a AddressPlan,
}

/// Compares everything that ADD made, then asks IPAM.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let told = request
        .prev_result
        .as_ref()
        .ok_or_else(|| CniError::plugin("CHECK needs prevResult, the result of ADD, and the configuration has none"))?;
    let namespace = NetNs::open(&attachment.netns)?;
    let socket = Netlink::open()?;
    let inside = Netlink::open_in(&namespace)?;
    let plan = AddressPlan::from_result(&settings, &attachment.owner, told);
    let wanted = Wanted { settings: &settings, attachment, told, plan: &plan };

    let mut found = Vec::new();
    let bridge = host::bridge(&wanted, &socket, &mut found)?;
    host::gateway(&wanted, &socket, bridge.as_ref(), &mut found)?;
    let port = pair::find_or_told(&socket, &attachment.owner, told)?;
    port::check(&wanted, &socket, bridge.as_ref(), port.as_ref(), &mut found)?;
    let mac = container::check(&wanted, &inside, port.as_ref(), &mut found)?;

    let filter = Netfilter::new();
    if settings.masquerade {
        found.extend(masquerade(&filter, filter.choose(settings.backend)?, &plan)?);
    }
    if settings.mac_guard
        && let (Some(port), Some(mac)) = (port, mac)
    {
        let port = port.name.parse().map_err(|error| CniError::plugin(format!("{error}")))?;
        found.extend(filter.check_mac_guard(&MacGuard { owner: attachment.owner.clone(), port, mac })?);
    }
    verdict(&found)?;
    match settings.ipam() {
        Some(plugin) => Ipam::new(&request.delegates, plugin, request.version).check(),
        None => Ok(()),
    }
}

/// Compares with the backend that ADD would use now. Before an upgrade or a change of the configuration it may have been
/// the other one: where nothing is wrong with that, nothing is wrong.
fn masquerade(filter: &Netfilter, backend: Backend, plan: &AddressPlan) -> Result<Vec<Difference>, CniError> {
    let differences = filter.check_masquerade(backend, &plan.masquerade)?;
    let other = match backend {
        Backend::Iptables => Backend::Nftables,
        Backend::Nftables => Backend::Iptables,
    };
    if !differences.is_empty() && filter.check_masquerade(other, &plan.masquerade).is_ok_and(|found| found.is_empty()) {
        return Ok(Vec::new());
    }
    Ok(differences)
}

impl Wanted<'_> {
    /// What was told about the interface in the container.
    fn told_container(&self) -> Option<&Interface> {
        let name = self.attachment.owner.ifname.as_str();
        self.told.interfaces.iter().find(|interface| interface.name == name && !interface.sandbox.is_empty())
    }

    /// What was told about an interface on the host.
    fn told_host(&self, name: &str) -> Option<&Interface> {
        self.told.interfaces.iter().find(|interface| interface.name == name && interface.sandbox.is_empty())
    }
}

/// The result's MAC counts: a later plugin may have changed it and said so.
fn expect_mac(differences: &mut Vec<Difference>, link: &cni_net::Link, told: Option<&Interface>) {
    let Some(told) = told.filter(|told| !told.mac.is_empty()) else { return };
    let found = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if !found.eq_ignore_ascii_case(&told.mac) {
        differences.push(Difference::new(format!("MAC address of {}", link.name), &told.mac, found));
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
