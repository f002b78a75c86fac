//! DHCPv4, the client's side (RFC 2131): a lease is acquired, renewed, rebound and released.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use cni_plugin::{Dns, IpConfig, Route};
use dhcproto::v4::{DhcpOption, DhcpOptions, Flags, Message, MessageType, OptionCode, UnknownOption};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};

use super::link::{self, LinkError, LinkId, Raw};
use super::times::{Backoff, Times, now, random};
use super::{Client, ExchangeError, is_host, is_name};
use crate::wire::{Granted, Options};

/// T1 and T2 as parts of the lifetime (RFC 2131, 4.4.5).
const PARTS: (f64, f64) = (0.5, 0.875);
/// How often an offer is asked for before the search begins anew, and for how long each time.
const REQUESTS: usize = 3;
const REQUEST: Duration = Duration::from_secs(2);
/// How long an answer is waited for while a lease is prolonged.
const PROLONG: Duration = Duration::from_secs(2);
/// `RT_SCOPE_LINK`, of a route whose router is 0.0.0.0 (RFC 3442: the destination is on the link).
const SCOPE_LINK: u8 = 253;
/// What this client can take, in bytes: what fits into a frame of the usual MTU.
const MESSAGE_SIZE: u16 = 1472;

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address, with the subnet's prefix length.
    pub address: Ipv4Addr,
    prefix: u8,
    server: Ipv4Addr,
    routers: Vec<Ipv4Addr>,
    /// Option 121: destination and router.
    classless: Vec<(Ipv4Network, Ipv4Addr)>,
    /// Option 33: a destination, whose class says how much of it is the network, and a router.
    classful: Vec<(Ipv4Addr, Ipv4Addr)>,
    servers: Vec<Ipv4Addr>,
    domain: String,
    search: Vec<String>,
    /// When it is to be prolonged.
    pub times: Times,
}

/// What a server says.
pub enum Reply {
    /// It gives an address.
    Lease(Box<Lease>),
    /// It gives none (DHCPNAK).
    Refused,
}

/// Gets a lease, until `until`.
pub fn acquire(client: &Client<'_>, until: Instant) -> Result<Lease, ExchangeError> {
    let raw = Raw::open(client.link)?;
    for pause in Backoff::new(client.longest) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let xid = random();
        raw.broadcast(Ipv4Addr::UNSPECIFIED, &encode(&discover(client, xid))?)?;
        let offers = |found: &[u8]| reply(found, client.link, xid, MessageType::Offer);
        let offered = raw.receive(Instant::now() + pause.min(left), client.stops, offers)?;
        let Some(Reply::Lease(offer)) = offered else { continue };
        if let Some(lease) = ask_for(client, &raw, xid, &offer, until)? {
            return Ok(lease);
        }
    }
    Err(ExchangeError::NoAnswer { what: "DHCP", ifname: client.link.ifname.clone() })
}

fn ask_for(
    client: &Client<'_>,
    raw: &Raw,
    xid: u32,
    offer: &Lease,
    until: Instant,
) -> Result<Option<Lease>, ExchangeError> {
    let mut message = request(client, xid);
    message.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.address));
    message.opts_mut().insert(DhcpOption::ServerIdentifier(offer.server));
    let message = encode(&message)?;
    for _ in 0..REQUESTS {
        raw.broadcast(Ipv4Addr::UNSPECIFIED, &message)?;
        let end = until.min(Instant::now() + REQUEST);
        match raw.receive(end, client.stops, |found| reply(found, client.link, xid, MessageType::Ack))? {
            Some(Reply::Lease(lease)) => return Ok(Some(*lease)),
            Some(Reply::Refused) => return Ok(None),
            None => {}
        }
    }
    Ok(None)
}

/// Asks the lease's server to prolong it (`server`), or any server; `None` if none answers.
///
/// # Errors
/// [`ExchangeError::Refused`] if the address may not be used any longer.
pub fn prolong(client: &Client<'_>, lease: &Lease, of_server: bool) -> Result<Option<Lease>, ExchangeError> {
    let xid = random();
    let mut message = request(client, xid);
    message.set_ciaddr(lease.address);
    let message = encode(&message)?;
    let accept = |found: &[u8]| reply(found, client.link, xid, MessageType::Ack);
    let until = Instant::now() + PROLONG;
    let answer = if of_server {
        let socket = link::unicast(lease.address, lease.server)?;
        // A server that is away may make the link refuse; that it doesn't answer is what counts.
        let _ = socket.send(&message);
        link::receive(&socket, until, client.stops, accept).or_else(none_if_refused)?
    } else {
        let raw = Raw::open(client.link)?;
        raw.broadcast(lease.address, &message)?;
        raw.receive(until, client.stops, accept)?
    };
    match answer {
        Some(Reply::Lease(found)) if found.address == lease.address => Ok(Some(*found)),
        Some(_) => Err(ExchangeError::Refused(lease.address.into())),
        None => Ok(None),
    }
}

fn none_if_refused(error: LinkError) -> Result<Option<Reply>, LinkError> {
    match error {
        LinkError::Socket { .. } => Ok(None),
        other => Err(other),
    }
}

/// Gives the lease back. There is no answer (RFC 2131, 3.1).
pub fn release(client: &Client<'_>, lease: &Lease) -> Result<(), ExchangeError> {
    let mut message = message(client, random(), MessageType::Release);
    message.set_ciaddr(lease.address);
    message.opts_mut().remove(OptionCode::ParameterRequestList);
    message.opts_mut().remove(OptionCode::MaxMessageSize);
    message.opts_mut().insert(DhcpOption::ServerIdentifier(lease.server));
    let message = encode(&message)?;
    // The address may be gone from the link.
    match link::unicast(lease.address, lease.server).map(|socket| socket.send(&message)) {
        Ok(Ok(_)) => Ok(()),
        _ => Ok(Raw::open(client.link)?.send((lease.address, lease.server), &message)?),
    }
}

fn discover(client: &Client<'_>, xid: u32) -> Message {
    message(client, xid, MessageType::Discover)
}

fn request(client: &Client<'_>, xid: u32) -> Message {
    message(client, xid, MessageType::Request)
}

fn message(client: &Client<'_>, xid: u32, kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(xid, none, none, none, none, &client.link.mac.0);
    if client.broadcast {
        message.set_flags(Flags::default().set_broadcast());
    }
    let Options { provide, request, .. } = client.options;
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::MaxMessageSize(MESSAGE_SIZE));
    options.insert(DhcpOption::ParameterRequestList(request.iter().map(|code| OptionCode::from(*code)).collect()));
    for (code, value) in provide {
        let raw = UnknownOption::new(OptionCode::from(*code), value.clone());
        options.insert(DhcpOption::Unknown(raw));
    }
    message
}

fn encode(message: &Message) -> Result<Vec<u8>, ExchangeError> {
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).map_err(|error| ExchangeError::Message(error.to_string()))?;
    Ok(bytes)
}

/// A server's answer to the message with this number, if it is one.
pub fn reply(bytes: &[u8], link: &LinkId, xid: u32, wanted: MessageType) -> Option<Reply> {
    let message = Message::decode(&mut Decoder::new(bytes)).ok()?;
    // `chaddr` panics where the length is beyond the field's 16 bytes.
    if usize::from(message.hlen()) != link.mac.0.len() {
        return None;
    }
    if message.xid() != xid || message.chaddr() != link.mac.0 {
        return None;
    }
    match message.opts().msg_type()? {
        MessageType::Nak if wanted == MessageType::Ack => Some(Reply::Refused),
        kind if kind == wanted => lease(&message).map(Box::new).map(Reply::Lease),
        _ => None,
    }
}

fn lease(message: &Message) -> Option<Lease> {
    let options = message.opts();
    let seconds = |code| match options.get(code) {
        Some(DhcpOption::AddressLeaseTime(seconds) | DhcpOption::Renewal(seconds) | DhcpOption::Rebinding(seconds)) => {
            Some(*seconds)
        }
        _ => None,
    };
    let server = match options.get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => *server,
        _ => message.siaddr(),
    };
    let address = message.yiaddr();
    if !is_host(address.into()) || !is_host(server.into()) {
        return None;
    }
    let prefix = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => ipnetwork::ipv4_mask_to_prefix(*mask).ok()?,
        _ => class(address),
    };
    let lifetime = seconds(OptionCode::AddressLeaseTime)?;
    let times = Times::new(now(), lifetime, (seconds(OptionCode::Renewal), seconds(OptionCode::Rebinding)), PARTS);
    let (routers, servers) = (hosts(options, OptionCode::Router), hosts(options, OptionCode::DomainNameServer));
    let (classless, classful) = (classless(options), classful(options));
    let (domain, search) = (domain(options), search(options));
    Some(Lease { address, prefix, server, routers, classless, classful, servers, domain, search, times })
}

/// The addresses of an option, without those that no host can have: one would make the attachment fail.
fn hosts(options: &DhcpOptions, code: OptionCode) -> Vec<Ipv4Addr> {
    match options.get(code) {
        Some(DhcpOption::Router(found) | DhcpOption::DomainNameServer(found)) => {
            found.iter().copied().filter(|ip| is_host((*ip).into())).collect()
        }
        _ => Vec::new(),
    }
}

/// True for a router of a route: 0.0.0.0 says that the destination is on the link.
fn is_hop(via: Ipv4Addr) -> bool {
    via.is_unspecified() || is_host(via.into())
}

fn classless(options: &DhcpOptions) -> Vec<(Ipv4Network, Ipv4Addr)> {
    let Some(DhcpOption::ClasslessStaticRoute(routes)) = options.get(OptionCode::ClasslessStaticRoute) else {
        return Vec::new();
    };
    let usable = routes.iter().filter(|(_, via)| is_hop(*via));
    usable.filter_map(|(to, via)| Some((Ipv4Network::new(to.addr(), to.prefix_len()).ok()?, *via))).collect()
}

fn classful(options: &DhcpOptions) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    match options.get(OptionCode::StaticRoutingTable) {
        Some(DhcpOption::StaticRoutingTable(routes)) => {
            routes.iter().copied().filter(|(_, via)| is_hop(*via)).collect()
        }
        _ => Vec::new(),
    }
}

/// The domain; some servers end the text with a zero byte.
fn domain(options: &DhcpOptions) -> String {
    match options.get(OptionCode::DomainName) {
        Some(DhcpOption::DomainName(name)) => {
            Some(name.trim_end_matches('\0')).filter(|name| is_name(name)).unwrap_or_default().to_owned()
        }
        _ => String::new(),
    }
}

fn search(options: &DhcpOptions) -> Vec<String> {
    match options.get(OptionCode::DomainSearch) {
        Some(DhcpOption::DomainSearch(names)) => {
            names.iter().map(ToString::to_string).filter(|name| is_name(name)).collect()
        }
        _ => Vec::new(),
    }
}

/// The prefix length of an address's class (RFC 791), for what says no more than the address.
fn class(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    }
}

impl Lease {
    /// Adds what the lease gives to the container. With option 121 the routers of option 3 count for nothing (RFC 3442).
    pub fn grant(&self, granted: &mut Granted, priority: u32) {
        let Ok(address) = Ipv4Network::new(self.address, self.prefix) else { return };
        let gateway = self.routers.first().map(|router| IpAddr::V4(*router));
        granted.ips.push(IpConfig { interface: None, address: address.into(), gateway });
        let route = |dst: Ipv4Network, via: Ipv4Addr| {
            let on_link = via.is_unspecified();
            let scope = on_link.then_some(SCOPE_LINK);
            let gw = (!on_link).then_some(IpAddr::V4(via));
            Route { priority, scope, ..Route::new(IpNetwork::V4(dst), gw) }
        };
        if self.classless.is_empty() {
            let classful = |(dst, via): &(Ipv4Addr, Ipv4Addr)| {
                Ipv4Network::new(*dst, class(*dst)).ok().map(|dst| route(dst, *via))
            };
            granted.routes.extend(self.classful.iter().filter_map(classful));
            let default = Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).ok();
            granted.routes.extend(default.zip(self.routers.first()).map(|(dst, via)| route(dst, *via)));
        } else {
            granted.routes.extend(self.classless.iter().map(|(dst, via)| route(*dst, *via)));
        }
        let Dns { nameservers, domain, search, .. } = &mut granted.dns;
        nameservers.extend(self.servers.iter().map(ToString::to_string));
        if !self.domain.is_empty() {
            domain.clone_from(&self.domain);
        }
        search.extend(self.search.iter().cloned());
    }
}
