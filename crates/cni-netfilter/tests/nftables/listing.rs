//! The rule set as other programs list it.

use cni_netfilter::{Nftables, TableFamily};

use crate::inside::{elements, forwards, inside, masquerade, owner, run};

#[test]
fn the_listing_can_be_loaded_again() {
    inside("listing::the_listing_can_be_loaded_again", || {
        let nft = Nftables::open().unwrap();
        let masquerading = [masquerade("c1", "10.1.0.2", "10.1.0.0/24"), masquerade("c1", "fd00::2", "fd00::/64")];
        let mut ports = [
            forwards("c1", "10.1.0.2/24", &["tcp 8080 80", "udp 192.0.2.1:53 53", "sctp 5 5"]),
            forwards("c1", "fd00::2/64", &["tcp 8080 80", "udp [2001:db8::1]:53 53"]),
        ];
        ports[0].guard_localnet = true;
        nft.add_masquerade(&masquerading).unwrap();
        nft.add_ports(&ports).unwrap();
        run(
            "nft list ruleset > /run/1; nft flush ruleset; nft -f /run/1; nft list ruleset > /run/2; cmp /run/1 /run/2",
        );
        assert_eq!(nft.check_masquerade(&masquerading).unwrap(), []);
        assert_eq!(nft.check_ports(&ports).unwrap(), []);
        nft.add_ports(&[forwards("c2", "10.1.0.3/24", &["tcp 8081 80"])]).unwrap();
        nft.remove_ports(&owner("c1"), &ports).unwrap();
        assert_eq!(elements("ip cni_ports", "ports").len(), 1);
    });
}

#[test]
fn chains_of_any_program_can_be_looked_for() {
    inside("listing::chains_of_any_program_can_be_looked_for", || {
        let nft = Nftables::open().unwrap();
        assert!(!nft.chain_exists(TableFamily::Ip, "nat", "CNI-abc").unwrap());
        run("iptables-nft -t nat -N CNI-abc; ip6tables-nft -t nat -N CNI-def");
        assert!(nft.chain_exists(TableFamily::Ip, "nat", "CNI-abc").unwrap());
        assert!(!nft.chain_exists(TableFamily::Ip, "nat", "CNI-def").unwrap());
        assert!(nft.chain_exists(TableFamily::Ip6, "nat", "CNI-def").unwrap());
        assert!(!nft.chain_exists(TableFamily::Inet, "nat", "CNI-abc").unwrap());
    });
}
