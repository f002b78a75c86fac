//! Queueing disciplines, the redirecting filter, ifbs and policy rules, seen by `tc` and `ip`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use cni_net::{Ifb, LinkSpec, NetError, Netlink, Place, Qdisc, QdiscKind, Rule, Tbf};
use cni_plugin::{Family, MacAddr};
use common::{json, namespace, run, veth};

private_tests! {
    fn a_token_bucket_is_what_tc_shows() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let link = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        assert_eq!(netlink.qdisc(link, Place::Root).unwrap().filter(|found| found.handle != 0), None);
        assert!(!netlink.delete_qdisc(link, Place::Root).unwrap(), "the kernel's default stays");
        let tbf = tbf(1_000_000, 100_000);
        netlink.add_qdisc(link, Place::Root, &QdiscKind::Tbf(tbf)).unwrap();
        assert_eq!(
            json("tc -j qdisc show dev veth0")[0],
            serde_json::json!({"kind": "tbf", "handle": "1:", "root": true, "refcnt": json("tc -j qdisc show dev veth0")[0]["refcnt"],
                "options": {"rate": 1_000_000, "burst": 100_000, "lat": 25_000}})
        );
        assert_eq!(netlink.qdisc(link, Place::Root).unwrap(), Some(Qdisc { handle: 1, kind: QdiscKind::Tbf(tbf) }));
        let again = netlink.add_qdisc(link, Place::Root, &QdiscKind::Tbf(tbf)).unwrap_err();
        assert!(matches!(again, NetError::Exists { .. }), "{again}");
        assert!(again.to_string().contains("veth0") && again.to_string().contains("rate 8000000bit"), "{again}");
        netlink.add_qdisc(link, Place::Inner, &QdiscKind::Bfifo(50_000)).unwrap();
        assert!(run("tc qdisc show dev veth0").contains("parent 1:1 limit 50000b"));
        assert!(netlink.delete_qdisc(link, Place::Root).unwrap());
        assert!(!netlink.delete_qdisc(link, Place::Root).unwrap());
        assert!(!netlink.delete_qdisc(99, Place::Root).unwrap());
        assert!(matches!(netlink.add_qdisc(99, Place::Root, &QdiscKind::Tbf(tbf)), Err(NetError::NoSuchLink { .. })));
    }

    fn a_rate_beyond_32_bits() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let link = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        let fast = tbf(12_500_000_000, 10_000_000);
        netlink.add_qdisc(link, Place::Root, &QdiscKind::Tbf(fast)).unwrap();
        assert!(run("tc qdisc show dev veth0").contains("rate 100Gbit"));
        assert_eq!(netlink.qdisc(link, Place::Root).unwrap().unwrap().kind, QdiscKind::Tbf(fast));
    }

    fn what_a_link_receives_is_redirected() {
        let blue = namespace("blue");
        let netlink = Netlink::open().unwrap();
        let link = netlink.create_veth(&veth("veth0", "eth0", &blue)).unwrap().host;
        let ifb = netlink
            .create_link(&LinkSpec {
                mtu: Some(1400),
                mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
                ..LinkSpec::new("ifb0".parse().unwrap(), &Ifb)
            })
            .unwrap();
        assert_eq!((ifb.kind.as_deref(), ifb.mtu, ifb.up), (Some("ifb"), 1400, false));
        assert_eq!(netlink.redirects(link).unwrap(), None);
        assert!(netlink.add_redirect(link, ifb.index).is_err(), "no ingress discipline");
        netlink.add_qdisc(link, Place::Ingress, &QdiscKind::Ingress).unwrap();
        assert_eq!(netlink.redirects(link).unwrap(), None);
        netlink.add_redirect(link, ifb.index).unwrap();
        assert_eq!(netlink.redirects(link).unwrap(), Some(vec![ifb.index]));
        let shown = run("tc filter show dev veth0 parent ffff:");
        assert!(shown.contains("match 00000000/00000000 at 0"), "{shown}");
        assert!(shown.contains("protocol all pref 1 u32") && shown.contains("Egress Redirect to device ifb0) stolen"), "{shown}");
        assert_eq!(netlink.qdisc(link, Place::Ingress).unwrap().unwrap().kind, QdiscKind::Ingress);
        netlink.delete_link(ifb.index).unwrap();
        assert_eq!(netlink.redirects(link).unwrap(), Some(vec![0]), "the filter outlives it");
        assert!(netlink.delete_qdisc(link, Place::Ingress).unwrap());
        assert_eq!(netlink.redirects(link).unwrap(), None);
    }

    fn probes_change_nothing() {
        let netlink = Netlink::open().unwrap();
        let before = run("ip -d link") + &run("tc qdisc show");
        netlink.probe_tbf().unwrap();
        netlink.probe_ifb(&"ifb0".parse().unwrap()).unwrap();
        assert_eq!(run("ip -d link") + &run("tc qdisc show"), before);
    }

    fn rules_are_added_listed_and_deleted() {
        let netlink = Netlink::open().unwrap();
        for (family, source, shown) in [
            (Family::V4, "10.0.0.5/32", "from 10.0.0.5 lookup 300"),
            (Family::V6, "fd00::5/128", "from fd00::5 lookup 300"),
        ] {
            let rule = Rule { protocol: 67, ..Rule::new(source.parse().unwrap(), 300) };
            netlink.add_rule(&rule).unwrap();
            let listed = run(&format!("ip {} rule show", if family == Family::V4 { "-4" } else { "-6" }));
            assert!(listed.contains(shown) && listed.contains("proto 67"), "{listed}");
            let found = netlink.rules(family).unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].source, found[0].table, found[0].protocol), (rule.source, 300, 67));
            assert!(matches!(netlink.add_rule(&found[0]), Err(NetError::Exists { .. })));
            assert!(netlink.tables_of_rules(family).unwrap().contains(&254));
            assert!(netlink.delete_rule(&found[0]).unwrap());
            assert!(!netlink.delete_rule(&rule).unwrap());
            assert!(netlink.rules(family).unwrap().is_empty());
        }
    }
}

fn tbf(rate: u64, burst: u32) -> Tbf {
    let limit = u32::try_from(rate / 40).unwrap() + burst;
    Tbf { rate, buffer: Tbf::buffer_of(rate, burst), limit }
}
