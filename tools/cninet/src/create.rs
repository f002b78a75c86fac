//! `create`, `rm` and `prune`: configuration lists from options that read as Docker's.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cni_net::Netlink;
use cni_plugin::{IfName, NetworkName, sha512_hex};
use cni_runtime::{NetworkList, Networks};
use ipnetwork::{IpNetwork, Ipv4Network};
use serde_json::{Map, Value, json};

use crate::attached::attached;
use crate::failure::Failure;
use crate::node::Node;
use crate::{output, subnets};

/// The key that says that a list was made here. Nobody else reads it.
const MADE_HERE: &str = "io.cninet.created";
/// The names of files begin so that no runtime that takes the first network for the default takes one of these.
const FILE_PREFIX: &str = "90-cninet-";
/// Every program on libcni speaks one of these, and from 1.1.0 on there is GC.
const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];
/// Where subnets are chosen: 10.89.0.0/24 to 10.89.255.0/24, as Podman does.
const OWN_SUBNETS: [u8; 2] = [10, 89];
/// The metric of the default routes. A running container that is connected to a further network keeps the way out that it has: without
/// a metric that is 0, and 1024 in IPv6.
const DEFAULT_ROUTE: u32 = 2048;
/// The longest name of a bridge that has the network's name in it.
const BRIDGE_PREFIX: &str = "cni-";
const IFNAME_MAX: usize = 15;

/// The kinds of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Driver {
    // Containers on a bridge of the node.
    Bridge,
    // A pair of links for each container, routed by the node.
    Ptp,
    // Containers on a link of the node, with MAC addresses of their own.
    Macvlan,
    // Containers on a link of the node, with its MAC address.
    Ipvlan,
}

/// What to create.
#[derive(Debug, Clone, clap::Args)]
pub struct Create {
    /// The network's name
    pub name: NetworkName,
    /// bridge (the default), ptp, macvlan or ipvlan
    #[arg(long, short, value_enum, default_value = "bridge", hide_default_value = true, hide_possible_values = true)]
    pub driver: Driver,
    /// A subnet of a family; default: a free 10.89.N.0/24
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Vec<IpNetwork>,
    /// The part of it that addresses are given of
    #[arg(long, value_name = "SUBNET")]
    pub ip_range: Vec<IpNetwork>,
    /// The gateway; default: a subnet's first address
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Vec<IpAddr>,
    /// No way out of the network
    #[arg(long)]
    pub internal: bool,
    /// The node's link below it (macvlan, ipvlan)
    #[arg(long, value_name = "LINK")]
    pub parent: Option<IfName>,
    /// A key of the plugin, or one of Docker's
    #[arg(long, short, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,
}

/// What to remove.
#[derive(Debug, Clone, clap::Args)]
pub struct Rm {
    /// The networks' names
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// True if the list was made by [`create`].
pub fn is_made_here(list: &NetworkList) -> bool {
    serde_json::from_slice::<Map<String, Value>>(&list.bytes).is_ok_and(|list| list.contains_key(MADE_HERE))
}

/// Writes the network's list, and prints the file's path.
pub fn create(node: &Node, wanted: &Create) -> Result<(), Failure> {
    let networks = node.networks()?;
    if let Some((path, _)) = networks.lists().find(|(_, list)| list.name == wanted.name) {
        return Err(Failure::new(format!("network {} exists: {}", wanted.name, path.display())));
    }
    let ranges = ranges(wanted, &networks)?;
    let mut first = interface(wanted, &ranges);
    for option in &wanted.opt {
        let (key, value) = read_option(option)?;
        first.insert(key, value);
    }
    let list = json!({
        "cniVersion": VERSIONS[0], "cniVersions": VERSIONS, "name": wanted.name, MADE_HERE: true,
        "plugins": plugins(wanted, first),
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&list)?);
    node.runtime.validate(&NetworkList::parse(text.as_bytes())?)?;
    let dir = node.network_dirs.first().ok_or_else(|| Failure::new("NETCONFPATH names no directory"))?;
    let path = dir.join(format!("{FILE_PREFIX}{}.conflist", wanted.name));
    write_new(dir, &path, &text).map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    output::print(format!("{}\n", path.display()).as_bytes())
}

/// Writes the file beside its place, so that no runtime reads half of it. What exists stays.
fn write_new(dir: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let unfinished = dir.join(format!(".cninet-{}.new", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o644).open(&unfinished);
    let written =
        made.and_then(|mut file| file.write_all(text.as_bytes())).and_then(|()| fs::hard_link(&unfinished, path));
    let removed = fs::remove_file(&unfinished);
    written.and(removed)
}

/// host-local's range sets.
fn ranges(wanted: &Create, networks: &Networks) -> Result<Vec<Value>, Failure> {
    let taken = taken_subnets(networks)?;
    let given = wanted.subnet.iter().map(|subnet| {
        let clash = taken.iter().find(|(other, _)| overlap(*subnet, *other));
        clash.map_or(Ok(*subnet), |(other, whose)| {
            Err(Failure::new(format!("--subnet: {subnet} overlaps {other} of {whose}")))
        })
    });
    let mut all = given.collect::<Result<Vec<IpNetwork>, Failure>>()?;
    if let [one, other] = all[..]
        && one.is_ipv4() == other.is_ipv4()
    {
        return Err(Failure::new("--subnet: one of each family at most"));
    }
    if all.len() > 2 {
        return Err(Failure::new("--subnet: one of each family at most"));
    }
    if all.is_empty() {
        all.push(free_subnet(&taken)?);
    }
    for (option, address) in wanted
        .gateway
        .iter()
        .map(|ip| ("--gateway", *ip))
        .chain(wanted.ip_range.iter().map(|range| ("--ip-range", range.network())))
    {
        if !all.iter().any(|subnet| subnet.contains(address)) {
            let subnets: Vec<String> = all.iter().map(ToString::to_string).collect();
            return Err(Failure::new(format!("{option}: {address} is not in {}", subnets.join(" or "))));
        }
    }
    Ok(all.into_iter().map(|subnet| json!([range(wanted, subnet)])).collect())
}

fn range(wanted: &Create, subnet: IpNetwork) -> Value {
    let whole = IpNetwork::new(subnet.network(), subnet.prefix()).unwrap_or(subnet);
    let mut range = json!({"subnet": whole});
    if let Some(gateway) = wanted.gateway.iter().find(|gateway| subnet.contains(**gateway)) {
        range["gateway"] = json!(gateway);
    }
    if let Some(part) = wanted.ip_range.iter().find(|part| subnet.contains(part.network())) {
        // host-local gives neither the subnet's first address nor its last.
        let is_start = part.network() == subnet.network();
        let first = if is_start { part.iter().nth(1) } else { Some(part.network()) };
        range["rangeStart"] = json!(first.unwrap_or(part.network()));
        if let IpNetwork::V4(part) = part {
            let last = u32::from(part.broadcast());
            let is_end = IpAddr::V4(part.broadcast()) == subnet.broadcast();
            range["rangeEnd"] = json!(std::net::Ipv4Addr::from(last - u32::from(is_end)));
        } else {
            range["rangeEnd"] = json!(part.broadcast());
        }
    }
    range
}

/// The subnets of other networks and of the node, with whose they are.
fn taken_subnets(networks: &Networks) -> Result<Vec<(IpNetwork, String)>, Failure> {
    let mut taken = Vec::new();
    for (_, list) in networks.lists() {
        taken.extend(subnets::ranges(list).into_iter().map(|range| (range.subnet, format!("network {}", list.name))));
    }
    let node = Netlink::open()?;
    for link in node.links()?.iter().filter(|link| !link.loopback) {
        let global = node.addresses(link.index)?.into_iter().filter(|address| !address.link_local);
        taken.extend(global.map(|address| (address.network, format!("the node's link {}", link.name))));
    }
    Ok(taken)
}

fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one.contains(other.network()) || other.contains(one.network()))
}

fn free_subnet(taken: &[(IpNetwork, String)]) -> Result<IpNetwork, Failure> {
    let [a, b] = OWN_SUBNETS;
    let subnet = |number: u8| Ipv4Network::new([a, b, number, 0].into(), 24).map(IpNetwork::V4);
    let mut all = (0..=u8::MAX).filter_map(|number| subnet(number).ok());
    let free = all.find(|subnet| !taken.iter().any(|(other, _)| overlap(*subnet, *other)));
    free.ok_or_else(|| Failure::new(format!("no subnet of {a}.{b}.0.0/16 is free: choose one by --subnet")))
}

/// The configuration of the plugin that makes the interface.
fn interface(wanted: &Create, ranges: &[Value]) -> Map<String, Value> {
    let families = ranges.iter().filter_map(|set| set[0]["subnet"].as_str());
    let all = |subnet: &str| if subnet.contains(':') { "::/0" } else { "0.0.0.0/0" };
    let default = |subnet: &str| json!({"dst": all(subnet), "priority": DEFAULT_ROUTE});
    let routes: Vec<Value> = families.map(default).collect();
    let mut ipam = json!({"type": "host-local", "ranges": ranges});
    let mut keys = match wanted.driver {
        Driver::Bridge => json!({
            "type": "bridge", "bridge": bridge_name(&wanted.name), "isGateway": !wanted.internal, "ipMasq": !wanted.internal,
            "hairpinMode": true, "removeEmptyBridge": true, "capabilities": {"ips": true, "mac": true},
        }),
        Driver::Ptp => json!({"type": "ptp", "ipMasq": !wanted.internal, "capabilities": {"ips": true}}),
        Driver::Macvlan => json!({"type": "macvlan", "mode": "bridge", "capabilities": {"ips": true, "mac": true}}),
        Driver::Ipvlan => json!({"type": "ipvlan", "mode": "l2", "capabilities": {"ips": true}}),
    };
    if !wanted.internal {
        ipam["routes"] = json!(routes);
    }
    if let Some(parent) = &wanted.parent {
        keys["master"] = json!(parent);
    }
    keys["ipam"] = ipam;
    keys.as_object().cloned().unwrap_or_default()
}

fn bridge_name(network: &NetworkName) -> String {
    let name = format!("{BRIDGE_PREFIX}{network}");
    if name.len() <= IFNAME_MAX { name } else { format!("{BRIDGE_PREFIX}{}", sha512_hex(&[network.as_str()], 11)) }
}

fn plugins(wanted: &Create, first: Map<String, Value>) -> Vec<Value> {
    let mut plugins = vec![Value::Object(first)];
    if matches!(wanted.driver, Driver::Bridge | Driver::Ptp) && !wanted.internal {
        plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        plugins.push(json!({"type": "firewall"}));
    }
    plugins
}

/// A key of the plugin with its value, which is JSON if it can be. Docker's names of driver options are understood.
fn read_option(option: &str) -> Result<(String, Value), Failure> {
    let Some((key, value)) = option.split_once('=') else {
        return Err(Failure::new(format!("--opt: {option:?} is not KEY=VALUE")));
    };
    let key = match key {
        "com.docker.network.driver.mtu" => "mtu",
        "com.docker.network.bridge.name" => "bridge",
        "com.docker.network.bridge.enable_ip_masquerade" => "ipMasq",
        "com.docker.network.container_iface_prefix" | "ipam" | "type" | "name" | "cniVersion" => {
            return Err(Failure::new(format!("--opt: {key} can't be set")));
        }
        "parent" => "master",
        "macvlan_mode" | "ipvlan_mode" => "mode",
        key => key,
    };
    Ok((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

/// Removes networks that [`create`] made and no container is on. Nothing is removed if that isn't so for one of them.
pub fn rm(node: &Node, wanted: &Rm) -> Result<(), Failure> {
    let networks = node.networks()?;
    let all = attached(node)?;
    let mut chosen = Vec::new();
    for name in &wanted.names {
        let list = networks.find(name)?;
        let path = path_of(&networks, list)?;
        if !is_made_here(list) {
            let text = format!("network {name} was not made by cninet create, which did not write {}", path.display());
            return Err(Failure::new(text));
        }
        if let Some(one) = all.iter().find(|one| one.entry.network == list.name) {
            let way = if one.state.is_running() { "cninet disconnect" } else { "cninet gc" };
            let id = &one.entry.attachment.container_id;
            return Err(Failure::new(format!(
                "network {name} is used by container {id} ({}): {way} first",
                one.state.word()
            )));
        }
        chosen.push((name, path));
    }
    chosen.into_iter().try_for_each(|(name, path)| remove(name, &path))
}

/// Removes all networks that [`create`] made and no container is on.
pub fn prune(node: &Node, yes: bool) -> Result<(), Failure> {
    let networks = node.networks()?;
    let all = attached(node)?;
    let is_unused = |list: &NetworkList| !all.iter().any(|one| one.entry.network == list.name);
    let unused = networks.lists().filter(|(_, list)| is_made_here(list) && is_unused(list));
    let unused: Vec<(PathBuf, String)> = unused.map(|(path, list)| (path.to_owned(), list.name.to_string())).collect();
    if unused.is_empty() {
        eprintln!("no network in {} was made by cninet create and is unused", networks.dirs());
        return Ok(());
    }
    let names: Vec<&str> = unused.iter().map(|(_, name)| name.as_str()).collect();
    if !output::confirm(&format!("Remove {}?", names.join(", ")), yes)? {
        return Ok(());
    }
    unused.iter().try_for_each(|(path, name)| remove(name, path))
}

fn remove(name: &str, path: &Path) -> Result<(), Failure> {
    fs::remove_file(path).map_err(|error| Failure::new(format!("cannot remove {}: {error}", path.display())))?;
    output::print(format!("{name}\n").as_bytes())
}

fn path_of(networks: &Networks, list: &NetworkList) -> Result<PathBuf, Failure> {
    let found = networks.lists().find(|(_, other)| std::ptr::eq(*other, list));
    found.map(|(path, _)| path.to_owned()).ok_or_else(|| Failure::new(format!("network {} has no file", list.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        create: Create,
    }

    fn wanted(words: &[&str]) -> Create {
        Command::parse_from(["create"].iter().chain(words)).create
    }

    fn refusal(words: &[&str]) -> String {
        ranges(&wanted(words), &Networks::default()).unwrap_err().to_string()
    }

    #[test]
    fn options_become_ranges() {
        let words = [
            "n",
            "--subnet",
            "10.99.0.0/16",
            "--ip-range",
            "10.99.5.0/24",
            "--gateway",
            "10.99.0.254",
            "--subnet",
            "fd99::/64",
        ];
        let found = ranges(&wanted(&words), &Networks::default()).unwrap();
        let expected = json!([{"subnet": "10.99.0.0/16", "gateway": "10.99.0.254", "rangeStart": "10.99.5.0", "rangeEnd": "10.99.5.255"}]);
        assert_eq!(found[0], expected);
        assert_eq!(found[1], json!([{"subnet": "fd99::/64"}]));
        assert!(refusal(&["n", "--subnet", "10.99.0.0/16", "--gateway", "10.98.0.1"]).contains("--gateway: 10.98.0.1"));
        assert!(refusal(&["n", "--subnet", "10.99.0.0/24", "--subnet", "10.98.0.0/24"]).contains("one of each family"));
    }

    #[test]
    fn names_of_bridges_fit() {
        assert_eq!(bridge_name(&"red".parse().unwrap()), "cni-red");
        assert_eq!(bridge_name(&"a-very-long-name".parse().unwrap()).len(), 15);
    }

    #[test]
    fn options_of_docker_are_understood() {
        let read = |text: &str| read_option(text).unwrap();
        assert_eq!(read("com.docker.network.driver.mtu=1400"), ("mtu".to_owned(), json!(1400)));
        assert_eq!(read("macvlan_mode=private"), ("mode".to_owned(), json!("private")));
        assert!(read_option("mtu").is_err() && read_option("type=x").is_err());
    }
}
