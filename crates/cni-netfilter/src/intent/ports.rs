//! Published ports.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::{Owner, Protocol};
use ipnetwork::IpNetwork;

/// One published port: connections to the host's port go to the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortForward {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The host address it is published on; `None` means every local address of the family.
    pub host_ip: Option<IpAddr>,
    /// The port on the host.
    pub host_port: u16,
    /// The container's address and port.
    pub to: SocketAddr,
}

impl PortForward {
    /// The host address that it is published on; `None` for every one, which `0.0.0.0` and `::` mean too.
    pub(crate) fn specified_ip(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }

    /// In the words of a message.
    pub(crate) fn name(&self) -> String {
        match self.specified_ip() {
            Some(address) => format!("host port {} {}", SocketAddr::new(address, self.host_port), self.protocol),
            None => format!("host port {} {}", self.host_port, self.protocol),
        }
    }
}

/// Which connections to a published port get the node's address as their source, so that the replies come back through the
/// node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snat {
    /// No connections.
    Off,
    /// Those from the container's own subnet (the container itself and its neighbours) and, in IPv4, from 127.0.0.1.
    Local,
    /// All (`masqAll`).
    All,
}

/// How the iptables backend marks the packets that [`Snat`] selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkChain {
    /// With a bit of the packet mark (0–31), set by our own `CNI-HOSTPORT-SETMARK`.
    Bit(u8),
    /// By a jump to a chain of another program, which also does the masquerading.
    External(String),
}

/// What one attachment publishes in one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwards {
    /// Whose rules they are.
    pub owner: Owner,
    /// The container's address with its prefix; tells the family.
    pub container: IpNetwork,
    /// The ports, all of the container's family.
    pub ports: Vec<PortForward>,
    /// Those of `ports` that owners who give them the same name share, with that name (nftables only).
    pub shares: BTreeMap<PortForward, String>,
    /// Source address translation.
    pub snat: Snat,
    /// iptables only.
    pub mark: MarkChain,
    /// Further matches that a packet must satisfy, in the backend's own language.
    pub conditions: Vec<String>,
    /// Local destinations, of the container's family, that a port without `host_ip` is not published on: addresses of the
    /// node that exist to hold services.
    pub exclude: Vec<IpNetwork>,
    /// The index of the node's end of the container's link, if it is known. Once there is no such link, the container is gone,
    /// and its ports may be given to another.
    pub link: Option<u32>,
    /// Packets from or to 127.0.0.0/8 that arrive by another interface than `lo` are dropped, because a port is published
    /// there ([`crate::Netfilter::add_localnet_guard`]).
    pub guard_localnet: bool,
}

/// `tcp 192.0.2.1:8080 to 10.1.0.2:80`.
impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol)?;
        match self.host_ip {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.host_port))?,
            None => write!(f, "{}", self.host_port)?,
        }
        write!(f, " to {}", self.to)
    }
}

/// A line for the attachment, and an indented one for each port and option.
impl fmt::Display for PortForwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "publish ports of {}", self.container)?;
        for port in &self.ports {
            let share = self.shares.get(port).map(|name| format!(", shared as {name:?}"));
            writeln!(f, "\t{port}{}", share.unwrap_or_default())?;
        }
        let (subnet, prefix) = (self.container.network(), self.container.prefix());
        let selected = match self.snat {
            Snat::Off => None,
            Snat::Local if self.container.is_ipv4() => Some(format!("{subnet}/{prefix} and 127.0.0.1")),
            Snat::Local => Some(format!("{subnet}/{prefix}")),
            Snat::All => Some("any address".to_owned()),
        };
        if let Some(selected) = selected {
            let mark = match &self.mark {
                MarkChain::Bit(bit) => format!("mark bit {bit}"),
                MarkChain::External(chain) => format!("chain {chain}"),
            };
            writeln!(f, "\tsource becomes the node's address for connections from {selected} (iptables: {mark})")?;
        }
        if !self.conditions.is_empty() {
            writeln!(f, "\tonly if {}", self.conditions.join(" "))?;
        }
        self.exclude.iter().try_for_each(|net| writeln!(f, "\tnot on {net}"))?;
        if self.guard_localnet {
            writeln!(f, "\tdrop packets from and to 127.0.0.0/8 that arrive by another interface than lo")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_printed() {
        let port = |host_ip: Option<&str>, to: &str| PortForward {
            protocol: Protocol::Tcp,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 8080,
            to: to.parse().unwrap(),
        };
        let forwards = PortForwards {
            owner: Owner {
                network: "net".parse().unwrap(),
                container_id: "c1".parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            container: "10.1.0.2/16".parse().unwrap(),
            ports: vec![port(None, "10.1.0.2:80"), port(Some("192.0.2.1"), "10.1.0.2:81")],
            shares: BTreeMap::new(),
            snat: Snat::Local,
            mark: MarkChain::External("MARK-IT".to_owned()),
            conditions: vec!["ip saddr 192.0.2.0/24".to_owned()],
            exclude: vec!["10.96.0.0/12".parse().unwrap()],
            link: None,
            guard_localnet: true,
        };
        let expected = "publish ports of 10.1.0.2/16\n\ttcp 8080 to 10.1.0.2:80\n\ttcp 192.0.2.1:8080 to 10.1.0.2:81\n\
                        \tsource becomes the node's address for connections from 10.1.0.0/16 and 127.0.0.1 \
                        (iptables: chain MARK-IT)\n\tonly if ip saddr 192.0.2.0/24\n\tnot on 10.96.0.0/12\n\
                        \tdrop packets from and to 127.0.0.0/8 that arrive by another interface than lo\n";
        assert_eq!(forwards.to_string(), expected);
        let off = PortForwards {
            snat: Snat::Off,
            conditions: Vec::new(),
            exclude: Vec::new(),
            guard_localnet: false,
            ..forwards
        };
        assert_eq!(off.to_string().lines().count(), 3, "{off}");
    }
}
