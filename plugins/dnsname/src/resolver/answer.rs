//! Answers: from a message and what its sender may see to a message. Knows no socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use simple_dns::{CLASS, Name, OPCODE, Packet, QCLASS, QTYPE, RCODE, TYPE};

use super::upstream::Random;
use super::zone::{Known, View, Zone};

/// A header (RFC 1035, 4.1.1).
pub const HEADER: usize = 12;
/// What a client takes over UDP without EDNS, and what is sent at most: it fits in IPv6's smallest MTU.
const SMALLEST: u16 = 512;
const LARGEST: u16 = 1232;
/// Names move with their containers: nothing may be kept.
const TTL: u32 = 0;
/// Of [`add_opt`]'s record.
const OPT_LENGTH: usize = 11;
const NAME_ERROR: u8 = RCODE::NameError as u8;
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, HEADER as u8];

/// What to do with a message.
#[derive(Debug)]
pub enum Verdict {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask these servers; `None` are the node's.
    Upstream(Option<Vec<SocketAddr>>),
    /// It is no question, or can't be answered.
    Ignore,
}

/// What answers a message that `client` sent to `server`.
pub fn answer(
    zone: &Zone,
    server: IpAddr,
    client: IpAddr,
    message: &[u8],
    is_datagram: bool,
    random: &mut Random,
) -> Verdict {
    if !is_question(message) {
        return Verdict::Ignore;
    }
    if !has_plain_counts(message) {
        return error(message, RCODE::FormatError);
    }
    let Ok(query) = Packet::parse(message) else { return error(message, RCODE::FormatError) };
    if query.opcode() != OPCODE::StandardQuery {
        return error(message, RCODE::NotImplemented);
    }
    let Some(view) = zone.view(server, client) else { return error(message, RCODE::Refused) };
    match decide(&view, &query, client == server, random) {
        Decision::Reply(reply) => reply.build(message, &query, is_datagram),
        Decision::Upstream(servers) => Verdict::Upstream(servers),
        Decision::Error(code) => error(message, code),
    }
}

/// An answer that says that no server could be asked.
pub fn failure(message: &[u8]) -> Option<Vec<u8>> {
    match error(message, RCODE::ServerFailure) {
        Verdict::Answer(bytes) => Some(bytes),
        _ => None,
    }
}

fn is_question(message: &[u8]) -> bool {
    message.len() >= HEADER && message[2] & 0x80 == 0
}

/// One question, no answers, and of what follows no more than EDNS and a signature: what comes in such numbers is not read.
fn has_plain_counts(message: &[u8]) -> bool {
    let count = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    count(4) == 1 && count(6) == 0 && count(8) == 0 && count(10) <= 2
}

/// The header of the question with a code, and the question itself if that can be found.
fn error(message: &[u8], code: RCODE) -> Verdict {
    let end = end_of_question(message).filter(|_| has_plain_counts(message));
    let mut bytes = message[..end.unwrap_or(HEADER)].to_vec();
    let code = u8::try_from(code as u16).unwrap_or(0);
    // QR, the opcode and RD as they came; RA and the code.
    bytes[2] = 0x80 | bytes[2] & 0x79;
    bytes[3] = 0x80 | code;
    bytes[4..HEADER].fill(0);
    bytes[5] = u8::from(end.is_some());
    Verdict::Answer(bytes)
}

/// Where the first question ends: a name without compression, its type and its class.
pub fn end_of_question(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= message.len() && at - HEADER < 255).then_some(end)
}

enum Decision {
    Reply(Reply),
    Upstream(Option<Vec<SocketAddr>>),
    Error(RCODE),
}

/// An answer of our own.
#[derive(Default)]
struct Reply {
    addresses: Vec<IpAddr>,
    pointer: Option<String>,
    is_unknown: bool,
    /// The name is ours to know.
    is_own: bool,
}

fn decide(view: &View<'_>, query: &Packet<'_>, is_node: bool, random: &mut Random) -> Decision {
    let Some(question) = query.questions.first() else { return Decision::Error(RCODE::FormatError) };
    if matches!(question.qtype, QTYPE::AXFR | QTYPE::IXFR)
        || !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY)
    {
        return Decision::Error(RCODE::Refused);
    }
    let own = Reply { is_own: true, ..Reply::default() };
    let Some(name) = text_of(&question.qname) else { return pass_on(view, is_node) };
    if let Some(address) = reversed(&name) {
        return match view.name_of(address) {
            Ok(Some(pointer)) => {
                let is_asked = matches!(question.qtype, QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY);
                Decision::Reply(Reply { pointer: is_asked.then_some(pointer), ..own })
            }
            Ok(None) => Decision::Reply(Reply { is_unknown: true, ..own }),
            Err(()) => pass_on(view, is_node),
        };
    }
    match view.find(&name) {
        Known::Addresses(mut addresses) => {
            addresses.retain(|address| match question.qtype {
                QTYPE::TYPE(TYPE::A) => address.is_ipv4(),
                QTYPE::TYPE(TYPE::AAAA) => address.is_ipv6(),
                QTYPE::ANY => true,
                _ => false,
            });
            random.shuffle(&mut addresses);
            Decision::Reply(Reply { addresses, ..own })
        }
        Known::Domain => Decision::Reply(own),
        Known::Nobody => Decision::Reply(Reply { is_unknown: true, ..own }),
        Known::Foreign => pass_on(view, is_node),
    }
}

/// The node has servers of its own. A network without a way out gets the answer that there is no such name: an error would make its
/// clients ask again and again.
fn pass_on(view: &View<'_>, is_node: bool) -> Decision {
    match view.upstream() {
        _ if is_node => Decision::Error(RCODE::Refused),
        Ok(servers) => Decision::Upstream(servers),
        Err(()) => Decision::Reply(Reply { is_unknown: true, ..Reply::default() }),
    }
}

impl Reply {
    /// The message: the question as it came, and the records. Put together here, as a library's records cost more than all the rest.
    fn build(self, message: &[u8], query: &Packet<'_>, is_datagram: bool) -> Verdict {
        let Some(end) = end_of_question(message) else { return error(message, RCODE::FormatError) };
        let limit = query.opt().map_or(SMALLEST, |opt| opt.udp_packet_size.clamp(SMALLEST, LARGEST));
        let mut bytes = Vec::with_capacity(usize::from(SMALLEST));
        bytes.extend_from_slice(&message[..end]);
        let mut records = 0;
        for address in &self.addresses {
            match address {
                IpAddr::V4(v4) => add_record(&mut bytes, TYPE::A, &v4.octets()),
                IpAddr::V6(v6) => add_record(&mut bytes, TYPE::AAAA, &v6.octets()),
            }
            records += 1;
        }
        if let Some(name) = self.pointer.as_deref().and_then(|pointer| Name::new(pointer).ok()) {
            let label = |label: &[u8]| [&[u8::try_from(label.len()).unwrap_or(0)], label].concat();
            let labels: Vec<u8> = name.as_bytes().flat_map(label).chain([0]).collect();
            add_record(&mut bytes, TYPE::PTR, &labels);
            records += 1;
        }
        let has_opt = query.opt().is_some();
        // The client asks again over TCP.
        let is_cut = is_datagram && bytes.len() + if has_opt { OPT_LENGTH } else { 0 } > usize::from(limit);
        if is_cut {
            bytes.truncate(end);
            records = 0;
        }
        if has_opt {
            add_opt(&mut bytes);
        }
        // QR, RD as it came, AA and TC; RA and the code.
        bytes[2] = 0x80 | message[2] & 0x01 | u8::from(self.is_own) << 2 | u8::from(is_cut) << 1;
        bytes[3] = 0x80 | if self.is_unknown { NAME_ERROR } else { 0 };
        for (at, count) in [(4, 1), (6, records), (8, 0), (10, has_opt.into())] {
            bytes[at..at + 2].copy_from_slice(&u16::to_be_bytes(count));
        }
        Verdict::Answer(bytes)
    }
}

/// A record of the name that was asked for (RFC 1035, 4.1.3; the pointer to it is 4.1.4).
fn add_record(bytes: &mut Vec<u8>, kind: TYPE, data: &[u8]) {
    bytes.extend_from_slice(&POINTER_TO_QUESTION);
    bytes.extend_from_slice(&u16::from(kind).to_be_bytes());
    bytes.extend_from_slice(&(CLASS::IN as u16).to_be_bytes());
    bytes.extend_from_slice(&TTL.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(data);
}

/// EDNS's record, without options (RFC 6891, 6.1).
fn add_opt(bytes: &mut Vec<u8>) {
    bytes.push(0);
    bytes.extend_from_slice(&u16::from(TYPE::OPT).to_be_bytes());
    bytes.extend_from_slice(&LARGEST.to_be_bytes());
    bytes.extend_from_slice(&[0; 6]);
}

/// A name in small letters; `None` if it has characters that no container's name has.
fn text_of(name: &Name<'_>) -> Option<String> {
    let mut text = Vec::with_capacity(64);
    for label in name.as_bytes() {
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_') {
            return None;
        }
        if !text.is_empty() {
            text.push(b'.');
        }
        text.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    String::from_utf8(text).ok()
}

/// The address that a name of `in-addr.arpa` (RFC 1035, 3.5) or `ip6.arpa` (RFC 3596, 2.5) stands for.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut parts = digits.rsplit('.').map(|part| part.parse::<u8>().ok());
        let address = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
        return parts.next().is_none().then(|| Ipv4Addr::from(address).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut number: u128 = 0;
    let mut count = 0;
    for digit in digits.rsplit('.') {
        let value = char::from(*digit.as_bytes().first()?).to_digit(16).filter(|_| digit.len() == 1)?;
        number = number << 4 | u128::from(value);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(number).into())
}
