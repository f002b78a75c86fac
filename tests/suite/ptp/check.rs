//! ptp: CHECK notices each difference, on both ends.

use cni_tests::Sandbox;

use super::{attached, call, host_link, network};
use crate::case::{Basis, Case, common};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let case = |damage: Damage| {
        let basis = if damage.1 { Basis::Common } else { Basis::Improved };
        common(damage.0, move |sb| noticed(sb, &damage)).based_on(basis)
    };
    DAMAGES.map(case).into()
}

/// One thing that breaks: its name, whether the Go plugin notices it too, whether in the container or on the
/// node, the command (`LINK` stands for the host's end), and what CHECK has to name.
type Damage = (&'static str, bool, bool, &'static str, &'static [&'static str]);

const DAMAGES: [Damage; 16] = [
    ("untouched", true, true, "true", &[]),
    ("address_deleted", true, true, "ip addr del 10.21.0.2/24 dev eth0", &["10.21.0.2"]),
    ("ipv6_address_deleted", true, true, "ip addr del fd00:21::2/64 dev eth0", &["fd00:21::2"]),
    ("default_route_deleted", true, true, "ip route del default", &["oute"]),
    ("link_deleted", true, true, "ip link del eth0", &["eth0"]),
    ("mac_changed", true, true, "ip link set eth0 address 0a:00:00:00:00:77", &["0a:00:00:00:00:77"]),
    ("route_added_beside", false, true, "ip route replace 10.21.0.1 dev eth0 src 10.21.0.2 metric 5", &[]),
    ("subnet_route_deleted", false, true, "ip route del 10.21.0.0/24", &["oute", "10.21.0.0/24"]),
    ("link_set_down", false, true, "ip link set eth0 down", &["eth0"]),
    ("mtu_changed", false, true, "ip link set eth0 mtu 1300", &["mtu", "1300", "1400"]),
    ("host_address_deleted", false, false, "ip addr del 10.21.0.1/32 dev LINK", &["10.21.0.1"]),
    ("ipv6_host_address_deleted", false, false, "ip addr del fd00:21::1/128 dev LINK", &["fd00:21::1"]),
    ("host_route_deleted", false, false, "ip route del 10.21.0.2 dev LINK", &["oute", "10.21.0.2"]),
    ("ipv6_host_route_deleted", false, false, "ip -6 route del fd00:21::2 dev LINK", &["oute", "fd00:21::2"]),
    ("forwarding_off", false, false, "sysctl -qw net.ipv4.ip_forward=0", &["ip_forward"]),
    ("ipv6_forwarding_off", false, false, "sysctl -qw net.ipv6.conf.all.forwarding=0", &["forwarding"]),
];

fn noticed(sb: &Sandbox, (label, _, inside, deed, named): &Damage) {
    let mut conf = network();
    conf["mtu"] = 1400.into();
    let (ns, at) = attached(sb, &conf, "c1");
    call(sb, "CHECK", &conf, &at).silent();
    let place = if *inside { ns } else { sb.node() };
    let deed = deed.replace("LINK", &host_link(&at));
    place.sh(&deed.split(' ').collect::<Vec<_>>());
    let outcome = call(sb, "CHECK", &conf, &at);
    // A route that was added beside the plugin's is not an error.
    if matches!(*label, "untouched" | "route_added_beside") { outcome.silent() } else { outcome.error().names(named) }
}
