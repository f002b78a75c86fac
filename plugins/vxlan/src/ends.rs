//! The container's veth pair and the bridge that its end on the node is a port of.

use std::rc::Rc;

use cni_net::{Link, NetNs, Netlink};
use cni_plugin::{Attachment, CniError};

/// What the plugin before this one made.
pub struct Ends {
    /// A socket on the node.
    pub node: Netlink,
    /// The container's namespace.
    pub namespace: Rc<NetNs>,
    /// A socket in it.
    pub inside: Netlink,
    /// The container's end.
    pub container: Link,
    /// The node's end.
    pub port: Link,
    /// The bridge.
    pub bridge: Link,
}

impl Ends {
    /// Finds them by the container's interface. Constant time.
    ///
    /// # Errors
    /// If the interface is no end of a pair whose other end is a port of a bridge of the node.
    pub fn find(attachment: &Attachment) -> Result<Self, CniError> {
        let ifname = &attachment.owner.ifname;
        let refused = |why: String| {
            CniError::plugin(format!("interface {ifname} of the container is no port of a bridge of the node: {why}"))
                .details("vxlan stretches the bridge of the plugin before it: put it behind `bridge`")
        };
        let node = Netlink::open()?;
        let namespace = Rc::new(NetNs::open(&attachment.netns)?);
        let inside = Netlink::open_in(&namespace)?;
        let container = inside
            .link_by_name(ifname.as_str())?
            .ok_or_else(|| refused(format!("there is none in {:?}", attachment.netns)))?;
        let is_other_end =
            |link: &Link| link.kind.as_deref() == Some("veth") && link.peer_index == Some(container.index);
        let port = match container.peer_index {
            Some(index) if container.kind.as_deref() == Some("veth") => node.link_by_index(index)?.filter(is_other_end),
            _ => None,
        };
        let port = port.ok_or_else(|| refused("it is no veth pair with its other end on the node".to_owned()))?;
        let bridge = port.master.map(|master| node.link_by_index(master)).transpose()?.flatten();
        let bridge = bridge.filter(|bridge| bridge.bridge.is_some());
        let bridge = bridge.ok_or_else(|| refused(format!("its other end, {}, is in none", port.name)))?;
        Ok(Self { node, namespace, inside, container, port, bridge })
    }
}
