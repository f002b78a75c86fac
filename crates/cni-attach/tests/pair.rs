//! The pair of an attachment, seen by `ip -d -j link`.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

#[path = "../../cni-net/tests/common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cni_attach::Sides;
use cni_attach::pair::{self, Pair, PairError, PairSpec};
use cni_attach::sides::RepeatError;
use cni_net::{NetNs, Netlink};
use cni_plugin::{Attachment, CniArgs, Detachment, IfName, Lock, Owner, Undo};
use common::{first, json, namespace, run};

fn owner(network: &str, id: &str) -> Owner {
    Owner { network: network.parse().unwrap(), container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() }
}

fn path(name: &str) -> PathBuf {
    format!("/run/netns/{name}").into()
}

fn attachment(owner: &Owner, netns: &str) -> Attachment {
    Attachment { owner: owner.clone(), netns: path(netns), args: CniArgs::default() }
}

fn detachment(owner: &Owner, netns: Option<&str>) -> Detachment {
    Detachment { owner: owner.clone(), netns: netns.map(path), args: CniArgs::default() }
}

fn create(owner: &Owner, namespace: &NetNs, undo: &mut Undo) -> Pair {
    let sides = Sides::open(namespace.path()).unwrap();
    pair::create(&sides, &PairSpec { mtu: Some(1400), ..PairSpec::of(owner) }, undo).unwrap()
}

fn create_named(owner: &Owner, namespace: &NetNs, names: &[&str]) -> Result<Pair, PairError> {
    let names: Vec<IfName> = names.iter().map(|name| name.parse().unwrap()).collect();
    let sides = Sides::open(namespace.path()).unwrap();
    let mut undo = Undo::new();
    let made = pair::create(&sides, &PairSpec { names: &names, ..PairSpec::of(owner) }, &mut undo)?;
    undo.commit();
    Ok(made)
}

fn veths() -> usize {
    json("ip -j link show type veth").as_array().unwrap().len()
}

private_tests! {
    fn a_pair_says_whose_it_is_and_is_found_by_it() {
        let blue = namespace("blue");
        let socket = Netlink::open().unwrap();
        let owner = owner("net", "c1");
        let mut undo = Undo::new();
        let made = create(&owner, &blue, &mut undo);
        undo.commit();

        let host = first(&format!("ip -d -j link show dev {}", made.host_name));
        assert_eq!(host["address"], made.host_mac.to_string());
        assert_eq!((&host["mtu"], &host["ifalias"]), (&1400.into(), &"cni net c1 eth0".into()));
        assert_eq!(host["altnames"][0], format!("cni-{}", owner.key()));
        let inside = first("ip -n blue -d -j link show dev eth0");
        assert_eq!((&inside["address"], &inside["mtu"]), (&made.container_mac.to_string().into(), &1400.into()));
        assert_eq!(run(&format!("sysctl -n net.ipv6.conf.{}.accept_ra", made.host_name)).trim(), "0");
        assert_eq!(pair::find(&socket, &owner).unwrap().unwrap().index, made.host_index);
        // Its maker was killed before the name could be given.
        run(&format!("ip link property del dev {} altname cni-{}", made.host_name, owner.key()));
        assert_eq!(pair::find(&socket, &owner).unwrap().unwrap().index, made.host_index);
    }

    fn an_undone_pair_is_gone() {
        let blue = namespace("blue");
        let mut undo = Undo::new();
        create(&owner("net", "c1"), &blue, &mut undo);
        assert_eq!(veths(), 1);
        drop(undo);
        assert_eq!(veths(), 0);
    }

    fn a_second_attachment_is_refused_in_the_same_namespace_and_in_another() {
        let (blue, _green) = (namespace("blue"), namespace("green"));
        let owner = owner("net", "c1");
        let refused = |netns: &str| {
            Sides::open(&path(netns)).unwrap().refuse_repeat(&attachment(&owner, netns), &mut Undo::new())
        };
        refused("blue").unwrap();
        let mut undo = Undo::new();
        create(&owner, &blue, &mut undo);
        assert!(matches!(refused("blue"), Err(RepeatError::InterfaceExists { .. })));
        assert!(matches!(refused("green"), Err(RepeatError::Attached { .. })));
    }

    fn a_name_that_is_taken_is_left_alone() {
        let blue = namespace("blue");
        let socket = Netlink::open().unwrap();
        let owner = owner("net", "c1");
        let names: Vec<String> = pair::host_names(&owner).map(|name| name.to_string()).collect();
        run(&format!("ip link add {} type bridge", names[0]));
        let mut undo = Undo::new();
        assert_eq!(create(&owner, &blue, &mut undo).host_name.as_str(), names[1]);
        assert_eq!(pair::find(&socket, &owner).unwrap().unwrap().name, names[1]);
    }

    fn a_name_of_ones_own_comes_after_the_owner() {
        let blue = namespace("blue");
        let socket = Netlink::open().unwrap();
        let owner = owner("net", "c1");
        run("ip link add mine type bridge");
        let made = create_named(&owner, &blue, &["mine", "mine2"]).unwrap();
        assert_eq!(made.host_name.as_str(), "mine2");
        let host = first("ip -d -j link show dev mine2");
        assert_eq!((&host["ifindex"], &host["ifalias"]), (&made.host_index.into(), &"cni net c1 eth0".into()));
        assert!(host["flags"].as_array().unwrap().contains(&"UP".into()), "{host}");
        assert_eq!(run("sysctl -n net.ipv6.conf.mine2.accept_ra").trim(), "0");
        assert_eq!(pair::find(&socket, &owner).unwrap().unwrap().index, made.host_index);
    }

    fn a_name_that_is_taken_is_reported_and_leaves_nothing() {
        let blue = namespace("blue");
        run("ip link add mine type bridge");
        let refused = create_named(&owner("net", "c1"), &blue, &["mine"]).unwrap_err();
        assert_eq!(refused.to_string(), "the name \"mine\" belongs to another link (bridge)");
        assert_eq!(veths(), 0);
    }

    fn an_attachment_waits_for_its_lock_and_for_no_other() {
        let (one, two) = (owner("net", "c1"), owner("net", "c2"));
        let held = Lock::of_attachment(&one).unwrap();
        drop((Lock::of_attachment(&two).unwrap(), Lock::to_delete_shared_links().unwrap()));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::of_attachment(&one).map(|_| begin.elapsed()).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
            assert!(waiting.join().unwrap() >= Duration::from_millis(50));
        });
    }

    fn deleting_needs_no_namespace_and_spares_other_owners() {
        let blue = namespace("blue");
        let (ours, others) = (owner("net", "c1"), owner("other", "c1"));
        let mut undo = Undo::new();
        create(&others, &blue, &mut undo);
        // The interface of this name is another network's.
        pair::delete(&detachment(&ours, Some("blue")), None).unwrap();
        assert_eq!(veths(), 1);
        for _ in 0..2 {
            pair::delete(&detachment(&others, None), None).unwrap();
            assert_eq!(veths(), 0);
        }
        pair::delete(&detachment(&others, Some("never-was")), None).unwrap();
        undo.commit();
        // One that the Go plugin made says nothing about its owner.
        run("ip link add vethgo type veth peer name eth0 netns blue");
        pair::delete(&detachment(&ours, Some("blue")), None).unwrap();
        assert_eq!(veths(), 0);
    }

    fn collecting_keeps_the_valid_and_other_networks() {
        let socket = Netlink::open().unwrap();
        let owners = [owner("net", "stays"), owner("net", "goes"), owner("other", "c1")];
        let mut undo = Undo::new();
        for (owner, name) in owners.iter().zip(["a", "b", "c"]) {
            create(owner, &namespace(name), &mut undo);
        }
        undo.commit();
        run("ip link add vethgo type veth peer name vethgo2");
        pair::retain(&owners[0].network, &owners[..1]).unwrap();
        let there: Vec<bool> = owners.iter().map(|owner| pair::find(&socket, owner).unwrap().is_some()).collect();
        assert_eq!(there, [true, false, true]);
        assert_eq!(veths(), 4);
    }
}
