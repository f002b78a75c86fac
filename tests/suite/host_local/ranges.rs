//! host-local: ranges that make no sense are refused, by name, and nothing is reserved.

use cni_tests::{Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};
use cni_tests::host_local::{add, call, with};

/// All cases of this subject: label, `ipam`, what the Go plugin's error names, what a good one names.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (label, ipam, named, better) in rows() {
        let short = ipam.clone();
        cases.push(common(label, move |sb| refused(sb, &short, named)));
        if !better.is_empty() {
            let name = format!("{label}_is_explained");
            cases.push(improved(name, move |sb| refused(sb, &ipam, better)));
        }
    }
    cases.push(common("one_per_family_before_0.3.0", |sb| {
        let conf = with("0.2.0", &json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]]}));
        add(sb, "c1", &conf).error().names(&["0.2.0"]);
    }));
    cases.push(common("requested_is_not_an_address", |sb| {
        let mut conf = with("1.0.0", &json!({"subnet": "10.1.2.0/24"}));
        conf["runtimeConfig"] = json!({"ips": ["10.1.2.300"]});
        add(sb, "c1", &conf).error().names(&["10.1.2.300"]);
    }));
    cases.push(common("explicit_bounds_may_use_the_whole_subnet", |sb| {
        let range = json!({"subnet": "10.1.2.0/30", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.2.3"});
        let conf = with("1.0.0", &json!({"ranges": [[range]]}));
        let got = ["c1", "c2", "c3"].map(|id| add(sb, id, &conf).result()["ips"][0]["address"].clone());
        assert_eq!(got, [json!("10.1.2.0/30"), json!("10.1.2.2/30"), json!("10.1.2.3/30")]);
        call(sb, "DEL", "c1", &conf).run().silent();
    }));
    cases
}

type Row = (&'static str, Value, &'static [&'static str], &'static [&'static str]);

fn set(ranges: &Value) -> Value {
    json!({"ranges": [ranges]})
}

fn rows() -> Vec<Row> {
    vec![
        ("none", json!({}), &[], &["ranges"]),
        ("empty_set", json!({"ranges": [[]]}), &["0"], &["ranges"]),
        ("host_bits", set(&json!([{"subnet": "10.1.2.3/24"}])), &["10.1.2"], &["subnet", "10.1.2.3/24"]),
        ("host_bits_v6", set(&json!([{"subnet": "fd00::1/64"}])), &["fd00::"], &["subnet", "fd00::1/64"]),
        ("too_small_31", set(&json!([{"subnet": "10.1.2.0/31"}])), &["10.1.2.0/31"], &["subnet"]),
        ("too_small_32", set(&json!([{"subnet": "10.1.2.0/32"}])), &["10.1.2.0/32"], &[]),
        ("too_small_127", set(&json!([{"subnet": "fd00::/127"}])), &["fd00::/127"], &[]),
        ("not_a_subnet", set(&json!([{"subnet": "10.1.2.0"}])), &["10.1.2.0"], &["subnet", "10.1.2.0"]),
        ("prefix_33", set(&json!([{"subnet": "10.1.2.0/33"}])), &["10.1.2.0/33"], &["subnet"]),
        ("leading_zero", set(&json!([{"subnet": "10.01.2.0/24"}])), &["10.01.2.0/24"], &["subnet"]),
        (
            "start_outside",
            set(&json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.5"}])),
            &["10.1.3.5", "10.1.2.0/24"],
            &["rangeStart"],
        ),
        (
            "end_outside",
            set(&json!([{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.5"}])),
            &["10.1.3.5", "10.1.2.0/24"],
            &["rangeEnd"],
        ),
        (
            "start_after_end",
            set(&json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.20", "rangeEnd": "10.1.2.10"}])),
            &["10.1.2.20"],
            &["rangeStart", "rangeEnd", "10.1.2.10"],
        ),
        (
            "start_of_another_family",
            set(&json!([{"subnet": "10.1.2.0/24", "rangeStart": "fd00::1"}])),
            &["fd00::1"],
            &["rangeStart"],
        ),
        ("start_garbage", set(&json!([{"subnet": "10.1.2.0/24", "rangeStart": "x"}])), &["x"], &["rangeStart"]),
        ("gateway_garbage", set(&json!([{"subnet": "10.1.2.0/24", "gateway": "x"}])), &["x"], &["gateway"]),
        (
            "mixed_families",
            set(&json!([{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}])),
            &["0"],
            &["10.1.2.0/24", "fd00::/64"],
        ),
        ("overlap_in_a_set", set(&json!([{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.2.0/25"}])), &["10.1.2"], &[]),
        (
            "overlap_between_sets",
            json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.0.0/16"}]]}),
            &["0", "1"],
            &["10.1.2."],
        ),
        ("no_subnet", set(&json!([{"rangeStart": "10.1.2.5"}])), &[], &["subnet"]),
        ("subnet_a_number", set(&json!([{"subnet": 10}])), &["subnet"], &[]),
        ("route_garbage", json!({"subnet": "10.1.2.0/24", "routes": [{"dst": "10.9.0.0"}]}), &["10.9.0.0"], &["dst"]),
        ("no_resolv_conf", json!({"subnet": "10.1.2.0/24", "resolvConf": "/no/such"}), &["/no/such"], &["resolvConf"]),
    ]
}

fn refused(sb: &Sandbox, ipam: &Value, named: &[&str]) {
    let before = Snapshot::of(&[&sb.node()]);
    let error = add(sb, "c1", &with("1.0.0", ipam)).error();
    assert_eq!(error.code, 999, "{error:?}");
    error.names(named);
    Snapshot::of(&[&sb.node()]).same_as(&before);
}
