//! Masquerading: what is in the rule set, and whose an address is.

use cni_netfilter::{Masquerade, Nftables};

use crate::inside::{inside, masquerade, owner, owner_in, ruleset};

#[test]
fn masquerading_is_one_element_and_one_chain_for_the_subnet() {
    inside("masquerade::masquerading_is_one_element_and_one_chain_for_the_subnet", || {
        let nft = Nftables::open().unwrap();
        nft.add_masquerade(&[masquerade("c1", "10.1.0.2", "10.1.0.1/20"), masquerade("c1", "fd00::2", "fd00::/64")])
            .unwrap();
        let rules = ruleset();
        for line in [
            "10.1.0.2 comment \"8e48f37d5de60467-f4d01f2ef4b92245, id: c1, if: eth0, net: net1\" : goto subnet-10.1.0.0/20",
            "goto subnet-fd00__/64",
            "type nat hook postrouting priority srcnat; policy accept;",
            "ip daddr 224.0.0.0/4 return\n\t\tip6 daddr ff00::/8 return\n\t\tip saddr vmap @hosts4\n\t\tip6 saddr vmap @hosts6",
            "chain subnet-10.1.0.0/20 {\n\t\tip daddr 10.1.0.0/20 return\n\t\tmasquerade",
            "chain subnet-fd00__/64 {\n\t\tip6 daddr fd00::/64 return\n\t\tmasquerade",
        ] {
            assert!(rules.contains(line), "{line} is not in\n{rules}");
        }
    });
}

#[test]
fn an_address_belongs_to_the_owner_that_got_it_last() {
    inside("masquerade::an_address_belongs_to_the_owner_that_got_it_last", || {
        let nft = Nftables::open().unwrap();
        let dead = [masquerade("c1", "10.1.0.2", "10.1.0.0/16"), masquerade("c1", "10.1.0.9", "10.1.0.0/16")];
        nft.add_masquerade(&dead).unwrap();
        let new = [masquerade("c2", "10.1.0.3", "10.1.0.0/24"), masquerade("c2", "10.1.0.2", "10.1.0.0/24")];
        assert_eq!(nft.add_masquerade(&new).unwrap(), Vec::<String>::new(), "c1 keeps nothing");
        assert_eq!(nft.check_masquerade(&new).unwrap(), []);
        assert!(ruleset().contains("10.1.0.9") && ruleset().contains("subnet-10.1.0.0/16"), "{}", ruleset());
        nft.add_masquerade(&new).unwrap();
        // The DEL of the former holder comes after all.
        nft.remove_masquerade(&owner("c1"), &["10.1.0.2".parse().unwrap()]).unwrap();
        assert_eq!(nft.check_masquerade(&new).unwrap(), []);
        assert!(!ruleset().contains("id: c1") && !ruleset().contains("10.1.0.0/16"), "{}", ruleset());
        nft.remove_masquerade(&owner("c2"), &[]).unwrap();
        assert!(!ruleset().contains("id: c2"), "{}", ruleset());
    });
}

#[test]
fn an_address_stays_with_a_holder_of_another_network_that_may_be_alive() {
    inside("masquerade::an_address_stays_with_a_holder_of_another_network_that_may_be_alive", || {
        let nft = Nftables::open().unwrap();
        let first = [masquerade("c1", "10.1.0.2", "10.1.0.0/16")];
        nft.add_masquerade(&first).unwrap();
        let of = |address| Masquerade { owner: owner_in("net2", "c2"), ..masquerade("c2", address, "10.1.0.0/16") };
        let second = [of("10.1.0.2"), of("10.1.0.3")];
        assert_eq!(nft.add_masquerade(&second).unwrap(), ["container c1 (eth0) of network net1"]);
        assert_eq!(nft.check_masquerade(&first).unwrap(), []);
        assert_eq!(nft.check_masquerade(&second[1..]).unwrap(), [], "its other address is its own");
    });
}
