//! DHCPv6, the client's side (RFC 8415): one address that is not temporary, without prefix delegation.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use cni_net::sysctl;
use cni_plugin::{Dns, IpConfig, sha512_hex};
use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType, ORO, OptionCode, Status};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::link::{self, LinkError, LinkId};
use super::times::{Times, now, random};
use super::{Client, ExchangeError, is_host, is_name};
use crate::wire::Granted;

/// The ports of DHCPv6, and all servers and relays of the link (RFC 8415, 7.1 and 7.2).
const CLIENT: u16 = 546;
const SERVER: u16 = 547;
const ALL: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// T1 and T2 as parts of the preferred lifetime (RFC 8415, 21.4).
const PARTS: (f64, f64) = (0.5, 0.8);
/// The first pause, doubled up to the second (RFC 8415, 7.6, with shorter ones than there, because ADD waits).
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(8);
/// How often an offer is asked for before the search begins anew.
const REQUESTS: usize = 3;
/// How long an answer is waited for while a lease is prolonged, and while it is given back.
const PROLONG: Duration = Duration::from_secs(2);
const RELEASE: Duration = Duration::from_millis(500);
/// How long duplicate address detection of the link-local address may take.
const LINK_LOCAL: Duration = Duration::from_secs(5);
/// DUID-LL of an Ethernet address (RFC 8415, 11.4).
const DUID: [u8; 4] = [0, 3, 0, 1];

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv6Addr,
    /// The server's identifier.
    server: Vec<u8>,
    servers: Vec<Ipv6Addr>,
    search: Vec<String>,
    /// When it is to be prolonged.
    pub times: Times,
}

/// A socket in the link's namespace and what all messages of a client have in common.
struct Exchange<'c> {
    client: &'c Client<'c>,
    socket: UdpSocket,
    duid: Vec<u8>,
    iaid: u32,
    begin: Instant,
}

/// Gets a lease, until `until`.
pub fn acquire(client: &Client<'_>, until: Instant) -> Result<Lease, ExchangeError> {
    // An interface plugin enables IPv6 on its link, but not before it has the addresses.
    sysctl::ensure(&format!("net/ipv6/conf/{}/disable_ipv6", client.link.ifname), "0")
        .map_err(|error| ExchangeError::Message(error.to_string()))?;
    let exchange = Exchange::open(client)?;
    let mut pause = FIRST;
    while Instant::now() < until {
        let end = until.min(Instant::now() + pause);
        pause = (pause * 2).min(LONGEST);
        let solicit = exchange.message(MessageType::Solicit, None, None);
        let Some(offer) = exchange.ask(&solicit, MessageType::Advertise, end)? else { continue };
        for _ in 0..REQUESTS {
            let request = exchange.message(MessageType::Request, Some(&offer.server), Some(offer.address));
            let end = until.min(Instant::now() + FIRST);
            if let Some(lease) = exchange.ask(&request, MessageType::Reply, end)? {
                return Ok(lease);
            }
        }
    }
    Err(ExchangeError::NoAnswer { what: "DHCPv6", ifname: client.link.ifname.clone() })
}

/// Asks the lease's server to prolong it (`of_server`), or any server; `None` if none answers.
///
/// # Errors
/// [`ExchangeError::Refused`] if another address is given in its place.
pub fn prolong(client: &Client<'_>, lease: &Lease, of_server: bool) -> Result<Option<Lease>, ExchangeError> {
    let exchange = Exchange::open(client)?;
    let (kind, server) =
        if of_server { (MessageType::Renew, Some(lease.server.as_slice())) } else { (MessageType::Rebind, None) };
    let message = exchange.message(kind, server, Some(lease.address));
    match exchange.ask(&message, MessageType::Reply, Instant::now() + PROLONG)? {
        Some(found) if found.address != lease.address => Err(ExchangeError::Refused(lease.address.into())),
        found => Ok(found),
    }
}

/// Gives the lease back, and doesn't insist.
pub fn release(client: &Client<'_>, lease: &Lease) -> Result<(), ExchangeError> {
    let exchange = Exchange::open(client)?;
    let message = exchange.message(MessageType::Release, Some(&lease.server), Some(lease.address));
    exchange.send(&message)?;
    let xid = message.xid();
    let answered = |bytes: &[u8]| Message::decode(&mut Decoder::new(bytes)).ok().filter(|found| found.xid() == xid);
    link::receive(&exchange.socket, Instant::now() + RELEASE, client.stops, answered)?;
    Ok(())
}

impl<'c> Exchange<'c> {
    fn open(client: &'c Client<'c>) -> Result<Self, ExchangeError> {
        let LinkId { index, mac, ifname, .. } = client.link;
        let local = link::link_local(client.link, Instant::now() + LINK_LOCAL, client.stops)?;
        let doing = "cannot bind to the link-local address";
        let socket = UdpSocket::bind(SocketAddrV6::new(local, CLIENT, 0, *index))
            .map_err(|source| LinkError::Socket { doing, source })?;
        let iaid = u32::from_str_radix(&sha512_hex(&[ifname.as_str()], 8), 16).unwrap_or_default();
        Ok(Self { client, socket, duid: [DUID.as_slice(), &mac.0].concat(), iaid, begin: Instant::now() })
    }

    fn message(&self, kind: MessageType, server: Option<&[u8]>, address: Option<Ipv6Addr>) -> Message {
        let xid = random().to_be_bytes();
        let mut message = Message::new_with_id(kind, [xid[0], xid[1], xid[2]]);
        let mut addresses = dhcproto::v6::DhcpOptions::new();
        if let Some(addr) = address {
            let opts = dhcproto::v6::DhcpOptions::new();
            addresses.insert(DhcpOption::IAAddr(IAAddr { addr, preferred_life: 0, valid_life: 0, opts }));
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(self.duid.clone()));
        if let Some(server) = server {
            options.insert(DhcpOption::ServerId(server.to_vec()));
        }
        options.insert(DhcpOption::IANA(IANA { id: self.iaid, t1: 0, t2: 0, opts: addresses }));
        options
            .insert(DhcpOption::ORO(ORO { opts: vec![OptionCode::DomainNameServers, OptionCode::DomainSearchList] }));
        let hundredths = u16::try_from(self.begin.elapsed().as_millis() / 10).unwrap_or(u16::MAX);
        options.insert(DhcpOption::ElapsedTime(hundredths));
        message
    }

    fn send(&self, message: &Message) -> Result<(), ExchangeError> {
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).map_err(|error| ExchangeError::Message(error.to_string()))?;
        let to = SocketAddrV6::new(ALL, SERVER, 0, self.client.link.index);
        let doing = "cannot send on the container's link";
        self.socket.send_to(&bytes, to).map_err(|source| LinkError::Socket { doing, source })?;
        Ok(())
    }

    fn ask(&self, message: &Message, wanted: MessageType, end: Instant) -> Result<Option<Lease>, ExchangeError> {
        self.send(message)?;
        let xid = message.xid();
        let accept = |bytes: &[u8]| reply(bytes, &self.duid, self.iaid, xid, wanted);
        Ok(link::receive(&self.socket, end, self.client.stops, accept)?)
    }
}

/// What a server gives in answer to the message with this number, if it is one.
pub fn reply(bytes: &[u8], duid: &[u8], iaid: u32, xid: [u8; 3], wanted: MessageType) -> Option<Lease> {
    let found = Message::decode(&mut Decoder::new(bytes)).ok()?;
    let is_ours = matches!(found.opts().get(OptionCode::ClientId), Some(DhcpOption::ClientId(id)) if id == duid);
    (found.xid() == xid && found.msg_type() == wanted && is_ours).then(|| lease(&found, iaid)).flatten()
}

fn lease(message: &Message, iaid: u32) -> Option<Lease> {
    let options = message.opts();
    let Some(DhcpOption::ServerId(server)) = options.get(OptionCode::ServerId) else { return None };
    let fails = |options: &dhcproto::v6::DhcpOptions| matches!(options.get(OptionCode::StatusCode), Some(DhcpOption::StatusCode(found)) if found.status != Status::Success);
    let association = options.iter().find_map(|option| match option {
        DhcpOption::IANA(found) if found.id == iaid => Some(found),
        _ => None,
    })?;
    let address = association.opts.iter().find_map(|option| match option {
        // An address whose preferred lifetime is the longer one is to be discarded (RFC 8415, 21.6).
        DhcpOption::IAAddr(found) if found.valid_life > 0 && found.preferred_life <= found.valid_life => {
            (is_host(found.addr.into()) && !fails(&found.opts)).then_some(found)
        }
        _ => None,
    })?;
    if fails(options) || fails(&association.opts) {
        return None;
    }
    let servers = match options.get(OptionCode::DomainNameServers) {
        Some(DhcpOption::DomainNameServers(servers)) => {
            servers.iter().copied().filter(|ip| is_host((*ip).into())).collect()
        }
        _ => Vec::new(),
    };
    let search = match options.get(OptionCode::DomainSearchList) {
        Some(DhcpOption::DomainSearchList(names)) => {
            names.iter().map(ToString::to_string).filter(|name| is_name(name)).collect()
        }
        _ => Vec::new(),
    };
    let preferred = f64::from(address.preferred_life) / f64::from(address.valid_life.max(1));
    let parts = (PARTS.0 * preferred, PARTS.1 * preferred);
    let times = Times::new(now(), address.valid_life, (Some(association.t1), Some(association.t2)), parts);
    Some(Lease { address: address.addr, server: server.clone(), servers, search, times })
}

impl Lease {
    /// Adds what the lease gives to the container: the address alone, for the prefix of the link and the routers come with router
    /// advertisements.
    pub fn grant(&self, granted: &mut Granted) {
        granted.ips.push(IpConfig {
            interface: None,
            address: IpNetwork::from(std::net::IpAddr::V6(self.address)),
            gateway: None,
        });
        let Dns { nameservers, search, .. } = &mut granted.dns;
        nameservers.extend(self.servers.iter().map(ToString::to_string));
        let new = |name: &&String| !search.contains(name);
        let new: Vec<String> = self.search.iter().filter(new).cloned().collect();
        search.extend(new);
    }
}
