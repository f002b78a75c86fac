//! Ports that several containers share.

use cni_netfilter::{NftError, Nftables, PortForwards};

use crate::inside::{elements, forwards, handles, inside, on_network, output, owner, owner_in, ruleset, run, shared};

const PORTS: [&str; 3] = ["tcp 1 80", "udp 1 80", "tcp 10.9.9.9:2 80"];

/// What `c<n>` publishes as a member of `web`.
fn member(n: u8) -> [PortForwards; 2] {
    let id = format!("c{n}");
    let four = forwards(&id, &format!("10.1.0.{n}/24"), &PORTS);
    [shared("web", four), shared("web", forwards(&id, &format!("fd00::{n}/64"), &["tcp 1 80"]))]
}

/// The targets of `tcp 1` and its chain, by rank, as `nft` lists them.
fn members() -> String {
    let listed = output("nft list map ip cni_ports members");
    let target = |rank: usize| {
        let line = listed.lines().find(|line| line.contains(&format!("tcp . 1 . {rank} comment")))?;
        Some(line.rsplit_once(" : ")?.1.split(' ').next()?.trim_start_matches("10.1.0.").to_owned())
    };
    let chain = elements("ip cni_ports", "shares").iter().find_map(|element| {
        let text = element.to_string();
        text.contains("\"tcp\"").then(|| text.split("any-of-").nth(1).unwrap().split('"').next().unwrap().to_owned())
    });
    let targets: Vec<String> = (0..).map_while(target).collect();
    format!("{} of {}", targets.join(" "), chain.unwrap_or_default())
}

fn sound(nft: &Nftables, ns: &[u8]) {
    for n in ns {
        assert_eq!(nft.check_ports(&member(*n)).unwrap(), [], "c{n} {}", ruleset());
    }
}

#[test]
fn members_come_and_go() {
    inside("shares::members_come_and_go", || {
        let nft = Nftables::open().unwrap();
        for (n, expected) in [(2, "2 of 1"), (3, "2 3 of 2"), (4, "2 3 4 of 3"), (5, "2 3 4 5 of 4")] {
            nft.add_ports(&member(n)).unwrap();
            assert_eq!(members(), expected);
            let before = handles();
            nft.add_ports(&member(n)).unwrap();
            assert_eq!(handles(), before, "repeated, it changes nothing");
            sound(&nft, &(2..=n).collect::<Vec<_>>());
        }
        assert_eq!(elements("ip cni_ports", "ports").len(), 2, "the element itself is one member's");
        // One in the middle, with hints and without; then the holder of the element.
        let removed = nft.remove_ports(&owner("c3"), &member(3)).unwrap();
        assert!(member(3).iter().flat_map(|of| &of.ports).all(|port| removed.contains(port)), "{removed:?}");
        assert_eq!(members(), "2 5 4 of 3");
        sound(&nft, &[2, 4, 5]);
        nft.remove_ports(&owner("c2"), &[]).unwrap();
        assert_eq!(members(), "4 5 of 2");
        sound(&nft, &[4, 5]);
        assert!(ruleset().contains("any-of-2") && !ruleset().contains("any-of-3"), "{}", ruleset());
        nft.retain_ports(&"net1".parse().unwrap(), &[owner("c5")]).unwrap();
        assert_eq!(members(), "5 of 1");
        sound(&nft, &[5]);
        nft.remove_ports(&owner("c5"), &[]).unwrap();
        assert!(!ruleset().contains("id: c") && !ruleset().contains("any-of"), "{}", ruleset());
    });
}

#[test]
fn who_does_not_share_is_refused() {
    inside("shares::who_does_not_share_is_refused", || {
        let nft = Nftables::open().unwrap();
        nft.add_ports(&member(2)).unwrap();
        nft.add_ports(&member(3)).unwrap();
        let before = handles();
        let alone = || forwards("c4", "10.1.0.4/24", &["udp 1 80"]);
        let of_sibling = PortForwards { owner: owner_in("net9", "c3"), ..forwards("c3", "10.9.0.3/24", &["udp 1 80"]) };
        for (refused, holder) in [(alone(), "c2"), (shared("api", alone()), "c2"), (of_sibling, "c2")] {
            let error = nft.add_ports(std::slice::from_ref(&refused)).unwrap_err();
            assert!(matches!(&error, NftError::HeldBy { .. }), "{error:?}");
            let expected = format!("host port 1 udp is held by container {holder} (eth0) of network net1");
            assert!(error.to_string().starts_with(&expected), "{error}");
            assert_eq!(handles(), before, "nothing changes");
            let found = nft.check_ports(&[refused]).unwrap();
            assert!(found.iter().any(|found| found.to_string().contains("held by container c2")), "{found:?}");
        }
        // And a port that is not shared refuses those who would.
        nft.add_ports(&[forwards("c5", "10.1.0.5/24", &["tcp 7 80"])]).unwrap();
        let error = nft.add_ports(&[shared("web", forwards("c6", "10.1.0.6/24", &["tcp 7 80"]))]).unwrap_err();
        assert!(error.to_string().contains("held by container c5"), "{error}");
        // A member that no longer shares would have to have the port for itself.
        let error = nft.add_ports(&[forwards("c3", "10.1.0.3/24", &["udp 1 80"])]).unwrap_err();
        assert!(error.to_string().contains("held by container c2"), "{error}");
        let renamed = shared("api", forwards("c2", "10.1.0.2/24", &["udp 1 80"]));
        let error = nft.add_ports(std::slice::from_ref(&renamed)).unwrap_err();
        assert!(error.to_string().contains("held by container c3"), "{error}");
        nft.remove_ports(&owner("c3"), &[]).unwrap();
        nft.add_ports(std::slice::from_ref(&renamed)).unwrap();
        assert_eq!(nft.check_ports(std::slice::from_ref(&renamed)).unwrap(), []);
        assert!(!output("nft list table ip cni_ports").contains("share: web,"), "{}", ruleset());
        let other = nft.check_ports(&[shared("web", forwards("c2", "10.1.0.2/24", &["udp 1 80"]))]).unwrap();
        assert!(other.len() == 1 && other[0].to_string().contains("another share"), "{other:?}");
        nft.add_ports(&[forwards("c2", "10.1.0.2/24", &["udp 1 80"])]).unwrap();
        let left = output("nft list table ip cni_ports");
        assert!(!left.contains("share: ") && !left.contains("any-of"), "{left}");
    });
}

#[test]
fn a_wrong_or_missing_member_is_named_and_mended() {
    inside("shares::a_wrong_or_missing_member_is_named_and_mended", || {
        let nft = Nftables::open().unwrap();
        (2..=4).for_each(|n| drop(nft.add_ports(&member(n)).unwrap()));
        let comment = format!("comment \"{}\"", owner("c3").comment());
        for (broken, named, of) in [
            (
                "nft delete element ip cni_ports members '{ tcp . 1 . 1 }'".to_owned(),
                "member 1 of host port 1 tcp: expected present",
                3,
            ),
            (
                format!(
                    "nft delete element ip cni_ports members '{{ tcp . 1 . 1 }}'; \
                     nft add element ip cni_ports members '{{ tcp . 1 . 1 {comment} : 10.1.0.9 . 80 }}'"
                ),
                "member 1 of host port 1 tcp: expected 10.1.0.3:80, found 10.1.0.9:80",
                3,
            ),
            (
                "nft flush chain ip cni_ports any-of-3".to_owned(),
                "of nftables chain ip cni_ports any-of-3: expected present",
                4,
            ),
            (
                "nft delete element ip cni_ports shares '{ tcp . 1 }'".to_owned(),
                "choice of a member of host port 1 tcp: expected present",
                2,
            ),
            (
                "nft delete element ip cni_ports address_members '{ 10.9.9.9 . tcp . 2 . 2 }'".to_owned(),
                "member 2 of host port 10.9.9.9:2 tcp",
                4,
            ),
        ] {
            run(&broken);
            let found = nft.check_ports(&member(of)).unwrap();
            assert!(found.iter().any(|found| found.to_string().contains(named)), "{broken}: {found:?}");
            nft.add_ports(&member(of)).unwrap();
            // Without the choice it is not known who the others are.
            (2..=4).for_each(|n| drop(nft.add_ports(&member(n)).unwrap()));
            sound(&nft, &[2, 3, 4]);
            assert!(members().ends_with("of 3"), "{broken}: {}", ruleset());
        }
        run("nft flush table ip cni_ports");
        nft.add_ports(&[forwards("x", "10.1.0.77/24", &["tcp 77 80"])]).unwrap();
        sound(&nft, &[2, 3, 4]);
        (2..=4).for_each(|n| drop(nft.remove_ports(&owner(&format!("c{n}")), &[]).unwrap()));
        assert!(!ruleset().contains("id: c") && !ruleset().contains("any-of"), "{}", ruleset());
    });
}

/// Runtimes pass the ports to each of a container's networks: it is a member once.
#[test]
fn a_container_is_a_member_by_one_of_its_networks() {
    inside("shares::a_container_is_a_member_by_one_of_its_networks", || {
        let nft = Nftables::open().unwrap();
        nft.add_ports(&member(2)).unwrap();
        let net = |n: u8| on_network(n + 4, &["tcp 1 80"], &[]).map(|of| shared("web", of));
        let check = |n: u8| assert_eq!(nft.check_ports(&net(n)).unwrap(), [], "{n} {}", ruleset());
        for n in [1, 2, 3] {
            nft.add_ports(&net(n)).unwrap();
        }
        nft.add_ports(&member(4)).unwrap();
        for _ in 0..2 {
            assert_eq!(
                (members().as_str(), elements("ip cni_ports", "claims").len()),
                ("2 10.5.0.2 4 of 3", 2),
                "{}",
                ruleset()
            );
            [1, 2, 3].into_iter().for_each(check);
            nft.add_ports(&net(2)).unwrap();
        }
        nft.remove_ports(&owner_in("net5", "c1"), &[]).unwrap();
        assert_eq!(
            (members().as_str(), elements("ip cni_ports", "claims").len()),
            ("2 10.6.0.2 4 of 3", 1),
            "{}",
            ruleset()
        );
        [2, 3].into_iter().for_each(check);
        nft.remove_ports(&owner("c2"), &member(2)).unwrap();
        assert_eq!(members(), "4 10.6.0.2 of 2");
        nft.remove_ports(&owner("c4"), &member(4)).unwrap();
        [2, 3].into_iter().for_each(check);
        nft.remove_ports(&owner_in("net6", "c1"), &[]).unwrap();
        assert_eq!(
            (members().as_str(), elements("ip cni_ports", "claims").len()),
            ("10.7.0.2 of 1", 0),
            "{}",
            ruleset()
        );
        check(3);
        nft.remove_ports(&owner_in("net7", "c1"), &net(3)).unwrap();
        assert!(!ruleset().contains("id: c") && !ruleset().contains("any-of"), "{}", ruleset());
    });
}

#[test]
fn a_port_less_leaves_its_share() {
    inside("shares::a_port_less_leaves_its_share", || {
        let nft = Nftables::open().unwrap();
        (2..=3).for_each(|n| drop(nft.add_ports(&member(n)).unwrap()));
        let fewer = [shared("web", forwards("c2", "10.1.0.2/24", &["udp 1 80"]))];
        let (_, withdrawn) = nft.add_ports(&fewer).unwrap();
        assert!(withdrawn.contains(&member(2)[0].ports[0]), "{withdrawn:?}");
        assert_eq!(members(), "3 of 1");
        assert_eq!(nft.check_ports(&fewer).unwrap(), []);
        sound(&nft, &[3]);
        let mut moved = member(3);
        moved[0].ports.iter_mut().for_each(|port| port.to.set_port(8080));
        moved[0] = shared("web", moved[0].clone());
        nft.add_ports(&moved).unwrap();
        assert_eq!(nft.check_ports(&moved).unwrap(), [], "{}", ruleset());
        assert_eq!(nft.check_ports(&fewer).unwrap(), []);
    });
}

/// Excluded addresses come first, and then the choice.
#[test]
fn a_member_with_excluded_addresses() {
    inside("shares::a_member_with_excluded_addresses", || {
        let nft = Nftables::open().unwrap();
        let of = |n: u8| {
            let [mut four, _] = member(n);
            four.exclude = vec!["192.0.2.53".parse().unwrap()];
            [four]
        };
        let check = |n| assert_eq!(nft.check_ports(&of(n)).unwrap(), [], "{n} {}", ruleset());
        for n in 2..=4 {
            nft.add_ports(&of(n)).unwrap();
        }
        (2..=4).for_each(check);
        assert_eq!(elements("ip cni_ports", "conditions").len(), 2, "{}", ruleset());
        nft.remove_ports(&owner("c2"), &of(2)).unwrap();
        (3..=4).for_each(check);
        assert_eq!(elements("ip cni_ports", "conditions").len(), 2, "{}", ruleset());
        nft.remove_ports(&owner("c4"), &[]).unwrap();
        nft.remove_ports(&owner("c3"), &[]).unwrap();
        assert!(!ruleset().contains("id: c") && !ruleset().contains("when-"), "{}", ruleset());
    });
}
