//! Configurations that users copy: the files of conf-examples/, and what the Docker options are as configuration.

pub(crate) mod conflists;
pub(crate) mod docker;
pub(crate) mod links;
pub(crate) mod networks;

use std::fs;
use std::path::Path;

use cni_tests::packets::Outside;
use cni_tests::{Attachment, Chain, Netns, Sandbox, Snapshot, verdict};

/// In the tree; or, on a machine without it (`hack/test-vm.sh`), where the suite is started.
fn folder() -> &'static Path {
    let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../conf-examples"));
    if here.is_dir() { here } else { Path::new("conf-examples") }
}

/// A file, at its version where the plugins know it, else at the newest that they know.
fn chain_of(sb: &Sandbox, file: &str) -> Chain {
    let text = fs::read_to_string(folder().join(file)).unwrap();
    let chain = Chain::parse(&text);
    if chain.types().contains(&"vxlan") {
        stretched(chain.name());
    }
    let newest = sb.newest(&chain.types());
    if text.contains("\"nftables\"") {
        sb.needs("portmap", "1.1.0");
    }
    if chain.version() > newest { chain.at_version(newest) } else { chain }
}

/// Lists the node and the host outside as the hosts of a network.
fn stretched(network: &str) {
    fs::create_dir_all("/etc/cni/peers").unwrap();
    let hosts = format!("{}\n{}\n", Outside::NODE_V4, Outside::V4);
    fs::write(Path::new("/etc/cni/peers").join(network), hosts).unwrap();
}

/// Makes the host outside one of the VXLAN with this number, by hand, with this address in it.
fn other_host(outside: &Outside, vni: &str, address: &str) {
    let (ns, dst) = (&outside.ns, Outside::NODE_V4);
    if !ns.holds(&["ip", "link", "add", "vx", "type", "vxlan", "id", vni, "dstport", "4789", "dev", "eth0"]) {
        verdict::skip("this kernel has no VXLAN (CONFIG_VXLAN)");
    }
    ns.sh(&["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx", "dst", dst]);
    ns.sh(&["ip", "addr", "add", address, "dev", "vx"]);
    ns.sh(&["ip", "link", "set", "vx", "up"]);
}

/// Two containers that came and go; at the end the node is as it was after the first ones.
fn between(sb: &Sandbox, chain: &Chain, story: impl Fn(&[(Netns, Attachment); 2])) {
    let mut first = Attachment::new("first", &sb.container("first")).publish(&[(1111, 80, "tcp")]);
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    let before = Snapshot::of(&[&sb.node()]);
    let attached = [("c1", 8080), ("c2", 9090)].map(|(id, port)| {
        let ns = sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(&[(port, 80, "tcp")]);
        chain.add(sb, &mut at);
        (ns, at)
    });
    story(&attached);
    attached.iter().for_each(|(_, at)| chain.del(sb, at));
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip"]);
}
