//! Connection tracking: forgets connections to published ports that would continue with their former translation.
//!
//! The kernel consults the NAT rules for the first packet of a connection only. A UDP client that never pauses keeps its entry
//! alive: its packets never reach a container that was published later, or still go to the address of one that is gone. A TCP
//! client retransmits to a container that is gone until it gives up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use cni_plugin::Protocol;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as Number, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use rustix::io::Errno;

use crate::intent::PortForward;
use crate::nftables::{NftError, Socket};

/// `IPCTNL_MSG_CT_GET`, then `CTA_TUPLE_ORIG`, `CTA_STATUS`, `CTA_ID`, `CTA_ZONE`, `CTA_FILTER` and `CTA_STATUS_MASK`
/// (linux/netfilter/nfnetlink_conntrack.h).
const GET: u8 = 1;
const ORIGINAL_TUPLE: u16 = 1;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const STATUS_MASK: u16 = 26;

/// Which of the connections to a published port are forgotten.
#[derive(Clone, Copy)]
pub enum Flush<'a> {
    /// Those that don't lead to the forward's target, because they are older than its rule. For ADD.
    Stale {
        /// Says whether an address is one of the node's own.
        is_local: &'a dyn Fn(IpAddr) -> bool,
        /// Targets that connections to the port may have as well: of other owners, with which it is shared.
        partners: &'a HashSet<SocketAddr>,
    },
    /// Those that lead to the forward's target. For DEL.
    Ours,
}

/// Forgets connections to these published ports, and no others: the protocol and the original destination port must be
/// the forward's, the original destination address must be its host address or, if it has none, any address of this node.
/// Returns how many there were. Idempotent.
///
/// With [`Flush::Stale`] TCP is left alone: a new connection is a new entry, and what led to another container has been
/// forgotten when that one's ports were withdrawn.
///
/// The kernel filters the list, but each list goes through the whole table, which takes milliseconds even with few
/// entries: once to find what was forwarded, and once a protocol and family to find what was not.
///
/// # Errors
/// If the kernel has no connection tracking over netlink (module `nf_conntrack_netlink`), or refuses.
pub fn forget_flows<'a>(
    forwards: impl IntoIterator<Item = &'a PortForward>,
    which: Flush<'_>,
) -> Result<usize, NftError> {
    let persists = |forward: &&PortForward| forward.protocol != Protocol::Tcp || matches!(which, Flush::Ours);
    let forwards: BTreeSet<PortForward> = forwards.into_iter().filter(persists).copied().collect();
    if forwards.is_empty() {
        return Ok(0);
    }
    let mut by_port: HashMap<(u8, u16), Vec<&PortForward>> = HashMap::new();
    for forward in &forwards {
        by_port.entry((forward.protocol.number(), forward.host_port)).or_default().push(forward);
    }
    let socket = Socket::open()?;
    let mut known: HashMap<IpAddr, bool> = HashMap::new();
    let mut deletions = Vec::new();
    for (family, filter) in filters(&forwards, which) {
        dump(&socket, family, filter, |attributes| {
            let Some(entry) = Entry::read(&attributes) else { return };
            let mut candidates = by_port.get(&(entry.protocol, entry.to.port())).into_iter().flatten();
            if candidates.any(|forward| is_hit(&entry, forward, which, &mut known)) {
                let message = ConntrackMessage::Delete(identity(attributes));
                deletions.push(message_for(family_of(entry.to.ip()), message));
            }
        })?;
    }
    let mut forgotten = 0;
    for refusal in socket.tell("forget a connection", deletions)? {
        match refusal {
            None => forgotten += 1,
            // The connection has ended meanwhile.
            Some(error) if error.errno() == Some(Errno::NOENT) => {}
            Some(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn family_of(address: IpAddr) -> NetfilterProtoFamily {
    if address.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 }
}

/// Lists the tracked connections of a family; without the filter if the kernel refuses it.
fn dump(
    socket: &Socket,
    family: NetfilterProtoFamily,
    filter: Vec<DefaultNla>,
    mut visit: impl FnMut(Vec<ConntrackAttribute>),
) -> Result<(), NftError> {
    let what = "list the tracked connections";
    let mut run = |filter| {
        // As plain attributes: `ConntrackAttribute::Other` loses the flag of a nested one.
        let (subsys, message_type) = (NetfilterSubsystem::Conntrack, GET);
        let question = message_for(family, NetfilterMessageInner::Other { subsys, message_type, attributes: filter });
        socket.dump(what, &question, |message| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.decode(what)? {
                visit(attributes);
            }
            Ok(())
        })
    };
    match run(filter) {
        Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) => run(Vec::new()),
        outcome => outcome,
    }
}

fn message_for(family: NetfilterProtoFamily, message: impl Into<NetfilterMessageInner>) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// The lists to ask for. A kernel that does not know a filter lists everything; [`is_hit`] decides in any case.
fn filters(forwards: &BTreeSet<PortForward>, which: Flush<'_>) -> Vec<(NetfilterProtoFamily, Vec<DefaultNla>)> {
    if matches!(which, Flush::Ours) {
        return vec![(NetfilterProtoFamily::Unspec, translated())];
    }
    let mut groups: BTreeMap<(Protocol, bool), BTreeSet<u16>> = BTreeMap::new();
    for forward in forwards {
        groups.entry((forward.protocol, forward.to.is_ipv4())).or_default().insert(forward.host_port);
    }
    let family = |ipv4| if ipv4 { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    groups.into_iter().map(|((protocol, ipv4), ports)| (family(ipv4), to_ports(protocol, &ports))).collect()
}

/// Connections whose destination was translated (Linux 5.15 or newer).
fn translated() -> Vec<DefaultNla> {
    let bits = Status::DstNat.bits().to_be_bytes().to_vec();
    vec![DefaultNla::new(STATUS, bits.clone()), DefaultNla::new(STATUS_MASK, bits)]
}

/// Connections of a protocol; those to the port, if there is only one (Linux 5.8 or newer).
fn to_ports(protocol: Protocol, ports: &BTreeSet<u16>) -> Vec<DefaultNla> {
    /// `CTA_FILTER_ORIG_FLAGS`, and its bits for `CTA_PROTO_NUM` and `CTA_PROTO_DST_PORT` (nf_internals.h).
    const ORIGINAL: u16 = 1;
    const BY_PROTOCOL: u32 = 1 << 3;
    const BY_PORT: u32 = 1 << 5;
    let mut wanted = vec![ProtoTuple::Protocol(Number::from(protocol.number()))];
    let mut flags = BY_PROTOCOL;
    if let (Some(port), 1) = (ports.first(), ports.len()) {
        wanted.push(ProtoTuple::DestinationPort(*port));
        flags |= BY_PORT;
    }
    let tuple = bytes_of(&Tuple::Proto(wanted));
    let filter = bytes_of(&DefaultNla::new(ORIGINAL, flags.to_ne_bytes().to_vec()));
    vec![DefaultNla::new(ORIGINAL_TUPLE | NLA_F_NESTED, tuple), DefaultNla::new(FILTER | NLA_F_NESTED, filter)]
}

fn bytes_of(attribute: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    bytes
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
    if let Flush::Stale { partners, .. } = which
        && partners.contains(&entry.replies_from)
    {
        return false;
    }
    match (forward.specified_ip(), which) {
        (Some(address), _) => address == entry.to.ip(),
        (None, Flush::Ours) => true,
        // Without this, every query that passes through to a name server would be forgotten when port 53 is published.
        (None, Flush::Stale { is_local, .. }) => {
            *known.entry(entry.to.ip()).or_insert_with_key(|address| is_local(*address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A nested attribute without its flag is refused, and then everything is listed. Bytes that Linux 6.18 took.
    #[test]
    fn the_filter_is_what_the_kernel_takes() {
        let sent = |ports: &[u16]| -> Vec<Vec<u8>> {
            to_ports(Protocol::Tcp, &ports.iter().copied().collect()).iter().map(bytes_of).collect()
        };
        let number = [5, 0, 1, 0, 6, 0, 0, 0];
        let port = [6, 0, 3, 0, 0x1f, 0x90, 0, 0];
        let tuple = [&[24, 0, 1, 0x80, 20, 0, 2, 0x80], &number[..], &port].concat();
        assert_eq!(sent(&[8080]), [tuple, vec![12, 0, 25, 0x80, 8, 0, 1, 0, 40, 0, 0, 0]]);
        let tuple = [&[16, 0, 1, 0x80, 12, 0, 2, 0x80], &number[..]].concat();
        assert_eq!(sent(&[80, 81]), [tuple, vec![12, 0, 25, 0x80, 8, 0, 1, 0, 8, 0, 0, 0]]);
    }
}
