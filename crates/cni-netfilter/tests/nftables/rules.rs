//! What is in the rule set after each operation.

use cni_netfilter::{NftError, Nftables, Snat, TableFamily};

use crate::inside::{elements, forwards, inside, masquerade, output, owner, owner_in, ruleset, run};

#[test]
fn measure() {
    inside("rules::measure", || {
        let nft = Nftables::open().unwrap();
        let time = |what: &str, f: &dyn Fn()| {
            let t = std::time::Instant::now();
            f();
            eprintln!("{what}: {:?}", t.elapsed());
        };
        for _ in 0..3 {
            time("usable", &|| nft.usable().unwrap());
        }
        time("frame", &|| nft.add_masquerade(&[masquerade("c1", "10.1.0.1", "10.1.0.0/16")]).unwrap());
        for i in 2..8 {
            time("new subnet", &|| {
                nft.add_masquerade(&[masquerade("c1", &format!("10.{i}.0.1"), &format!("10.{i}.0.0/16"))]).unwrap()
            });
        }
        for i in 2..8 {
            time("same", &|| {
                nft.add_masquerade(&[masquerade("c1", &format!("10.{i}.0.1"), &format!("10.{i}.0.0/16"))]).unwrap()
            });
        }
        for i in 2..8 {
            time("again", &|| nft.add_masquerade(&[masquerade("c1", &format!("10.1.0.{i}"), "10.1.0.0/16")]).unwrap());
        }
        let many: Vec<_> = (0..10_000)
            .map(|i| masquerade(&format!("c{i}"), &format!("10.1.{}.{}", 1 + i / 250, i % 250), "10.1.0.0/16"))
            .collect();
        time("10000 hosts", &|| nft.add_masquerade(&many).unwrap());
        for i in 2..8 {
            time("one with 10000", &|| {
                nft.add_masquerade(&[masquerade("d1", &format!("10.1.200.{i}"), "10.1.0.0/16")]).unwrap()
            });
        }
        for i in 2..8 {
            time("remove with 10000", &|| {
                nft.remove_masquerade(&owner("d1"), &[format!("10.1.200.{i}").parse().unwrap()]).unwrap()
            });
        }
        time("check with 10000", &|| assert!(nft.check_masquerade(&many[..1]).unwrap().is_empty()));
        time("walk with 10000", &|| nft.remove_masquerade(&owner("d1"), &[]).unwrap());
        time("gc with 10000", &|| nft.retain_masquerade(&owner("d1").network, &[]).unwrap());
        let texts: Vec<String> = (0..10_000).map(|i| format!("tcp {} {}", 10000 + i, 10000 + i)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let ports = forwards("p", "10.1.0.2/16", &texts);
        time("10000 ports", &|| nft.add_ports(std::slice::from_ref(&ports)).unwrap());
        time("10000 ports again", &|| nft.add_ports(std::slice::from_ref(&ports)).unwrap());
        for i in 2..8 {
            time("one port with 10000", &|| {
                nft.add_ports(&[forwards("p2", "10.1.0.3/16", &[&format!("tcp {i} 80")])]).unwrap()
            });
        }
        time("check 10000", &|| assert!(nft.check_ports(std::slice::from_ref(&ports)).unwrap().is_empty()));
        time("remove one", &|| {
            nft.remove_ports(&owner("p2"), &[forwards("p2", "10.1.0.3/16", &["tcp 2 80"])]).unwrap()
        });
        time("remove one walking", &|| nft.remove_ports(&owner("p2"), &[]).unwrap());
        time("remove 10000 ports", &|| nft.remove_ports(&owner("p"), &[ports.clone()]).unwrap());
        let t = std::time::Instant::now();
        drop(nft);
        eprintln!("close {:?}", t.elapsed());
    });
}
