//! Times what attaching a container takes in the process: a veth pair into a bridge, an address and a default route.
//!
//! It changes the namespace it is run in, so:
//! `unshare --net --mount cargo run --release -p cni-net --example attach -- /proc/PID/ns/net` (of another namespace).
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use cni_net::{AddressOptions, BridgeSpec, LinkChange, NetNs, Netlink, Route, VethEnd, VethSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("the container's network namespace is expected as the argument")?;
    let start = Instant::now();
    let mut steps = Vec::new();
    let mut lap = |what: &'static str| steps.push((what, start.elapsed()));

    let container = NetNs::open(path.as_ref())?;
    let host = Netlink::open()?;
    lap("namespace and first socket opened");
    host.create_bridge(&BridgeSpec { name: "cni0".parse()?, mtu: None, mac: None, vlan_filtering: false })?;
    lap("bridge there");
    let bridge = host.link_by_name("cni0")?.ok_or("no bridge")?;
    lap("bridge found");
    let mut spec = VethSpec::new(VethEnd::named("veth0".parse()?), VethEnd::named("eth0".parse()?), &container);
    spec.master = Some(bridge.index);
    let veth = host.create_veth(&spec)?;
    lap("veth pair created");
    let inside = Netlink::open_in(&container)?;
    lap("second socket opened");
    inside.add_address(veth.peer, "10.0.0.5/24".parse()?, &AddressOptions::default())?;
    lap("address added");
    inside.change_link(veth.peer, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    lap("link raised");
    inside.add_route(&Route::new("0.0.0.0/0".parse()?, Some("10.0.0.1".parse()?), veth.peer))?;
    lap("route added");
    drop((host, inside));
    lap("sockets closed");

    let mut before = 0.0;
    for (what, at) in steps {
        let at = at.as_secs_f64() * 1000.0;
        println!("{:7.3} ms  {what}", at - before);
        before = at;
    }
    println!("{before:7.3} ms  in all");
    Ok(())
}
