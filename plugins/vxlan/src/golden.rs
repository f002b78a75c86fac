//! The plans of the examples, as commands of `ip` and `bridge`, with the packet filter's rule set, compared with files that were read
//! before they were committed.

use std::net::IpAddr;

use cni_netfilter::Nftables;
use cni_plugin::Family;

use crate::config::Config;
use crate::peers;
use crate::plan::Plan;
use crate::settings::Settings;
use crate::underlay::Underlay;

/// The hosts of the network: the second one is the node.
const PEERS: &[u8] = b"192.0.2.1 10.88.1.0/24\n192.0.2.2 10.88.2.0/24\n192.0.2.3 10.88.3.0/24 02:00:00:00:03:01\n";

#[test]
fn the_examples_plans() {
    cni_testing::golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("vxlan", |example| {
        let config: Config = cni_plugin::json::decode(example.config.clone()).unwrap();
        let network = example.config["name"].as_str().unwrap().parse().unwrap();
        let settings = Settings::resolve(&config, &network).unwrap();
        let own: Vec<IpAddr> = vec!["192.0.2.2".parse().unwrap()];
        let (name, mtu) = ("UNDERLAY".to_owned(), Some(1500));
        let underlay = Underlay { name, link: Some(2), local: None, mtu, family: Family::V4, own };
        let plan = Plan::new(&settings, &underlay, &peers::parse(PEERS).unwrap()).unwrap();
        plan.to_string() + &Nftables::print_vxlan_peers(&[plan.guard])
    });
}
