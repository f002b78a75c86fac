//! SPEC.md section 5: what the result of an IPAM plugin says.

use super::requirement::{IPAM, Requirement, Section};
use super::result::{address_and_gateway, has_route, list, result_of};
use super::subject::Subject;

/// All of this subject.
pub(super) fn requirements() -> Vec<Requirement> {
    let ipam = Section("5 IPAM result");
    vec![
        ipam.must(
            "must_determine_address_gateway_and_routes",
            "address, gateway and routes are in the result",
            &IPAM,
            determined,
        )
        .since("0.4.0"),
        ipam.should("should_leave_interfaces_out", "neither `interfaces` nor `ips[].interface`", &IPAM, abbreviated)
            .since("0.3.0")
            .until("0.4.0"),
        ipam.must("must_leave_interfaces_out", "neither `interfaces` nor `ips[].interface`", &IPAM, abbreviated)
            .since("1.0.0"),
    ]
}

fn determined(s: &Subject<'_>) {
    let result = result_of(s);
    address_and_gateway(s, &result);
    has_route(&result);
}

fn abbreviated(s: &Subject<'_>) {
    let result = result_of(s);
    assert!(result.get("interfaces").is_none(), "{result}");
    assert!(list(&result, "ips").iter().all(|ip| ip.get("interface").is_none()), "{result}");
}
