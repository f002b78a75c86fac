//! The main story as a fixture: a node with an outside world, a chain, and containers on it.

use std::time::Duration;

use crate::conf::{self, Backend};
use crate::kernel::link_names;
use crate::packets::{Outside, Server};
use crate::{Attachment, Chain, Netns, Sandbox, rules};
use serde_json::Value;

/// The plugins of the chain.
pub const CHAIN: [&str; 3] = ["bridge", "portmap", "host-local"];

/// A node on which containers can be attached to one network.
pub struct Story<'a> {
    /// The sandbox that it is in.
    pub sb: &'a Sandbox,
    /// The network: bridge and portmap.
    pub chain: Chain,
    /// The node.
    pub node: Netns,
    /// The world outside.
    pub outside: Outside,
    /// Where the packet rules are.
    pub backend: Backend,
}

/// A container on the network, with a server on port 80 that answers with its name and whom it saw.
pub struct Container {
    node: Netns,
    /// Its namespace.
    pub ns: Netns,
    /// How it is attached, with the result of its ADD.
    pub at: Attachment,
    _server: Option<Server>,
}

impl<'a> Story<'a> {
    /// bridge and portmap with a backend, at the newest version that the plugins know.
    pub fn start(sb: &'a Sandbox, backend: Backend) -> Self {
        let chain = conf::main_story(sb.newest(&CHAIN), backend);
        if backend == Backend::Nftables {
            // Both came with the same release of the Go plugins; older ones ignore the key and use iptables.
            sb.needs("portmap", "1.1.0");
        }
        Self { sb, chain, node: sb.node(), outside: sb.outside(), backend }
    }

    /// The same with the bridge's and portmap's configuration changed.
    pub fn with(sb: &'a Sandbox, backend: Backend, edit: impl Fn(&mut Value, &mut Value)) -> Self {
        let (mut bridge, mut portmap) = (conf::masquerading(backend), conf::portmap(backend));
        edit(&mut bridge, &mut portmap);
        let chain = Chain::new("story", sb.newest(&CHAIN), &[bridge, portmap]);
        Self { chain, ..Self::start(sb, backend) }
    }

    /// Attaches container `id` with published ports `(host, container, protocol)`.
    pub fn attach(&self, id: &str, ports: &[(u16, u16, &str)]) -> Container {
        self.attach_with(id, |at| at.publish(ports))
    }

    /// Attaches container `id` with anything set on the attachment.
    pub fn attach_with(&self, id: &str, set: impl Fn(Attachment) -> Attachment) -> Container {
        let ns = self.sb.container(id);
        let mut at = set(Attachment::new(id, &ns));
        self.chain.add(self.sb, &mut at);
        let server = Some(Server::start(&ns, id, 80));
        Container { node: self.node.clone(), ns, at, _server: server }
    }

    /// Attaches container `id` without a server, whose sockets would keep its namespace alive.
    pub fn attach_bare(&self, id: &str, ports: &[(u16, u16, &str)]) -> Container {
        let ns = self.sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(ports);
        self.chain.add(self.sb, &mut at);
        Container { node: self.node.clone(), ns, at, _server: None }
    }

    /// Fails unless the packet rules are where the backend keeps them.
    pub fn backend_was_used(&self) {
        let mut lines = rules::all(&self.node);
        // The guard of 127.0.0.0/8 is nftables' whatever the backend.
        lines.retain(|line| !line.contains("cni_localnet"));
        let nft = lines.iter().any(|l| l.starts_with("nft rule") || l.starts_with("nft map"));
        let iptables = lines.iter().any(|l| !l.starts_with("nft ") && l.contains("CNI-"));
        let (wanted, other) = if self.backend == Backend::Nftables { (nft, iptables) } else { (iptables, nft) };
        assert!(wanted && !other, "rules of {}: nft {nft}, iptables {iptables}", self.backend.name());
    }
}

impl Container {
    /// The name of the link at the node's end.
    pub fn host_link(&self) -> String {
        let name = self.at.result.as_ref().and_then(|r| r["interfaces"][1]["name"].as_str());
        name.expect("the result names the host's end").to_owned()
    }

    /// The kernel takes a vanished namespace's links down in its own time.
    pub fn wait_for_its_link_to_go(&self) {
        for _ in 0..100 {
            if !link_names(&self.node).contains(&self.host_link()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} is still there: something holds the namespace", self.host_link());
    }

    /// The IPv4 or the IPv6 address.
    pub fn ip(&self, v6: bool) -> String {
        self.at.ip(v6)
    }
}
