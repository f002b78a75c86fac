//! The limits, where they come from, and what remains of them.

use std::path::Path;

use cni_tests::kernel::{array, link, link_names};
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, conf, verdict};
use serde_json::{Value, json};

use super::{attached, chain, with};
use crate::case::{Case, common, improved, newer};
use cni_tests::plugins::{VERSIONS, minimal, previous, ready, tidy};

/// Debian's package `containernetworking-plugins`.
const GO: &str = "/usr/lib/cni";
/// As the Go plugin names the ifb of container `c1` on network `net`: `bwp` and 12 digits of the SHA-512 of `netc1`.
const IFB: &str = "bwp623e1c388032";

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("limits_are_what_tc_shows", limits),
        common("ingress_alone_makes_no_ifb", |sb| {
            let (_, at, _) = attached(sb, &json!({"ingressRate": 8_000_000, "ingressBurst": 800_000}));
            assert_eq!(at.result.unwrap()["interfaces"].as_array().unwrap().len(), 3);
            assert!(ifbs(&sb.node()).is_empty());
        }),
        common("egress_alone_leaves_ingress", |sb| {
            let (_, at, _) = attached(sb, &json!({"egressRate": 8_000_000, "egressBurst": 800_000}));
            assert_eq!(qdisc(&sb.node(), &host(&at))["kind"], "noqueue");
        }),
        common("the_result_has_the_ifb", result),
        common("limits_of_the_runtime", runtime),
        common("the_configuration_goes_over_the_runtime", over_runtime),
        common("needs_a_previous_result", |sb| {
            let ns = sb.container("c1");
            let conf = conf::named("1.0.0", json!({"type": "bandwidth", "ingressRate": 8000, "ingressBurst": 8000}));
            ready(sb, "bandwidth", "ADD", "1.0.0", &ns).conf(&conf).run().error().names(&["chained"]);
        }),
        common("needs_a_veth", no_veth),
        common("del_takes_the_ifb_away_twice", twice),
        newer("check_without_limits", |sb| {
            let (_, at, chain) = attached(sb, &json!({}));
            chain.check(sb, &at).silent();
        }),
        common("check_passes", |sb| {
            let (_, at, chain) = attached(sb, &both());
            chain.check(sb, &at).silent();
        }),
        improved("check_names_what_differs", check),
        improved("an_unset_burst_is_chosen", bursts),
        improved("a_second_add_is_refused", again),
        improved("a_failure_is_taken_back", rollback),
        improved("del_takes_the_limits_from_the_pair", del_alone),
        improved("del_after_the_netns_vanished", vanished),
        improved("del_without_result_or_limits", |sb| {
            let (_, mut at, chain) = attached(sb, &both());
            at.result = None;
            let bare = Chain::new("net", chain.version(), &[json!({"type": "bandwidth"})]);
            bare.del(sb, &at.nowhere());
            assert!(ifbs(&sb.node()).is_empty());
        }),
    ];
    cases.extend(others());
    for (label, keys, named) in refusals() {
        cases.push(common(format!("refuses_{label}"), move |sb| refused(sb, &keys, named)));
    }
    for version in VERSIONS {
        cases.push(common(format!("passes_through_{version}"), move |sb: &Sandbox| {
            sb.needs("bandwidth", version);
            let result = ready(sb, "bandwidth", "ADD", version, &sb.container("c1")).run().result();
            assert_eq!(tidy(result), previous(version));
        }));
        cases.push(common(format!("limits_at_{version}"), move |sb: &Sandbox| at_version(sb, version)));
    }
    cases
}

/// Several owners, both implementations, and what the plugin says.
fn others() -> Vec<Case> {
    vec![
        improved("two_interfaces_of_a_container", two_interfaces),
        improved("gc_takes_what_is_not_valid", gc),
        improved("gc_takes_what_a_killed_add_left", unfinished),
        improved("egress_on_the_containers_interface", inside),
        improved("go_checks_and_removes_ours", |sb| upgrade(sb, false)),
        improved("ours_checks_and_removes_go_s", |sb| upgrade(sb, true)),
        improved("ours_checks_a_huge_burst_of_go_s", huge_burst),
        improved("subnets_have_no_effect_and_it_says_so", subnets),
        improved("a_burst_below_a_packet_is_said", |sb| {
            let keys = json!({"ingressRate": 8000, "ingressBurst": 8000});
            let (ns, chain) = (sb.container("c1"), chain(sb, &keys));
            let mut at = Attachment::new("c1", &ns);
            at.result = Some(chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result());
            let outcome = chain.call(sb, "ADD", &chain.plugins()[1], &at, at.result.as_ref()).run();
            assert!(outcome.ok() && outcome.stderr.contains("12112"), "{outcome}");
        }),
        improved("status_knows_the_configuration", |sb| {
            sb.needs("bandwidth", "1.1.0");
            let status = |keys: Value| {
                let chain = Chain::new("net", "1.1.0", &[with(&keys)]);
                chain.status(sb)
            };
            status(json!({})).silent();
            status(both()).silent();
            status(json!({"egressRate": 7})).error().names(&["egressRate", "7"]);
            assert!(ifbs(&sb.node()).is_empty());
        }),
    ]
}

/// 8 Mbit/s in, 16 Mbit/s out.
fn both() -> Value {
    json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000})
}

/// The host's end of the pair.
fn host(at: &Attachment) -> String {
    let interfaces = at.result.as_ref().unwrap()["interfaces"].as_array().unwrap();
    let found = interfaces.iter().filter_map(|i| i["name"].as_str()).find(|name| name.starts_with("veth"));
    found.unwrap().to_owned()
}

fn qdisc(ns: &Netns, link: &str) -> Value {
    array(&ns.sh(&["tc", "-j", "qdisc", "show", "dev", link, "root"])).into_iter().next().unwrap_or_default()
}

fn ifbs(node: &Netns) -> Vec<String> {
    link_names(node).into_iter().filter(|name| name.starts_with("bwp")).collect()
}

/// What a discipline may let through at once, in bytes.
fn burst(ns: &Netns, link: &str) -> u64 {
    qdisc(ns, link)["options"]["burst"].as_u64().unwrap()
}

fn twice(sb: &Sandbox) {
    let (_, at, chain) = attached(sb, &both());
    chain.del(sb, &at);
    assert!(ifbs(&sb.node()).is_empty());
    chain.del(sb, &at);
}

fn limits(sb: &Sandbox) {
    let (_, at, _) = attached(sb, &both());
    let node = sb.node();
    for (link, rate, burst) in [(host(&at).as_str(), 1_000_000, 100_000), (IFB, 2_000_000, 200_000)] {
        let found = qdisc(&node, link);
        assert_eq!((&found["kind"], &found["handle"]), (&json!("tbf"), &json!("1:")), "{found}");
        assert_eq!((&found["options"]["rate"], &found["options"]["burst"]), (&json!(rate), &json!(burst)), "{found}");
    }
    let filter = node.sh(&["tc", "filter", "show", "dev", &host(&at), "ingress"]);
    assert!(filter.contains(&format!("Egress Redirect to device {IFB}")), "{filter}");
    let ifb = link(&node, IFB).unwrap();
    assert_eq!((ifb["mtu"].as_u64(), &ifb["linkinfo"]["info_kind"]), (Some(1500), &json!("ifb")));
}

fn result(sb: &Sandbox) {
    let (_, at, _) = attached(sb, &both());
    let interfaces = at.result.unwrap()["interfaces"].clone();
    let address = link(&sb.node(), IFB).unwrap()["address"].clone();
    assert_eq!(interfaces[3], json!({"name": IFB, "mac": address}), "{interfaces}");
}

fn runtime(sb: &Sandbox) {
    let (ns, chain) = (sb.container("c1"), chain(sb, &json!({})));
    let mut at = Attachment::new("c1", &ns).with("bandwidth", both());
    chain.add(sb, &mut at);
    assert_eq!(qdisc(&sb.node(), &host(&at))["options"]["rate"], 1_000_000);
    assert_eq!(qdisc(&sb.node(), IFB)["options"]["rate"], 2_000_000);
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}

/// As a whole.
fn over_runtime(sb: &Sandbox) {
    let (ns, chain) = (sb.container("c1"), chain(sb, &json!({"ingressRate": 4_000_000, "ingressBurst": 400_000})));
    let mut at = Attachment::new("c1", &ns).with("bandwidth", both());
    chain.add(sb, &mut at);
    assert_eq!(qdisc(&sb.node(), &host(&at))["options"]["rate"], 500_000);
    assert!(ifbs(&sb.node()).is_empty());
}

fn at_version(sb: &Sandbox, version: &str) {
    for plugin in ["bridge", "host-local", "bandwidth"] {
        sb.needs(plugin, version);
    }
    let ns = sb.container("c1");
    let mut main = conf::bridge();
    main["ipam"]["ranges"] = json!([[{"subnet": conf::V4}]]);
    let chain = Chain::new("net", version, &[main, with(&both())]);
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    assert_eq!(qdisc(&sb.node(), IFB)["options"]["rate"], 2_000_000);
    chain.del(sb, &at);
    assert!(ifbs(&sb.node()).is_empty());
}

fn no_veth(sb: &Sandbox) {
    let ns = sb.container("c1");
    ns.sh(&["ip", "link", "add", "eth0", "type", "bridge"]);
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let mut conf = with(&both());
    conf["prevResult"] = json!({
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
        "ips": [{"address": "10.1.2.3/24", "interface": 0}]
    });
    ready(sb, "bandwidth", "ADD", "1.0.0", &ns)
        .conf(&conf::named("1.0.0", conf))
        .run()
        .error()
        .names(&["eth0", "veth"]);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

fn refusals() -> Vec<(&'static str, Value, &'static [&'static str])> {
    vec![
        ("a_burst_without_a_rate", json!({"ingressBurst": 8000}), &["rate must also be set"]),
        ("a_burst_of_more_than_4_gb", json!({"egressRate": 8000, "egressBurst": 34_359_738_360_u64}), &["4GB"]),
        ("a_rate_as_text", json!({"egressRate": "8M", "egressBurst": 8000}), &["egressRate"]),
        ("a_negative_rate", json!({"ingressRate": -8, "ingressBurst": 8000}), &["ingressRate", "-8"]),
    ]
}

fn refused(sb: &Sandbox, keys: &Value, named: &[&str]) {
    let ns = sb.container("c1");
    let mut conf = with(keys);
    conf["prevResult"] = previous("1.0.0");
    let before = Snapshot::of(&[&sb.node(), &ns]);
    ready(sb, "bandwidth", "ADD", "1.0.0", &ns).conf(&conf::named("1.0.0", conf)).run().error().names(named);
    Snapshot::of(&[&sb.node(), &ns]).same_as(&before);
}

fn check(sb: &Sandbox) {
    let (_, at, chain) = attached(sb, &both());
    let (node, host) = (sb.node(), host(&at));
    let check = || chain.check(sb, &at);
    check().silent();
    let change = |words: &str| node.sh(&words.split(' ').collect::<Vec<_>>());
    for (link, rate) in
        [(host.as_str(), "8mbit burst 100000b limit 125000b"), (IFB, "16mbit burst 200000b limit 250000b")]
    {
        change(&format!("tc qdisc change dev {link} root tbf rate 9mbit burst 100000b limit 125000b"));
        check().error().names(&[link, "9000000bit", rate.split('m').next().unwrap()]);
        change(&format!("tc qdisc change dev {link} root tbf rate {rate}"));
        check().silent();
    }
    change(&format!("ip link set {IFB} down"));
    check().error().names(&[IFB, "down"]);
    change(&format!("ip link set {IFB} up"));
    check().silent();
    change(&format!("tc qdisc del dev {host} ingress"));
    check().error().names(&["redirects", IFB, &host]);
    change(&format!("tc qdisc del dev {host} root"));
    check().error().names(&[&host, "tbf", "(and 1 more)"]);
    change(&format!("ip link del {IFB}"));
    check().error().names(&["ifb", "c1"]);
}

/// containerd says `MaxUint32`, CRI-O eight times that less one, dockershim `MaxInt32` for "none"; others say nothing.
fn bursts(sb: &Sandbox) {
    for (n, burst_of_runtime) in
        [json!(4_294_967_295_u64), json!(34_359_738_359_u64), json!(2_147_483_647), json!(0)].into_iter().enumerate()
    {
        let (ns, chain) = (sb.container(&format!("c{n}")), chain(sb, &json!({})));
        let limits = json!({
            "ingressRate": 10_000_000, "ingressBurst": burst_of_runtime, "egressRate": 10_000_000,
            "egressBurst": burst_of_runtime
        });
        let mut at = Attachment::new(&ns.name, &ns).with("bandwidth", limits);
        chain.add(sb, &mut at);
        let ifb = ifbs(&sb.node());
        for link in [&host(&at), &ifb[0]] {
            let burst = burst(&sb.node(), link);
            assert!((16_000..200_000).contains(&burst), "{burst} bytes pass at once at {burst_of_runtime}");
        }
        chain.check(sb, &at).silent();
        chain.del(sb, &at);
    }
}

/// And what the first one made stays.
fn again(sb: &Sandbox) {
    for keys in
        [both(), json!({"egressRate": 8_000_000}), json!({"egressRate": 8_000_000, "egressDevice": "container"})]
    {
        let (ns, at, chain) = attached(sb, &keys);
        let before = Snapshot::of(&[&sb.node()]);
        let own = chain.plugins().last().unwrap();
        let outcome = chain.call(sb, "ADD", own, &at, at.result.as_ref()).run();
        outcome.error().names(&["exists already"]);
        Snapshot::of(&[&sb.node()]).same_as(&before);
        chain.check(sb, &at).silent();
        chain.del(sb, &at);
        ns.delete();
    }
}

/// Another program's filters block ADD after it has created the ifb.
fn rollback(sb: &Sandbox) {
    let (ns, chain) = (sb.container("c1"), chain(sb, &both()));
    let mut at = Attachment::new("c1", &ns);
    let before_it = chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result();
    at.result = Some(before_it.clone());
    let node = sb.node();
    node.sh(&["tc", "qdisc", "add", "dev", &host(&at), "clsact"]);
    let before = (Snapshot::of(&[&node]), node.sh(&["tc", "qdisc", "show"]));
    let own = chain.plugins().last().unwrap();
    chain.call(sb, "ADD", own, &at, Some(&before_it)).run().error().names(&[&host(&at), "clsact", "egressDevice"]);
    Snapshot::of(&[&node]).same_as(&before.0);
    assert_eq!(node.sh(&["tc", "qdisc", "show"]), before.1);
    // DEL does not remove it: another plugin created it.
    chain.call(sb, "DEL", own, &at, at.result.as_ref()).run().silent();
    assert_eq!(node.sh(&["tc", "qdisc", "show"]), before.1);
}

/// Until the main plugin's DEL the container still sends and receives.
fn del_alone(sb: &Sandbox) {
    for at_go in [false, true] {
        // A version that Debian's plugins have too.
        let (ns, chain) = (sb.container("c1"), chain(sb, &both()).at_version("1.0.0"));
        let mut at = Attachment::new("c1", &ns);
        at.result = Some(chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result());
        let node = sb.node();
        let before = (Snapshot::of(&[&node]), node.sh(&["tc", "qdisc", "show"]));
        let by = if at_go { go(sb) } else { sb.with_plugins(sb.dir()) };
        let own = chain.plugins().last().unwrap();
        at.result = Some(chain.call(&by, "ADD", own, &at, at.result.as_ref()).run().result());
        chain.call(sb, "DEL", own, &at, at.result.as_ref()).run().silent();
        Snapshot::of(&[&node]).same_as(&before.0);
        assert_eq!(node.sh(&["tc", "qdisc", "show"]), before.1);
        assert!(cni_tests::packets::ping(&ns, conf::V4_GATEWAY));
        chain.del(sb, &at);
        ns.delete();
    }
}

/// The Go plugins, or the end of the case.
fn go(sb: &Sandbox) -> Sandbox {
    if !Path::new(GO).join("bandwidth").is_file() {
        verdict::skip("the Go plugins are not installed");
    }
    sb.with_plugins(Path::new(GO))
}

fn vanished(sb: &Sandbox) {
    let node = sb.node();
    let (ns, at, chain) = attached(sb, &both());
    ns.delete();
    chain.del(sb, &at);
    assert!(ifbs(&node).is_empty());
}

/// The Go plugin has one name for both.
fn two_interfaces(sb: &Sandbox) {
    let (ns, first, chain) = attached(sb, &both());
    let mut second = Attachment::new("c1", &ns).on("eth1");
    chain.add(sb, &mut second);
    assert_eq!(ifbs(&sb.node()).len(), 2);
    chain.check(sb, &first).silent();
    chain.check(sb, &second).silent();
    chain.del(sb, &second);
    chain.check(sb, &first).silent();
    assert_eq!(ifbs(&sb.node()), [IFB]);
    chain.del(sb, &first);
    assert!(ifbs(&sb.node()).is_empty());
}

fn gc(sb: &Sandbox) {
    sb.needs("bandwidth", "1.1.0");
    let chain = Chain::new("net", "1.1.0", &[conf::bridge(), with(&both())]);
    let other = Chain::new("other", "1.1.0", &[conf::bridge(), with(&both())]);
    let attach = |chain: &Chain, id: &str| {
        let mut at = Attachment::new(id, &sb.container(id));
        chain.add(sb, &mut at);
        at
    };
    let (kept, _, foreign) = (attach(&chain, "c1"), attach(&chain, "c2"), attach(&other, "c3"));
    assert_eq!(ifbs(&sb.node()).len(), 3);
    let bare = Chain::new("net", "1.1.0", &[with(&json!({}))]);
    bare.gc(sb, &[("c1", "eth0")]).silent();
    assert_eq!(ifbs(&sb.node()).len(), 2);
    chain.check(sb, &kept).silent();
    other.check(sb, &foreign).silent();
    chain.gc(sb, &[]).silent();
    assert_eq!(ifbs(&sb.node()).len(), 1);
    other.check(sb, &foreign).silent();
}

/// An ifb has its address from birth, and the owner's name a moment later.
fn unfinished(sb: &Sandbox) {
    sb.needs("bandwidth", "1.1.0");
    let (_, at, chain) = attached(sb, &both());
    let node = sb.node();
    let found = link(&node, IFB).unwrap();
    let (mac, altname) = (found["address"].as_str().unwrap(), found["altnames"][0].as_str().unwrap());
    node.sh(&["ip", "link", "add", "bwp000000000001", "address", mac, "type", "ifb"]);
    node.sh(&["ip", "link", "add", "bwp000000000002", "type", "ifb"]);
    chain.gc(sb, &[("c1", "eth0")]).silent();
    assert_eq!(ifbs(&node), [IFB, "bwp000000000002"], "the owner of the last one is unknown");
    node.sh(&["ip", "link", "property", "del", "dev", IFB, "altname", altname]);
    chain.check(sb, &at).silent();
    chain.gc(sb, &[("c1", "eth0")]).silent();
    assert!(link(&node, IFB).is_some(), "it has a valid owner, whose ADD may still be running");
    chain.del(sb, &at);
    assert_eq!(ifbs(&node), ["bwp000000000002"]);
}

/// No ifb, and no filter that could be in another program's way.
fn inside(sb: &Sandbox) {
    let mut keys = both();
    keys["egressDevice"] = "container".into();
    let (ns, chain) = (sb.container("c1"), chain(sb, &keys));
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    assert!(ifbs(&sb.node()).is_empty());
    assert_eq!(qdisc(&ns, "eth0")["options"]["rate"], 2_000_000);
    assert_eq!(qdisc(&sb.node(), &host(&at))["options"]["rate"], 1_000_000);
    chain.check(sb, &at).silent();
    ns.sh(&["tc", "qdisc", "del", "dev", "eth0", "root"]);
    chain.check(sb, &at).error().names(&["eth0", "tbf"]);
    let own = chain.plugins().last().unwrap();
    chain.call(sb, "DEL", own, &at, at.result.as_ref()).run().silent();
    assert_eq!(qdisc(&sb.node(), &host(&at))["kind"], "noqueue");
}

/// One implementation attaches, the other one checks and detaches.
fn upgrade(sb: &Sandbox, from_go: bool) {
    let (go, ours) = (go(sb), sb.with_plugins(sb.dir()));
    let (adds, checks) = if from_go { (&go, &ours) } else { (&ours, &go) };
    let ns = sb.container("c1");
    let chain = Chain::new("net", "1.0.0", &[conf::bridge(), with(&both())]);
    let mut at = Attachment::new("c1", &ns);
    at.result = Some(chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result());
    let own = &chain.plugins()[1];
    at.result = Some(chain.call(adds, "ADD", own, &at, at.result.as_ref()).run().result());
    for by in [adds, checks] {
        chain.call(by, "CHECK", own, &at, at.result.as_ref()).run().silent();
    }
    chain.call(checks, "DEL", own, &at, at.result.as_ref()).run().silent();
    assert!(ifbs(&sb.node()).is_empty());
}

fn huge_burst(sb: &Sandbox) {
    let go = go(sb);
    let keys = json!({"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u64});
    let chain = Chain::new("net", "1.0.0", &[conf::bridge(), with(&keys)]);
    let mut at = Attachment::new("c1", &sb.container("c1"));
    at.result = Some(chain.call(sb, "ADD", &chain.plugins()[0], &at, None).run().result());
    at.result = Some(chain.call(&go, "ADD", &chain.plugins()[1], &at, at.result.as_ref()).run().result());
    assert!(burst(&sb.node(), &host(&at)) > 100_000_000);
    chain.check(sb, &at).silent();
    chain.del(sb, &at);
}

fn subnets(sb: &Sandbox) {
    let ns = sb.container("c1");
    let mut conf = minimal("bandwidth", "1.0.0");
    conf["unshapedSubnets"] = json!(["10.0.0.0/8"]);
    let outcome = ready(sb, "bandwidth", "ADD", "1.0.0", &ns).conf(&conf).run();
    assert!(outcome.ok() && outcome.stderr.contains("unshapedSubnets"), "{outcome}");
}
