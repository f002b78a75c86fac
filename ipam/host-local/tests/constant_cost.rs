//! The cost of a call doesn't grow: it makes as many system calls with few reservations as with many.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // clippy knows #[test] functions only

mod common;

use std::fs;

use common::kill::{strace_is_here, trace};
use common::{Network, OURS};
use serde_json::{Value, json};

/// A network with `count` reservations from .0.2 on, but for `gaps` of them, spread over the range; and an index.
fn network(subnet: &str, count: u32, gaps: u32) -> Network {
    let network = Network::new(json!([[{"subnet": subnet}]]));
    fs::create_dir(network.dir()).unwrap();
    let every = count.checked_div(gaps).unwrap_or(u32::MAX);
    for host in (2..count + 2).filter(|host| host % every != every / 2) {
        let name = format!("10.0.{}.{}", host >> 8, host & 255);
        fs::write(network.dir().join(name), format!("c{host}\r\neth0")).unwrap();
    }
    network.del(OURS, "none").unwrap();
    network
}

/// How many system calls ADD, CHECK and DEL make.
fn costs(network: &Network) -> [usize; 3] {
    let cost = |verb: &str, conf: &Value| trace(network, verb, conf, &[]).len();
    let before: Vec<_> = network.reservations().into_keys().collect();
    let add = cost("ADD", &network.conf_1_0());
    let given = network.reservations().into_keys().find(|ip| !before.contains(ip)).unwrap();
    let mut conf = network.conf_1_0();
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": format!("{given}/32")}]});
    [add, cost("CHECK", &conf), cost("DEL", &conf)]
}

#[test]
fn many_reservations_cost_what_few_do() {
    if !strace_is_here() {
        return;
    }
    let few = costs(&network("10.0.0.0/20", 3, 0));
    let cases = [
        ("1 000 reservations", network("10.0.0.0/20", 1000, 0)),
        ("4 000 reservations", network("10.0.0.0/20", 4000, 0)),
        ("16 of a /20 free", network("10.0.0.0/20", 4093, 16)),
        ("few in a /8", network("10.0.0.0/8", 3, 0)),
        ("few in a /64", network("fd00::/64", 3, 0)),
    ];
    for (name, network) in &cases {
        let costs = costs(network);
        println!("{name}: ADD, CHECK, DEL make {costs:?} system calls; with 3 reservations {few:?}");
        for (cost, few) in costs.iter().zip(few) {
            // A look-up may need another read or two, depending on what lies beside it in the table.
            assert!(*cost <= few + 8, "{name}: {costs:?}, with 3 reservations {few:?}");
        }
    }
}
