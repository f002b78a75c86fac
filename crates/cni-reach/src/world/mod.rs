//! What the kernel says about the node and the namespaces that its links lead to. Read when it is first asked for, and only then.

pub(crate) mod command;
mod namespace;
pub(crate) mod sockets;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use cni_net::{Link, NetNs, NetNsError};
use cni_plugin::Family;

pub(crate) use namespace::Namespace;

use crate::ReachError;

/// Where `ip netns` mounts namespaces, and runtimes too.
const NAMED: &str = "/run/netns";

/// A link of a namespace.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) namespace: Rc<Namespace>,
    pub(crate) link: Link,
}

/// The node, and every namespace that has a process or is mounted.
pub(crate) struct World {
    pub(crate) node: Rc<Namespace>,
    /// Paths by inode.
    paths: Vec<(u64, PathBuf)>,
    loaded: RefCell<HashMap<u64, Rc<Namespace>>>,
    /// By a namespace's inode: the inodes of others by the numbers that it has for them.
    numbers: RefCell<HashMap<u64, Rc<HashMap<i32, u64>>>>,
}

/// What a link leads to, without looking into a namespace that nothing has led to yet: a node may have thousands.
#[derive(Debug)]
pub(crate) enum Glance {
    Known(Box<Port>),
    /// It can be seen, and hasn't been looked into.
    Seen,
    Invisible,
}

impl World {
    /// The calling thread's namespace is the node's.
    pub(crate) fn read() -> Result<Self, ReachError> {
        let node = NetNs::current()?;
        let mut paths: Vec<(u64, PathBuf)> = Vec::new();
        NetNs::for_each(|namespace| {
            paths.push((namespace.inode(), namespace.path().to_owned()));
            Ok::<_, NetNsError>(())
        })?;
        for (inode, path) in named() {
            match paths.iter_mut().find(|(known, _)| *known == inode) {
                Some(known) => known.1 = path,
                None => paths.push((inode, path)),
            }
        }
        let inode = node.inode();
        paths.retain(|(known, _)| *known != inode);
        let node = Rc::new(Namespace::read(node, "the node".to_owned())?);
        let loaded = RefCell::new(HashMap::from([(inode, Rc::clone(&node))]));
        Ok(Self { node, paths, loaded, numbers: RefCell::default() })
    }

    /// The namespace at `path`.
    pub(crate) fn open(&self, path: &Path) -> Result<Rc<Namespace>, ReachError> {
        let netns = NetNs::open(path)?;
        let known = self.loaded.borrow().get(&netns.inode()).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let inode = netns.inode();
        let namespace = Rc::new(Namespace::read(netns, self.name_of(inode, path))?);
        self.loaded.borrow_mut().insert(inode, Rc::clone(&namespace));
        Ok(namespace)
    }

    /// The container's ID from the mark on the node's link to it; else the name of its mount; else its path.
    fn name_of(&self, inode: u64, path: &Path) -> String {
        let by_mark = self.node.links.iter().find_map(|link| {
            let container = marked(link)?;
            let id = link.peer_netnsid?;
            let netns = NetNs::open(path).ok()?;
            (self.node.netlink.netns_id(&netns) == Some(id)).then_some(container)
        });
        if let Some(container) = by_mark {
            return format!("container {container}");
        }
        let known = self.paths.iter().find(|(known, _)| *known == inode).map_or(path, |(_, path)| path);
        match known.strip_prefix(NAMED) {
            Ok(name) => format!("namespace {}", name.display()),
            Err(_) => format!("namespace {}", known.display()),
        }
    }

    /// The other end of a veth, or the link below another one. `None` if that is in a namespace that this process doesn't see,
    /// or beyond the machine.
    pub(crate) fn peer(&self, of: &Port) -> Result<Option<Port>, ReachError> {
        let Some(index) = of.link.peer_index else { return Ok(None) };
        let namespace = match of.link.peer_netnsid {
            None => Some(Rc::clone(&of.namespace)),
            Some(id) => self.numbered(&of.namespace, id)?,
        };
        let found = namespace.and_then(|namespace| {
            let link = namespace.link(index)?.clone();
            Some(Port { namespace, link })
        });
        Ok(found)
    }

    /// [`World::peer`] as far as it is known already.
    pub(crate) fn glance(&self, of: &Port) -> Glance {
        let Some(index) = of.link.peer_index else { return Glance::Invisible };
        let namespace = match of.link.peer_netnsid {
            None => Some(Rc::clone(&of.namespace)),
            Some(id) => match self.numbers(&of.namespace).get(&id) {
                Some(inode) => self.loaded.borrow().get(inode).cloned(),
                None => return Glance::Invisible,
            },
        };
        let Some(namespace) = namespace else { return Glance::Seen };
        match namespace.link(index).cloned() {
            Some(link) => Glance::Known(Box::new(Port { namespace, link })),
            None => Glance::Invisible,
        }
    }

    /// The namespace that has this number in `of`.
    fn numbered(&self, of: &Namespace, id: i32) -> Result<Option<Rc<Namespace>>, ReachError> {
        let Some(inode) = self.numbers(of).get(&id).copied() else { return Ok(None) };
        let known = self.loaded.borrow().get(&inode).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let path = self.paths.iter().find(|(known, _)| *known == inode);
        path.map(|(_, path)| self.open(path)).transpose()
    }

    fn numbers(&self, of: &Namespace) -> Rc<HashMap<i32, u64>> {
        let inode = of.netns.inode();
        if let Some(known) = self.numbers.borrow().get(&inode) {
            return Rc::clone(known);
        }
        let mut numbers = HashMap::new();
        numbers.extend(of.netlink.netns_id(&self.node.netns).map(|id| (id, self.node.netns.inode())));
        for (other, path) in &self.paths {
            // One that has gone since leads nowhere.
            let id = NetNs::open(path).ok().and_then(|netns| of.netlink.netns_id(&netns));
            numbers.extend(id.map(|id| (id, *other)));
        }
        let numbers = Rc::new(numbers);
        self.numbers.borrow_mut().insert(inode, Rc::clone(&numbers));
        numbers
    }

    /// The namespaces that are connected to the node by a link and `wanted`; the others are closed again. Several nodes, each
    /// with its own namespace, may see each other's containers, with the same addresses.
    fn search(&self, wanted: impl Fn(&Namespace) -> bool) -> Result<Vec<Rc<Namespace>>, ReachError> {
        let numbers = self.numbers(&self.node);
        let mut found = Vec::new();
        for (inode, path) in &self.paths {
            let is_it = |ns: &Namespace| {
                let is_connected = numbers.values().any(|known| known == inode);
                // A macvlan's container has a number for the node, which has none for it.
                wanted(ns) && (is_connected || ns.netlink.netns_id(&self.node.netns).is_some())
            };
            let known = self.loaded.borrow().get(inode).cloned();
            let is_wanted = match known {
                Some(known) => is_it(&known),
                // One that has gone since is none.
                None => NetNs::open(path)
                    .ok()
                    .and_then(|ns| Namespace::read(ns, String::new()).ok())
                    .is_some_and(|ns| is_it(&ns)),
            };
            if is_wanted {
                found.push(self.open(path)?);
            }
        }
        Ok(found)
    }

    /// The namespaces that were looked into so far.
    pub(crate) fn known(&self) -> Vec<Rc<Namespace>> {
        self.loaded.borrow().values().cloned().collect()
    }

    /// The namespace that has this address: the node, or one that is connected to it.
    pub(crate) fn holder(&self, address: IpAddr) -> Result<Option<Rc<Namespace>>, ReachError> {
        if self.node.has(address) {
            return Ok(Some(Rc::clone(&self.node)));
        }
        let found = self.search(|namespace| namespace.has(address) && !address.is_loopback())?;
        Ok(found.into_iter().next())
    }

    /// The namespace of a container, by the name of its mount, its ID or the beginning of that.
    pub(crate) fn container(&self, name: &str) -> Result<Rc<Namespace>, ReachError> {
        let mounted = Path::new(NAMED).join(name);
        if mounted.exists() {
            return self.open(&mounted);
        }
        let is_it = |link: &Link| marked(link).is_some_and(|id| id.starts_with(name));
        if let Some(link) = self.node.links.iter().find(|link| is_it(link) && link.peer_netnsid.is_some()) {
            let port = Port { namespace: Rc::clone(&self.node), link: link.clone() };
            if let Some(peer) = self.peer(&port)? {
                return Ok(peer.namespace);
            }
        }
        // A macvlan or the like has its mark in the container.
        if let Some(found) = self.search(|namespace| namespace.links.iter().any(is_it))?.into_iter().next() {
            return Ok(found);
        }
        Err(ReachError::NoContainer { name: name.to_owned() })
    }

    /// The node's default route: its link and the gateway.
    pub(crate) fn uplink(&self, family: Family) -> Option<(Link, Option<IpAddr>)> {
        let route = self.node.default_route(family)?;
        Some((self.node.link(route.device)?.clone(), route.gateway))
    }
}

/// The container in the alias that plugins write on a link: `cni NETWORK CONTAINER INTERFACE`.
pub(crate) fn marked(link: &Link) -> Option<&str> {
    let mut words = link.alias.as_deref()?.split(' ');
    if words.next() != Some("cni") {
        return None;
    }
    words.nth(1)
}

/// The namespaces that have names.
fn named() -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.metadata().ok()?.ino(), entry.path()))).collect()
}
