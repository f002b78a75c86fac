//! The plan as commands, in the order in which they are carried out.

use cni_net::Route;

use super::Layer3;
use crate::print::Place;

impl Layer3 {
    /// What [`Layer3::apply`] does, as commands of `ip` and `sysctl`; or [`Layer3::apply_to_host`], for a link of the node.
    pub fn commands(&self, place: Place) -> Vec<String> {
        let addresses = self.addresses.iter().map(|address| {
            let options = self.address_options();
            let dad = if options.no_dad && address.is_ipv6() { " nodad" } else { "" };
            let prefix_route = if options.no_prefix_route { " noprefixroute" } else { "" };
            place.ip(&format!("address add {address} dev {}{dad}{prefix_route}", self.ifname))
        });
        let routes = self
            .kernel_routes(0)
            .into_iter()
            .map(|route| place.ip(&format!("route add {route} dev {}{}", self.ifname, options(&route))));
        let up = place.ip(&format!("link set {} up", self.ifname));
        match place {
            Place::Node => addresses.chain(routes).collect(),
            Place::Container => {
                let settings = self.settings();
                let settings = settings.iter().map(|setting| place.sysctl(&setting.path, setting.value));
                let (before, after): (Vec<_>, Vec<_>) =
                    if self.dad { (Vec::new(), addresses.collect()) } else { (addresses.collect(), Vec::new()) };
                settings.chain(before).chain([up]).chain(after).chain(routes).collect()
            }
        }
    }
}

/// What `ip route add` takes after the device.
fn options(route: &Route) -> String {
    fn word<T: std::fmt::Display>(name: &str, value: Option<T>) -> String {
        value.map_or_else(String::new, |value| format!(" {name} {value}"))
    }
    let onlink = if route.onlink { " onlink" } else { "" };
    let (scope, source) = (word("scope", route.scope), word("src", route.source));
    format!("{scope}{source}{}{}{onlink}", word("mtu", route.mtu), word("advmss", route.advmss))
}
