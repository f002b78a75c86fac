//! host-device: CHECK notices each difference, and STATUS what an ADD would fail on.

use cni_tests::Sandbox;
use serde_json::{Value, json};

use super::{attached, call, chain, device, layer2, network};
use crate::case::{Basis, Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let case = |damage: Damage| {
        let basis = if damage.1 { Basis::Common } else { Basis::Improved };
        common(damage.0, move |sb| noticed(sb, &damage)).based_on(basis)
    };
    let mut cases: Vec<Case> = DAMAGES.map(case).into();
    cases.push(improved("status", status));
    cases
}

/// One thing that breaks: its name, whether the Go plugin notices it too, the command in the container, and what CHECK has to name.
type Damage = (&'static str, bool, &'static str, &'static [&'static str]);

const DAMAGES: [Damage; 7] = [
    ("untouched", true, "true", &[]),
    ("address_deleted", true, "ip addr del 10.23.0.2/24 dev eth0", &["10.23.0.2"]),
    ("default_route_deleted", true, "ip route del default", &["oute"]),
    ("link_deleted", true, "ip link del eth0", &["eth0"]),
    ("mac_changed", false, "ip link set eth0 address 0a:00:00:00:00:77", &["0a:00:00:00:00:77"]),
    ("link_set_down", false, "ip link set eth0 down", &["eth0", "up", "down"]),
    ("another_device", false, "ip link set eth0 alias host7", &["eth0", "host0", "host7"]),
];

fn noticed(sb: &Sandbox, (label, _, deed, named): &Damage) {
    device(sb);
    let (ns, at) = attached(sb, &network(), "c1");
    call(sb, "CHECK", &network(), &at).silent();
    ns.sh(&deed.split(' ').collect::<Vec<_>>());
    let outcome = call(sb, "CHECK", &network(), &at);
    if *label == "untouched" { outcome.silent() } else { outcome.error().names(named) }
}

fn status(sb: &Sandbox) {
    sb.needs("host-device", "1.1.0");
    let status = |conf: &Value| chain(sb, conf).status(sb);
    let error = status(&layer2()).error();
    assert_eq!(error.code, 50);
    error.names(&["host0"]);
    device(sb);
    status(&network()).silent();
    let (_ns, at) = attached(sb, &network(), "c1");
    let error = status(&network()).error();
    assert_eq!(error.code, 50);
    error.names(&["host0", "c1"]);
    call(sb, "DEL", &network(), &at).silent();
    status(&network()).silent();
    status(&json!({"type": "host-device"})).error().names(&["device"]);
    // The runtime will say which device.
    status(&json!({"type": "host-device", "capabilities": {"deviceID": true}})).silent();
    sb.fake("full", r#"echo '{"code":50,"msg":"full"}'; exit 1"#);
    let full = status(&json!({"type": "host-device", "device": "host0", "ipam": {"type": "full"}})).error();
    assert_eq!((full.code, full.msg.as_str()), (50, "full"));
}
