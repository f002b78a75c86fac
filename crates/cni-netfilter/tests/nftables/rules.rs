//! What is in the rule set after each operation.

use cni_netfilter::{NftError, Nftables, Snat, TableFamily};

use crate::inside::{elements, forwards, inside, masquerade, output, owner, owner_in, ruleset, run};

#[test]
fn first() {
    inside("rules::first", || {
        let nft = Nftables::open().unwrap();
        let t = std::time::Instant::now();
        nft.usable().unwrap();
        eprintln!("usable {:?}", t.elapsed());
        assert_eq!(ruleset(), "");
        for i in 0..4 {
            let t = std::time::Instant::now();
            nft.add_masquerade(&[
                masquerade(&format!("c{i}"), &format!("10.1.0.{i}"), "10.1.0.0/20"),
                masquerade(&format!("c{i}"), &format!("fd00:1::{i}"), "fd00:1::/64"),
            ])
            .unwrap();
            eprintln!("masq {:?}", t.elapsed());
            let t = std::time::Instant::now();
            nft.add_ports(&[
                forwards(
                    &format!("c{i}"),
                    &format!("10.1.0.{i}/20"),
                    &[&format!("tcp 808{i} 80"), &format!("udp 10.0.0.1:5{i} 53")],
                ),
                forwards(&format!("c{i}"), &format!("fd00:1::{i}/64"), &[&format!("tcp 808{i} 80")]),
            ])
            .unwrap();
            eprintln!("ports {:?}", t.elapsed());
        }
        let t = std::time::Instant::now();
        eprintln!("{:?}", nft.check_masquerade(&[masquerade("c1", "10.1.0.1", "10.1.0.0/20")]).unwrap());
        eprintln!("check {:?}", t.elapsed());
        eprintln!("{:?}", nft.check_ports(&[forwards("c1", "10.1.0.1/20", &["tcp 8081 80"])]).unwrap());
        eprintln!("{}", ruleset());
        run(
            "nft list ruleset > /run/r; nft flush ruleset; nft -f /run/r; nft list ruleset > /run/r2; cmp /run/r /run/r2",
        );
        let t = std::time::Instant::now();
        nft.remove_masquerade(&owner("c1"), &["10.1.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()]).unwrap();
        eprintln!("remove {:?}", t.elapsed());
        for i in 0..4 {
            let t = std::time::Instant::now();
            nft.remove_masquerade(&owner(&format!("c{i}")), &[]).unwrap();
            nft.remove_ports(&owner(&format!("c{i}")), &[]).unwrap();
            eprintln!("remove {:?}", t.elapsed());
        }
        eprintln!("{}", ruleset());
    });
}
