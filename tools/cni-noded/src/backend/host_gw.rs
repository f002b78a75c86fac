//! `host-gw`: for each subnet of another node a route by that node's address, which has to be on a link of this one.

use std::collections::HashMap;
use std::net::IpAddr;

use cni_net::{NetError, Netlink};
use cni_plugin::Family;
use ipnetwork::IpNetwork;

use super::routes::{self, Hop};
use super::{Backend, Done};
use crate::network::Values;
use crate::view::{Held, View};

/// Routes by the nodes' addresses.
#[derive(Debug)]
pub struct HostGw {
    protocol: u8,
    netlink: Netlink,
    /// By which link a node's address is reached, as far as it was asked.
    links: HashMap<IpAddr, u32>,
}

impl HostGw {
    /// With this protocol number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(protocol: u8) -> Result<Self, NetError> {
        Ok(Self { protocol, netlink: Netlink::open()?, links: HashMap::new() })
    }

    /// The link on which the address is; an error in words if it is on none.
    fn link(&mut self, name: &str, address: IpAddr) -> Result<u32, String> {
        if let Some(link) = self.links.get(&address) {
            return Ok(*link);
        }
        match self.netlink.route_to(address) {
            Ok(Some(found)) if found.gateway.is_none() => {
                self.links.insert(address, found.device);
                Ok(found.device)
            }
            Ok(_) => Err(format!(
                "node {name} at {address} is not on a link of this node, so no route can lead there by host-gw: use the backend vxlan"
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    fn wanted(&mut self, view: &View, done: &mut Done) -> HashMap<IpNetwork, Hop> {
        let mut wanted = HashMap::new();
        for node in &view.others {
            for subnet in &node.subnets {
                let family = Family::of(subnet.ip());
                let Some(gateway) = node.address(family) else {
                    done.problems.push(format!("node {} has no {family} address for its subnet {subnet}", node.name));
                    continue;
                };
                match self.link(&node.name, gateway) {
                    Ok(link) => drop(wanted.insert(*subnet, Hop { gateway, link, onlink: false })),
                    Err(why) if done.problems.contains(&why) => {}
                    Err(why) => done.problems.push(why),
                }
            }
        }
        wanted
    }
}

impl Backend for HostGw {
    fn held(&mut self) -> Result<Held, NetError> {
        let routes = routes::list(&self.netlink, self.protocol, None)?;
        Ok(routes.iter().filter_map(|route| Some((route.dst, route.gateway?))).collect())
    }

    fn apply(&mut self, netlink: &Netlink, view: &View) -> Done {
        let mut done = Done::default();
        let wanted = self.wanted(view, &mut done);
        match routes::list(netlink, self.protocol, None) {
            Ok(present) => routes::settle(netlink, self.protocol, &present, &wanted, &mut done),
            Err(error) => done.problems.push(error.to_string()),
        }
        done
    }

    fn values(&self, view: &View) -> Option<Values> {
        Some(Values { parts: view.own.subnets.clone(), whole: Vec::new(), mtu: None })
    }

    fn forget(&mut self) {
        self.links.clear();
    }
}
