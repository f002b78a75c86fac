//! vxlan: one network on several hosts, each of them a namespace on one switch.

pub(crate) mod check;
pub(crate) mod guard;
pub(crate) mod input;
pub(crate) mod life;
pub(crate) mod mtu;
pub(crate) mod peers;
pub(crate) mod reach;

use std::fs;

use cni_tests::run::Outcome;
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel, verdict};
use serde_json::{Value, json};

/// Where the hosts' peers are listed, unless a case has other files.
const PEERS: &str = "/run/peers";
/// The plugins of a stretched network.
const PLUGINS: [&str; 3] = ["bridge", "host-local", "vxlan"];

/// A host of the network: number 1 has 192.0.2.1 and 2001:db8::1 on `eth0`, and hands out 10.1.1.0/24 and fd00:1::1:0/112.
#[derive(Debug, Clone)]
struct Host {
    number: usize,
    ns: Netns,
}

/// A container on a host.
struct Container {
    ns: Netns,
    at: Attachment,
}

/// So many hosts on one switch, with a file that lists the IPv4 addresses of all.
fn hosts(sb: &Sandbox, count: usize) -> Vec<Host> {
    let node = sb.node();
    if !node.holds(&["ip", "link", "add", "probe", "type", "vxlan", "id", "1", "dstport", "4789"]) {
        verdict::skip("this kernel has no VXLAN (CONFIG_VXLAN)");
    }
    node.sh(&["ip", "link", "del", "probe"]);
    let switch = sb.container("switch");
    // As large as any of the cases needs it.
    switch.sh(&["ip", "link", "add", "sw", "mtu", "9000", "type", "bridge"]);
    switch.sh(&["ip", "link", "set", "sw", "up"]);
    let hosts: Vec<Host> = (1..=count).map(|number| host(sb, &switch, number, number)).collect();
    list(&hosts, false);
    hosts
}

/// A host with the addresses that end in `address`.
fn host(sb: &Sandbox, switch: &Netns, number: usize, address: usize) -> Host {
    let name = format!("h{number}");
    let ns = sb.container(&name);
    let port = format!("p{number}");
    switch.sh(&["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name]);
    switch.sh(&["ip", "link", "set", &port, "mtu", "9000", "master", "sw", "up"]);
    ns.sh(&["ip", "link", "set", "lo", "up"]);
    ns.sh(&["ip", "addr", "add", &format!("192.0.2.{address}/24"), "dev", "eth0"]);
    ns.sh(&["ip", "addr", "add", &format!("2001:db8::{address}/64"), "dev", "eth0", "nodad"]);
    ns.sh(&["ip", "link", "set", "eth0", "up"]);
    Host { number, ns }
}

/// Writes the file of the peers, as programs should: by rename.
fn write(text: &str) {
    fs::write("/run/.peers", text).unwrap();
    fs::rename("/run/.peers", PEERS).unwrap();
}

/// All of these hosts, by their addresses of one family.
fn list(hosts: &[Host], v6: bool) {
    write(&hosts.iter().map(|host| format!("{}\n", host.underlay(v6))).collect::<String>());
}

impl Host {
    fn underlay(&self, v6: bool) -> String {
        if v6 { format!("2001:db8::{}", self.number) } else { format!("192.0.2.{}", self.number) }
    }

    /// A bridge with this host's part of the network's subnets, and `vxlan` with further keys behind it.
    fn chain(&self, sb: &Sandbox, keys: &Value) -> Chain {
        self.chain_behind(sb.newest(&PLUGINS), &json!({}), keys)
    }

    /// The same with keys of the bridge.
    fn chain_behind(&self, version: &str, of_bridge: &Value, keys: &Value) -> Chain {
        let n = self.number;
        let ranges = json!([
            [{"subnet": "10.1.0.0/16", "rangeStart": format!("10.1.{n}.2"), "rangeEnd": format!("10.1.{n}.254"),
              "gateway": format!("10.1.{n}.1")}],
            [{"subnet": "fd00:1::/64", "rangeStart": format!("fd00:1::{n}:2"), "rangeEnd": format!("fd00:1::{n}:ffff"),
              "gateway": format!("fd00:1::{n}:1")}],
        ]);
        let mut bridge = json!({
            "type": "bridge", "bridge": "br-net", "isDefaultGateway": true,
            "ipam": {"type": "host-local", "ranges": ranges, "dataDir": format!("/run/ipam{n}")}
        });
        with(&mut bridge, of_bridge);
        let mut vxlan = json!({"type": "vxlan", "vni": 42, "dev": "eth0", "peers": PEERS});
        with(&mut vxlan, keys);
        Chain::new("net", version, &[bridge, vxlan])
    }

    /// Attaches a new container, which has to succeed.
    #[track_caller]
    fn attach(&self, sb: &Sandbox, chain: &Chain, id: &str) -> Container {
        self.try_attach(sb, chain, id).unwrap_or_else(|outcome| panic!("{outcome}"))
    }

    fn try_attach(&self, sb: &Sandbox, chain: &Chain, id: &str) -> Result<Container, Outcome> {
        let ns = sb.container(id);
        let mut at = Attachment::new(id, &ns);
        self.ns.run(|| chain.try_add(sb, &mut at)).map(|_| Container { ns, at })
    }

    #[track_caller]
    fn check(&self, sb: &Sandbox, chain: &Chain, of: &Container) {
        self.ns.run(|| chain.check(sb, &of.at)).silent();
    }

    /// CHECK has to name these.
    #[track_caller]
    fn check_names(&self, sb: &Sandbox, chain: &Chain, of: &Container, parts: &[&str]) {
        self.ns.run(|| chain.check(sb, &of.at)).error().names(parts);
    }

    #[track_caller]
    fn del(&self, sb: &Sandbox, chain: &Chain, of: &Container) {
        self.ns.run(|| chain.del(sb, &of.at));
    }

    /// A call of `vxlan` alone.
    fn call(&self, sb: &Sandbox, verb: &str, chain: &Chain, of: &Attachment) -> Outcome {
        let plugin = chain.plugins().last().unwrap();
        let call = chain.call(sb, verb, plugin, of, of.result.as_ref());
        self.ns.run(|| call.run())
    }

    fn has_device(&self, name: &str) -> bool {
        kernel::link(&self.ns, name).is_some()
    }

    /// Where frames to unknown addresses go, as `bridge fdb` shows it.
    fn flooded_to(&self) -> Vec<String> {
        let entries = kernel::array(&self.ns.sh(&["bridge", "-j", "fdb", "show", "dev", "vxlan42"]));
        let flood = entries.iter().filter(|entry| entry["mac"] == "00:00:00:00:00:00");
        let mut hosts: Vec<String> = flood.filter_map(|entry| entry["dst"].as_str().map(str::to_owned)).collect();
        hosts.sort();
        hosts
    }

    /// What a set of the guard has.
    fn guarded(&self, set: &str) -> Vec<String> {
        if !self.ns.holds(&["nft", "list", "set", "inet", "cni_vxlan", set]) {
            return Vec::new();
        }
        let text = self.ns.sh(&["nft", "list", "set", "inet", "cni_vxlan", set]);
        let elements = text.split("elements = {").nth(1).and_then(|rest| rest.split('}').next()).unwrap_or_default();
        let element = |text: &str| text.split(" comment ").next().unwrap_or_default().trim().to_owned();
        let mut elements: Vec<String> = elements.split(',').map(element).filter(|text| !text.is_empty()).collect();
        elements.sort();
        elements
    }
}

fn with(conf: &mut Value, keys: &Value) {
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
}
