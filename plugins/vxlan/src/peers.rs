//! The file of the peers, which any program may write: a line for each host of the network.
//!
//! ```text
//! # address     the part of the network's subnet that it hands out; MAC addresses behind it
//! 192.0.2.1     10.1.1.0/24
//! 192.0.2.2     10.1.2.0/24  02:00:00:00:02:01
//! ```
//!
//! The host itself may be listed too, so that all hosts can have the same file. It is read anew by every ADD and CHECK.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_net::{unusable_host, unusable_mac};
use cni_plugin::{Family, MacAddr, state};
use ipnetwork::IpNetwork;

/// The longest file, in bytes: some 20 000 hosts.
const MAX: u64 = 1 << 20;

/// A host of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its line in the file, counted from 1.
    pub line: usize,
    /// Where its packets come from and go to.
    pub address: IpAddr,
    /// The parts of the network's subnet that it hands out. Only compared with those of the others.
    pub subnets: Vec<IpNetwork>,
    /// Hardware addresses behind it, frames to which need not be sent to all.
    pub macs: Vec<MacAddr>,
}

/// Why there are no peers.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The file can't be read.
    #[error(
        "peers: cannot read {}: {source}; a file with a line for each host is expected, with its address first: \
         \"192.0.2.1 10.1.1.0/24\"", .path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line that can't be understood, or that contradicts another one.
    #[error("peers: {}, line {line}: {what}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, with what is allowed.
        what: String,
    },
}

/// Reads the file.
///
/// # Errors
/// [`PeersError`].
pub fn read(path: &Path) -> Result<Vec<Peer>, PeersError> {
    let content = state::read_config(path, MAX).map_err(|source| PeersError::Read { path: path.to_owned(), source })?;
    parse(&content).map_err(|(line, what)| PeersError::Line { path: path.to_owned(), line, what })
}

/// The address family of the peers; none without any.
pub fn family(peers: &[Peer]) -> Option<Family> {
    peers.first().map(|peer| Family::of(peer.address))
}

/// The peers in a file's content; else the line that is wrong, and what is wrong with it.
pub fn parse(content: &[u8]) -> Result<Vec<Peer>, (usize, String)> {
    let mut peers: Vec<Peer> = Vec::new();
    for (index, bytes) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(bytes).map_err(|_| (line, "it is not UTF-8".to_owned()))?;
        let text = text.split('#').next().unwrap_or_default();
        if let Some(peer) = peer(line, text).map_err(|what| (line, what))? {
            peers.push(peer);
        }
    }
    refuse_contradictions(&peers)?;
    Ok(peers)
}

fn peer(line: usize, text: &str) -> Result<Option<Peer>, String> {
    let mut words = text.split_whitespace();
    let Some(first) = words.next() else { return Ok(None) };
    let address = first.parse().map_err(|_| {
        format!("{first:?} is not an address: an IPv4 or IPv6 address comes first, then subnets and MAC addresses")
    })?;
    if let Some(why) = unusable_host(address) {
        return Err(format!("{address} is no address of a host: {why}"));
    }
    let mut peer = Peer { line, address, subnets: Vec::new(), macs: Vec::new() };
    for word in words {
        match (word.contains('/').then(|| word.parse::<IpNetwork>()), word.parse::<MacAddr>()) {
            (Some(Ok(subnet)), _) => peer.subnets.push(subnet),
            (_, Ok(mac)) => match unusable_mac(mac) {
                Some(why) => return Err(format!("{word:?} is not a MAC address of a link: {why}")),
                None => peer.macs.push(mac),
            },
            _ => {
                return Err(format!(
                    "{word:?} is neither a subnet (10.1.2.0/24) nor a MAC address (02:00:00:00:02:01), which are what may \
                     follow the address"
                ));
            }
        }
    }
    Ok(Some(peer))
}

/// One host has an address, a MAC address and a part of the subnet; all have addresses of one family, as a VXLAN device speaks one.
fn refuse_contradictions(peers: &[Peer]) -> Result<(), (usize, String)> {
    let (mut addresses, mut macs) = (Earlier::default(), Earlier::default());
    let mut subnets: Vec<(IpAddr, IpAddr, usize, IpNetwork)> = Vec::new();
    for peer in peers {
        let line = peer.line;
        if let Some(first) = peers.first().filter(|first| first.address.is_ipv4() != peer.address.is_ipv4()) {
            let family = Family::of(first.address);
            return Err((
                line,
                format!(
                    "{} is not {family}, as {} on line {} is: all peers must be of one family",
                    peer.address, first.address, first.line
                ),
            ));
        }
        addresses.add(peer.address, line)?;
        peer.macs.iter().try_for_each(|mac| macs.add(*mac, line))?;
        subnets.extend(peer.subnets.iter().map(|net| (net.network(), net.broadcast(), line, *net)));
    }
    // Sorted by their beginning: if any two overlap, two neighbours do.
    subnets.sort_unstable();
    for pair in subnets.windows(2) {
        if let [(_, end, first, one), (start, _, second, other)] = pair
            && start <= end
            && start.is_ipv4() == end.is_ipv4()
        {
            let (line, earlier) = ((*first).max(*second), (*first).min(*second));
            return Err((
                line,
                format!("subnet {other} overlaps with {one} of line {earlier}: each host hands out a part of its own"),
            ));
        }
    }
    Ok(())
}

/// On which line something was seen.
struct Earlier<T>(std::collections::HashMap<T, usize>);

impl<T> Default for Earlier<T> {
    fn default() -> Self {
        Self(std::collections::HashMap::new())
    }
}

impl<T: std::hash::Hash + Eq + std::fmt::Display + Copy> Earlier<T> {
    fn add(&mut self, thing: T, line: usize) -> Result<(), (usize, String)> {
        match self.0.insert(thing, line) {
            Some(earlier) => Err((line, format!("{thing} is on line {earlier} already"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_address_subnets_and_mac_addresses() {
        let file = b"# hosts\n\n192.0.2.1\t10.1.1.0/24 fd00:1::/64 # one\r\n192.0.2.2 02:00:00:00:02:01 10.1.2.0/24";
        let peers = parse(file).unwrap();
        let shown: Vec<_> = peers
            .iter()
            .map(|peer| (peer.line, peer.address.to_string(), peer.subnets.len(), peer.macs.len()))
            .collect();
        assert_eq!(shown, [(3, "192.0.2.1".to_owned(), 2, 0), (4, "192.0.2.2".to_owned(), 1, 1)]);
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (file, line, parts) in [
            (&b"192.0.2.1\nnode2\n"[..], 2, &["node2", "IPv4 or IPv6"][..]),
            (b"192.0.2.1/24", 1, &["192.0.2.1/24"]),
            (b"\n\n127.0.0.1", 3, &["loopback"]),
            (b"0.0.0.0", 1, &["unspecified"]),
            (b"239.1.1.1", 1, &["multicast"]),
            (b"fe80::1", 1, &["link-local"]),
            (b"::ffff:192.0.2.1", 1, &["IPv4"]),
            (b"192.0.2.1\n192.0.2.2 10.1.0.0/33", 2, &["10.1.0.0/33", "subnet"]),
            (b"192.0.2.1 10.1.0.0", 1, &["10.1.0.0", "MAC"]),
            (b"192.0.2.1 ff:ff:ff:ff:ff:ff", 1, &["broadcast"]),
            (b"192.0.2.1\n#\n192.0.2.1", 3, &["192.0.2.1", "line 1"]),
            (b"192.0.2.1 02:00:00:00:00:01\n192.0.2.2 02:00:00:00:00:01", 2, &["02:00:00:00:00:01", "line 1"]),
            (b"192.0.2.1\n2001:db8::1", 2, &["2001:db8::1", "line 1", "family"]),
            (b"192.0.2.1 10.1.2.0/24\n192.0.2.2 10.1.0.0/16", 2, &["10.1.0.0/16", "10.1.2.0/24", "line 1"]),
            (b"192.0.2.1\n\xff", 2, &["UTF-8"]),
        ] {
            let (found, what) = parse(file).unwrap_err();
            assert_eq!(found, line, "{what}");
            assert!(parts.iter().all(|part| what.contains(part)), "{what}");
        }
    }
}
