//! What is asked, and which packet that is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;

use cni_net::Link;
use cni_plugin::{Family, Protocol};

use crate::ReachError;
use crate::answer::{Answer, Cause, Note, Verdict};
use crate::packet::Packet;
use crate::world::{Namespace, Port, World};

/// A place that a packet comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The machine itself.
    Node,
    /// A host beyond the node's default route.
    Outside,
    /// An address: of the node, of a container, or of another host.
    Address(IpAddr),
    /// A network namespace's path.
    Path(PathBuf),
    /// A container: the name of its mount in `/run/netns`, its ID or the beginning of that.
    Container(String),
}

/// `FROM`, `TO`, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Where the packet starts.
    pub from: Endpoint,
    /// Where it should arrive.
    pub to: Endpoint,
    /// The port; without one an ICMP echo is followed.
    pub port: Option<u16>,
    /// TCP unless it is changed.
    pub protocol: Protocol,
    /// The address family, where both are possible; IPv4 if it is left open and possible.
    pub family: Option<Family>,
}

impl Question {
    /// The question `why FROM TO[:PORT]`, about TCP.
    ///
    /// # Errors
    /// [`ReachError::BadPlace`].
    pub fn new(from: &str, to: &str) -> Result<Self, ReachError> {
        let (place, port) = split_port(to)?;
        let family = None;
        Ok(Self { from: from.parse()?, to: place.parse()?, port, protocol: Protocol::Tcp, family })
    }

    pub(crate) fn is_about_outside(&self) -> bool {
        matches!(self.to, Endpoint::Outside)
    }
}

/// As it is written on the command line.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Outside => f.write_str("outside"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Container(name) => f.write_str(name),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ReachError;

    fn from_str(text: &str) -> Result<Self, ReachError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        Ok(match text {
            "" => return Err(ReachError::BadPlace { text: text.to_owned() }),
            "node" => Self::Node,
            "outside" => Self::Outside,
            path if path.contains('/') => Self::Path(path.into()),
            name => match bare.parse::<IpAddr>() {
                Ok(address) => Self::Address(address.to_canonical()),
                Err(_) => Self::Container(name.to_owned()),
            },
        })
    }
}

/// `web:80`, `10.0.0.2:80`, `[fd00::2]:80`; an IPv6 address without brackets has no port.
fn split_port(text: &str) -> Result<(&str, Option<u16>), ReachError> {
    let Some((place, port)) = text.rsplit_once(':') else { return Ok((text, None)) };
    if text.parse::<IpAddr>().is_ok() || text.ends_with(']') {
        return Ok((text, None));
    }
    match port.parse() {
        Ok(port) if port != 0 => Ok((place, Some(port))),
        _ => Err(ReachError::BadPlace { text: text.to_owned() }),
    }
}

/// Where the walk begins.
pub(crate) enum Start {
    Here(Origin, Box<Packet>, Vec<Note>),
    /// There isn't even an address to send to or from.
    Never(Box<Answer>),
}

/// Where a packet starts.
pub(crate) enum Origin {
    /// Sent by a program of a namespace.
    Program(Rc<Namespace>),
    /// It arrives at a link of the node from a host that can't be seen.
    Link(Box<Port>),
}

/// The packet of a question, and where it starts.
pub(crate) fn resolve(world: &World, question: &Question) -> Result<Start, ReachError> {
    let mut notes = Vec::new();
    let from = namespace_of(world, &question.from)?;
    let to = namespace_of(world, &question.to)?;
    let family = family_of(question, from.as_deref(), to.as_deref());
    let destination = match destination(world, question, family, from.as_deref(), to.as_deref()) {
        Some(address) => address,
        None => match to.as_deref() {
            Some(to) => return Ok(Start::Never(Box::new(has_no_address(to, question, family, true)))),
            None => {
                return Err(ReachError::NoPacket {
                    why: format!("the node has no {family} default route to go outside by"),
                });
            }
        },
    };
    if question.is_about_outside() {
        let text = format!("outside is taken as {destination}, the node's default gateway");
        notes.push(Note { cause: None, text });
    }
    let protocol = question.port.map(|_| question.protocol);
    let packet = |source: IpAddr| Packet::new(protocol, source, destination, question.port.unwrap_or(0));
    if let Some(from) = from {
        let unspecified = SocketAddr::new(any(family), 0).ip();
        let source = match question.from {
            Endpoint::Address(address) => address,
            _ => unspecified,
        };
        return Ok(Start::Here(Origin::Program(from), Box::new(packet(source)), notes));
    }
    let uplink = |why: &str| ReachError::NoPacket { why: format!("the node has no {family} {why}") };
    let (link, gateway) = arrival(world, &question.from, family).ok_or_else(|| uplink("route to the place outside"))?;
    let source = match question.from {
        Endpoint::Address(address) => address,
        _ => gateway.ok_or_else(|| uplink("default gateway"))?,
    };
    let mut packet = packet(source);
    packet.dst_mac = link.mac;
    Ok(Start::Here(Origin::Link(Box::new(Port { namespace: Rc::clone(&world.node), link })), Box::new(packet), notes))
}

/// The namespace of a place; `None` if it can't be seen from here.
fn namespace_of(world: &World, place: &Endpoint) -> Result<Option<Rc<Namespace>>, ReachError> {
    match place {
        Endpoint::Node => Ok(Some(Rc::clone(&world.node))),
        Endpoint::Path(path) => world.open(path).map(Some),
        Endpoint::Container(name) => world.container(name).map(Some),
        Endpoint::Address(address) => world.holder(*address),
        Endpoint::Outside => {
            // What is behind the uplink may be a namespace of this machine.
            let uplink = Family::ALL.into_iter().find_map(|family| world.uplink(family));
            let Some((link, _)) = uplink else { return Ok(None) };
            match world.peer(&Port { namespace: Rc::clone(&world.node), link })? {
                Some(peer) if peer.link.master.is_none() => Ok(Some(peer.namespace)),
                _ => Ok(None),
            }
        }
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The family of a given address; else IPv4 unless only IPv6 is possible.
fn family_of(question: &Question, from: Option<&Namespace>, to: Option<&Namespace>) -> Family {
    let given = [&question.to, &question.from].into_iter().find_map(|place| match place {
        Endpoint::Address(address) => Some(Family::of(*address)),
        _ => None,
    });
    let can = |place: Option<&Namespace>, family| place.is_none_or(|place| place.address(family).is_some());
    let only_v6 = !(can(from, Family::V4) && can(to, Family::V4)) && can(from, Family::V6) && can(to, Family::V6);
    given.or(question.family).unwrap_or(if only_v6 { Family::V6 } else { Family::V4 })
}

/// The address that is sent to.
fn destination(
    world: &World,
    question: &Question,
    family: Family,
    from: Option<&Namespace>,
    to: Option<&Namespace>,
) -> Option<IpAddr> {
    match &question.to {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Outside => world.uplink(family)?.1,
        Endpoint::Node => match from {
            Some(from) if from.is(&world.node) => Some(match family {
                Family::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
                Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
            }),
            // As the container sees the node: its gateway.
            Some(from) => {
                let gateway = from.default_route(family).and_then(|route| route.gateway);
                gateway.filter(|gateway| world.node.has(*gateway)).or_else(|| world.node.address(family))
            }
            None => world.uplink(family).and_then(|(link, _)| world.node.address_on(link.index, family)),
        },
        _ => to?.address(family),
    }
}

/// The link of the node by which a packet from outside arrives, and the gateway there.
fn arrival(world: &World, from: &Endpoint, family: Family) -> Option<(Link, Option<IpAddr>)> {
    match from {
        Endpoint::Address(address) => {
            let route = world.node.route(&cni_net::RouteQuery::to(*address)).ok()??;
            Some((world.node.link(route.device)?.clone(), route.gateway))
        }
        _ => world.uplink(family),
    }
}

/// A place that can't be sent to, or from.
pub(crate) fn has_no_address(place: &Namespace, question: &Question, family: Family, is_target: bool) -> Answer {
    let (cause, reason, advice) = missing(place, family);
    let what = question.port.map(|port| format!("{} port {port}", question.protocol));
    let role = if is_target { "to" } else { "from" };
    Answer {
        packet: format!("{} {role} {}", what.unwrap_or_else(|| "ping".to_owned()), place.name),
        verdict: Verdict::Stopped,
        cause: Some(cause),
        reason,
        advice: Some(advice),
        steps: Vec::new(),
        notes: Vec::new(),
    }
}

/// Why a namespace has no address of the family, and what to do about it.
pub(crate) fn missing(place: &Namespace, family: Family) -> (Cause, String, String) {
    let name = &place.name;
    let down: Vec<&str> = place.real_links().filter(|link| !link.up).map(|link| link.name.as_str()).collect();
    if place.real_links().next().is_none() {
        let advice = format!("attach it to a network: its interface was never made, or is gone ({name} has lo only)");
        return (Cause::NoLink, format!("{name} has no link but lo"), advice);
    }
    if family == Family::V6 {
        let off = |link: &Link| place.is_on(&format!("ipv6/conf/{}/disable_ipv6", link.name));
        if let Some(link) = place.real_links().find(|link| off(link)) {
            let reason = format!("{name} has no IPv6: disable_ipv6 is on for {}", link.name);
            let advice = format!("sysctl -w net.ipv6.conf.{}.disable_ipv6=0 in {name}, and attach it again", link.name);
            return (Cause::Ipv6Disabled, reason, advice);
        }
    }
    if let Some(link) = down.first() {
        let advice = format!("ip link set {link} up in {name}; its routes were removed when it went down");
        return (Cause::LinkDown, format!("{link} of {name} is down"), advice);
    }
    let links: Vec<&str> = place.real_links().map(|link| link.name.as_str()).collect();
    let reason = format!("{name} has no {family} address ({})", links.join(", "));
    (Cause::NoAddress, reason, format!("look at the network's ipam: it must give an {family} address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let question = |to: &str| Question::new("node", to).map(|question| (question.to, question.port)).ok();
        let address = |text: &str| Endpoint::Address(text.parse().unwrap_or_else(|_| unreachable!()));
        assert_eq!(question("10.0.0.2:80"), Some((address("10.0.0.2"), Some(80))));
        assert_eq!(question("[fd00::2]:80"), Some((address("fd00::2"), Some(80))));
        assert_eq!(question("fd00::2"), Some((address("fd00::2"), None)));
        assert_eq!(question("[fd00::2]"), Some((address("fd00::2"), None)));
        assert_eq!(question("web:8080"), Some((Endpoint::Container("web".to_owned()), Some(8080))));
        assert_eq!(question("/run/netns/a"), Some((Endpoint::Path("/run/netns/a".into()), None)));
        assert_eq!(question("outside"), Some((Endpoint::Outside, None)));
        for wrong in ["", "web:", "web:0", "web:65536", "web:http"] {
            assert_eq!(question(wrong), None, "{wrong}");
        }
    }
}
