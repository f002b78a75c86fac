//! Connection tracking: forgets connections to published ports that would go on as they were before.
//!
//! The NAT rules are asked for the first packet of a connection only. A UDP client that never stops sending keeps its
//! entry alive, and so never reaches a container that was published later, or still reaches one that has gone. A TCP
//! client goes on asking a container that has gone for a connection, or for an answer, until it gives up.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as Number, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::io::Errno;

use crate::nftables::{NftError, Socket, protocol_number};
use crate::{PortForward, Protocol};

/// `CTA_ID`, `CTA_ZONE`, `CTA_FILTER` (linux/netfilter/nfnetlink_conntrack.h).
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// Which of the connections to a published port are forgotten.
#[derive(Clone, Copy)]
pub enum Flush<'a> {
    /// Those that lead elsewhere than to the forward's target: left from before it was published. For ADD. The function
    /// says whether an address is the node's own.
    Stale(&'a dyn Fn(IpAddr) -> bool),
    /// Those that lead to the forward's target. For DEL.
    Ours,
}

/// Forgets connections to these published ports, and no others: the protocol and the original destination port must be
/// the forward's, the original destination address must be its host address or, if it has none, any address of this node.
/// Returns how many there were. Idempotent.
///
/// One dump a protocol, which the kernel filters (Linux 5.8 or newer). It walks all of its table for that, which takes
/// milliseconds however few entries there are.
///
/// # Errors
/// If the kernel has no connection tracking over netlink (module `nf_conntrack_netlink`), or refuses.
pub fn flush_forwards(forwards: &[PortForward], which: Flush<'_>) -> Result<usize, NftError> {
    let mut by_protocol: BTreeMap<Protocol, Vec<&PortForward>> = BTreeMap::new();
    for forward in forwards {
        by_protocol.entry(forward.protocol).or_default().push(forward);
    }
    if by_protocol.is_empty() {
        return Ok(0);
    }
    let socket = Socket::open()?;
    by_protocol.values().map(|forwards| flush_protocol(&socket, forwards, which)).sum()
}

fn flush_protocol(socket: &Socket, forwards: &[&PortForward], which: Flush<'_>) -> Result<usize, NftError> {
    let mut by_port: HashMap<(u8, u16), Vec<&PortForward>> = HashMap::new();
    for forward in forwards {
        by_port.entry((protocol_number(forward.protocol), forward.host_port)).or_default().push(forward);
    }
    let mut known: HashMap<IpAddr, bool> = HashMap::new();
    let mut deletions = Vec::new();
    dump(socket, family_of(forwards), filter(forwards), |attributes| {
        let Some(entry) = Entry::read(&attributes) else { return };
        let mut candidates = by_port.get(&(entry.protocol, entry.to.port())).into_iter().flatten();
        if candidates.any(|forward| is_hit(&entry, forward, which, &mut known)) {
            let family = family(entry.to.is_ipv4());
            deletions.push(message_for(family, ConntrackMessage::Delete(identity(attributes))));
        }
    })?;
    let mut forgotten = 0;
    for refusal in socket.tell("forget a connection", deletions)? {
        match refusal {
            None => forgotten += 1,
            // It ended by itself.
            Some(error) if error.errno() == Some(Errno::NOENT) => {}
            Some(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn family(ipv4: bool) -> NetfilterProtoFamily {
    if ipv4 { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 }
}

/// The family of all of them, or any if they differ: one walk then serves both.
fn family_of(forwards: &[&PortForward]) -> NetfilterProtoFamily {
    match forwards {
        [first, rest @ ..] if rest.iter().all(|other| other.to.is_ipv4() == first.to.is_ipv4()) => {
            family(first.to.is_ipv4())
        }
        _ => NetfilterProtoFamily::Unspec,
    }
}

/// Lists the tracked connections of a family; without the filter if the kernel refuses it.
fn dump(
    socket: &Socket,
    family: NetfilterProtoFamily,
    filter: Vec<ConntrackAttribute>,
    mut visit: impl FnMut(Vec<ConntrackAttribute>),
) -> Result<(), NftError> {
    let what = "list the tracked connections";
    let mut run = |filter| {
        let question = message_for(family, ConntrackMessage::Get(filter));
        socket.dump(what, &question, |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.decode(what)? {
                visit(attributes);
            }
            Ok(())
        })
    };
    let filtered = !filter.is_empty();
    match run(filter) {
        Err(error) if filtered && matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) => run(Vec::new()),
        outcome => outcome,
    }
}

fn message_for(family: NetfilterProtoFamily, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// A filter that the kernel applies to the dump: the protocol and, if it is but one, the port. A kernel that does not know
/// it lists everything, and [`is_hit`] decides alone.
fn filter(forwards: &[&PortForward]) -> Vec<ConntrackAttribute> {
    /// `CTA_FILTER_ORIG_FLAGS`, and its bits for `CTA_PROTO_NUM` and `CTA_PROTO_DST_PORT` (nf_internals.h).
    const ORIGINAL: u16 = 1;
    const BY_PROTOCOL: u32 = 1 << 3;
    const BY_PORT: u32 = 1 << 5;
    let [first, rest @ ..] = forwards else { return Vec::new() };
    let mut wanted = vec![ProtoTuple::Protocol(Number::from(protocol_number(first.protocol)))];
    let mut flags = BY_PROTOCOL;
    if rest.iter().all(|other| other.host_port == first.host_port) {
        wanted.push(ProtoTuple::DestinationPort(first.host_port));
        flags |= BY_PORT;
    }
    // One attribute: its length, its kind, its value, in host byte order.
    let mut nested = 8_u16.to_ne_bytes().to_vec();
    nested.extend(ORIGINAL.to_ne_bytes());
    nested.extend(flags.to_ne_bytes());
    vec![
        ConntrackAttribute::CtaTupleOrig(vec![Tuple::Proto(wanted)]),
        ConntrackAttribute::Other(DefaultNla::new(FILTER | NLA_F_NESTED, nested)),
    ]
}

/// A tracked connection.
struct Entry {
    protocol: u8,
    /// Where the client sends to.
    to: SocketAddr,
    /// Where the replies come from: the container, if the connection was forwarded.
    replies_from: SocketAddr,
}

impl Entry {
    fn read(attributes: &[ConntrackAttribute]) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => original = End::read(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => reply = End::read(tuple),
                _ => {}
            }
        }
        let (original, reply) = (original?, reply?);
        Some(Self { protocol: original.protocol, to: original.destination, replies_from: reply.source })
    }
}

/// One direction of a connection.
struct End {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

impl End {
    /// `None` for protocols without ports.
    fn read(tuple: &[Tuple]) -> Option<Self> {
        let (mut from, mut to, mut protocol, mut from_port, mut to_port) = (None, None, None, None, None);
        for part in tuple {
            match part {
                Tuple::Ip(addresses) => {
                    for address in addresses {
                        match address {
                            IPTuple::SourceAddress(address) => from = Some(*address),
                            IPTuple::DestinationAddress(address) => to = Some(*address),
                            _ => {}
                        }
                    }
                }
                Tuple::Proto(parts) => {
                    for part in parts {
                        match part {
                            ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                            ProtoTuple::SourcePort(port) => from_port = Some(*port),
                            ProtoTuple::DestinationPort(port) => to_port = Some(*port),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(Self {
            protocol: protocol?,
            source: SocketAddr::new(from?, from_port?),
            destination: SocketAddr::new(to?, to_port?),
        })
    }
}

/// What identifies an entry to the kernel: its original direction, its zone, and its ID, so that a new connection of the
/// same client is not mistaken for it.
fn identity(attributes: Vec<ConntrackAttribute>) -> Vec<ConntrackAttribute> {
    use netlink_packet_core::Nla;
    attributes
        .into_iter()
        .filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(other) => matches!(other.kind(), ID | ZONE),
            _ => false,
        })
        .collect()
}

fn is_hit(entry: &Entry, forward: &PortForward, which: Flush<'_>, known: &mut HashMap<IpAddr, bool>) -> bool {
    let leads_to_it = entry.replies_from == forward.to;
    let same_family = entry.to.is_ipv4() == forward.to.is_ipv4();
    if !same_family || leads_to_it != matches!(which, Flush::Ours) {
        return false;
    }
    match (forward.host_ip.filter(|address| !address.is_unspecified()), which) {
        (Some(address), _) => address == entry.to.ip(),
        (None, Flush::Ours) => true,
        // Without this, every query that passes through to a name server would be forgotten when port 53 is published.
        (None, Flush::Stale(is_local)) => *known.entry(entry.to.ip()).or_insert_with_key(|address| is_local(*address)),
    }
}
