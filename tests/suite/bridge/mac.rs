//! bridge: the bridge's hardware address, which no port may change, also of a bridge that no plugin made.

use cni_tests::kernel::link;
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Chain, Sandbox};
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

use super::alone;
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("survives_churn_on_a_bridge_of_others", |sb| churn(sb, &alone(sb, |_| ()))),
        improved("survives_churn_without_ipam", |sb| churn(sb, &layer2(sb))),
        improved("survives_churn_where_the_gateways_address_is_there", |sb| {
            made(sb);
            sb.node().sh(&["ip", "addr", "add", "10.77.0.1/24", "dev", "br-test"]);
            stays(sb, &alone(sb, |_| ()));
        }),
        improved("of_a_bridge_that_lost_its_ports", without_ports),
        improved("is_set_once", |sb| once(sb, || ())),
        improved("is_set_once_where_sys_is_anothers", |sb| once(sb, other_sysfs)),
    ];
    cases.push(improved("survives_churn_where_sys_is_anothers", |sb| {
        other_sysfs();
        churn(sb, &layer2(sb));
    }));
    cases
}

fn layer2(sb: &Sandbox) -> Chain {
    Chain::new("testnet", sb.newest(&["bridge"]), &[json!({"type": "bridge", "bridge": "br-test"})])
}

/// As an administrator makes one: its address is the kernel's choice, and not yet for ever.
fn made(sb: &Sandbox) {
    sb.node().sh(&["ip", "link", "add", "br-test", "type", "bridge"]);
}

/// The mount below is of the machine's namespace, in which there is no such bridge.
fn other_sysfs() {
    umount2("/sys", MntFlags::MNT_DETACH).expect("umount /sys");
}

fn mac(sb: &Sandbox) -> Value {
    link(&sb.node(), "br-test").unwrap()["address"].clone()
}

fn churn(sb: &Sandbox, chain: &Chain) {
    made(sb);
    stays(sb, chain);
}

/// Eight containers come, the first one leaves, then all, and one comes again. A port has the lowest address of all.
fn stays(sb: &Sandbox, chain: &Chain) {
    let before = mac(sb);
    let attach = |n: usize| {
        let id = format!("c{n}");
        let mut at = Attachment::new(&id, &sb.container(&id));
        let result = chain.add(sb, &mut at);
        assert_eq!((&result["interfaces"][0]["mac"], mac(sb)), (&before, before.clone()), "container {n}");
        chain.check(sb, &at).silent();
        at
    };
    let mut all: Vec<_> = (0..8).map(attach).collect();
    for words in
        ["ip link add low address 02:00:00:00:00:01 type veth peer name other", "ip link set low master br-test"]
    {
        sb.node().sh(&words.split(' ').collect::<Vec<_>>());
    }
    assert_eq!(mac(sb), before, "with a lower one");
    chain.del(sb, &all.remove(0));
    all.iter().for_each(|at| chain.check(sb, at).silent());
    all.iter().for_each(|at| chain.del(sb, at));
    sb.node().sh(&["ip", "link", "del", "low"]);
    assert_eq!(mac(sb), before, "without ports");
    attach(9);
}

/// What the Go plugin leaves behind of a layer 2 network: 00:00:00:00:00:00. Who comes first isn't known.
fn without_ports(sb: &Sandbox) {
    made(sb);
    for words in ["ip link add last type veth peer name other", "ip link set last master br-test", "ip link del last"] {
        sb.node().sh(&words.split(' ').collect::<Vec<_>>());
    }
    assert_eq!(mac(sb), "00:00:00:00:00:00");
    let chain = layer2(sb);
    let spaces: Vec<_> = (0..12).map(|n| sb.container(&format!("first{n}"))).collect();
    let attached = at_once(12, |n| {
        let mut at = Attachment::new(&spaces[n].name, &spaces[n]);
        chain.add(sb, &mut at);
        at
    });
    assert_ne!(mac(sb), "00:00:00:00:00:00");
    for at in &attached {
        chain.check(sb, at).silent();
        chain.del(sb, at);
    }
    stays(sb, &chain);
}

/// The kernel forgets a link's neighbours when its address is set, even the permanent ones.
fn once(sb: &Sandbox, prepare: impl Fn()) {
    made(sb);
    prepare();
    let chain = alone(sb, |_| ());
    chain.add(sb, &mut Attachment::new("c1", &sb.container("c1")));
    let words = "ip neigh add 10.77.0.200 lladdr 02:00:00:00:00:99 dev br-test nud permanent";
    sb.node().sh(&words.split(' ').collect::<Vec<_>>());
    chain.add(sb, &mut Attachment::new("c2", &sb.container("c2")));
    let neighbours = sb.node().sh(&["ip", "neigh", "show", "dev", "br-test"]);
    assert!(neighbours.contains("10.77.0.200"), "{neighbours}");
}
