//! Ranges of ports: consecutive ports that lead to consecutive ones of a container are one rule instead of one each.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use cni_plugin::Protocol;

use crate::intent::PortForward;
use crate::iptables::tool::{Rule, port_numbers};

/// The longest range that is still written port by port, as the Go plugin writes it and checks it.
const SINGLY: u16 = 64;

/// Host ports from `first` to `last`, and the container's address and port for the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortRange {
    pub(super) protocol: Protocol,
    pub(super) host_ip: Option<IpAddr>,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) to: SocketAddr,
}

impl PortRange {
    fn of(port: &PortForward) -> Self {
        let (first, last) = (port.host_port, port.host_port);
        let host_ip = port.host_ip.filter(|ip| !ip.is_unspecified());
        Self { protocol: port.protocol, host_ip, first, last, to: port.to }
    }

    /// The host ports as a match has them: `80` or `8000:8099`.
    pub(super) fn ports(&self) -> String {
        if self.first == self.last { self.first.to_string() } else { format!("{}:{}", self.first, self.last) }
    }

    /// How many of a multiport match's places they take.
    pub(super) fn places(&self) -> usize {
        if self.first == self.last { 1 } else { 2 }
    }

    /// Where `DNAT` sends them. A range to other numbers is shifted: `10.0.0.2:80-89/8000` (Linux 4.18, iptables 1.8).
    pub(super) fn destination(&self) -> String {
        let (from, to) = (self.first, self.to.port());
        if self.first == self.last {
            return self.to.to_string();
        }
        if from == to {
            return self.to.ip().to_string();
        }
        format!("{}-{}/{from}", self.to, to.saturating_add(self.last - self.first))
    }

    /// The range that a `DNAT` rule translates.
    pub(crate) fn read(rule: &Rule) -> Option<Self> {
        if rule.target() != Some("DNAT") {
            return None;
        }
        let (first, last) = port_numbers(rule.value("--dport")?)?;
        let text = rule.value("--to-destination")?;
        let to = match text.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, first),
            Err(_) => text.split('-').next()?.parse().ok()?,
        };
        let host_ip = rule.value("-d").and_then(|net| net.split('/').next()?.parse().ok());
        Some(Self { protocol: Protocol::from_name_or_number(rule.value("-p")?)?, host_ip, first, last, to })
    }

    /// True if a packet can match both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let addresses = self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip;
        addresses && self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }

    /// The first port that both have, as this one forwards it.
    pub(super) fn common(&self, other: &Self) -> Option<PortForward> {
        let first = self.first.max(other.first);
        self.overlaps(other).then(|| self.forward(first))
    }

    fn forward(&self, host_port: u16) -> PortForward {
        let to = SocketAddr::new(self.to.ip(), self.to.port().saturating_add(host_port - self.first));
        PortForward { protocol: self.protocol, host_ip: self.host_ip, host_port, to }
    }

    /// Port by port.
    pub(crate) fn forwards(self) -> impl Iterator<Item = PortForward> {
        (self.first..=self.last).map(move |host_port| self.forward(host_port))
    }
}

/// Ranges, and their ports whatever the addresses.
#[derive(Debug)]
pub(super) struct PortSet {
    pub(super) ranges: Vec<PortRange>,
    ports: BTreeSet<(Protocol, u16)>,
}

impl PortSet {
    pub(super) fn of(ranges: Vec<PortRange>) -> Self {
        let ports = ranges.iter().flat_map(|range| (range.first..=range.last).map(|port| (range.protocol, port)));
        Self { ports: ports.collect(), ranges }
    }

    pub(super) fn overlaps(&self, range: &PortRange) -> bool {
        // The first number of a range that was read may be the greater one.
        range.first <= range.last
            && self.ports.range((range.protocol, range.first)..=(range.protocol, range.last)).next().is_some()
    }
}

/// The ports in the order given, each by itself.
pub(super) fn singly(ports: &[PortForward]) -> Vec<PortRange> {
    ports.iter().map(PortRange::of).collect()
}

/// The ports as rules translate them where no range is long: each by itself in the order given, as Go writes them, but those on
/// one address before those on all if both have a port, for the first rule decides.
pub(super) fn by_address(ports: &[PortForward]) -> Vec<PortRange> {
    let mut ranges = singly(ports);
    let on_all: BTreeSet<_> =
        ranges.iter().filter(|range| range.host_ip.is_none()).map(|range| (range.protocol, range.first)).collect();
    if ranges.iter().any(|range| range.host_ip.is_some() && on_all.contains(&(range.protocol, range.first))) {
        ranges.sort_by_key(|range| range.host_ip.is_none());
    }
    ranges
}

/// The ports with long ranges as one each, sorted so that all of these are found; `None` if there are none. Those on one address
/// come before those on all.
pub(super) fn long_ranges(ports: &[PortForward]) -> Option<Vec<PortRange>> {
    let is_long = |range: &PortRange| range.last - range.first >= SINGLY;
    let ranges = if ports.len() > usize::from(SINGLY) { joined(ports) } else { Vec::new() };
    ranges.iter().any(is_long).then(|| {
        let singly = |range: PortRange| range.forwards().map(|port| PortRange::of(&port));
        let split = |range: PortRange| if is_long(&range) { vec![range] } else { singly(range).collect() };
        ranges.into_iter().flat_map(split).collect()
    })
}

/// The ports in as few ranges as possible.
pub(super) fn joined(ports: &[PortForward]) -> Vec<PortRange> {
    let mut sorted = singly(ports);
    sorted
        .sort_unstable_by_key(|range| (range.host_ip.is_none(), range.protocol, range.host_ip, range.first, range.to));
    sorted.dedup();
    let mut ranges: Vec<PortRange> = Vec::new();
    for next in sorted {
        match ranges.last_mut() {
            Some(range) if follows(range, &next) => range.last = next.last,
            _ => ranges.push(next),
        }
    }
    ranges
}

fn follows(range: &PortRange, next: &PortRange) -> bool {
    let length = range.last - range.first;
    range.last.checked_add(1) == Some(next.first)
        && range.to.port().checked_add(length + 1) == Some(next.to.port())
        && (range.protocol, range.host_ip, range.to.ip()) == (next.protocol, next.host_ip, next.to.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(first: u16, count: u16, to: &str) -> Vec<PortForward> {
        let to: SocketAddr = to.parse().unwrap();
        let forward = |n| PortForward {
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port: first + n,
            to: SocketAddr::new(to.ip(), to.port() + n),
        };
        (0..count).map(forward).collect()
    }

    #[test]
    fn a_set_of_ports_finds_overlaps() {
        let range = |first, last| PortRange { last, ..singly(&ports(first, 1, "10.0.0.2:80"))[0] };
        let set = PortSet::of(vec![range(80, 80), range(8000, 8100), range(8050, 8060), range(443, 443)]);
        for (first, last) in [(80, 80), (1, 80), (8100, 9000), (8070, 8070), (81, 443), (1, 65_535)] {
            assert!(set.overlaps(&range(first, last)), "{first}-{last}");
        }
        for (first, last) in [(79, 79), (81, 442), (8101, 65_535)] {
            assert!(!set.overlaps(&range(first, last)), "{first}-{last}");
        }
        assert!(!set.overlaps(&PortRange { protocol: Protocol::Udp, ..range(80, 80) }));
    }

    #[test]
    fn only_long_ranges_become_one_rule() {
        assert_eq!(long_ranges(&ports(8000, 64, "10.0.0.2:80")), None);
        let range = long_ranges(&ports(8000, 65, "10.0.0.2:80")).unwrap();
        let expected = (1, "8000:8064".into(), "10.0.0.2:80-144/8000".into());
        assert_eq!((range.len(), range[0].ports(), range[0].destination()), expected);
        assert_eq!(joined(&ports(8000, 90, "[fd00::2]:8000"))[0].destination(), "fd00::2");
        assert_eq!(joined(&ports(8000, 90, "[fd00::2]:1"))[0].destination(), "[fd00::2]:1-90/8000");
        let two = [ports(8000, 70, "10.0.0.2:80"), ports(8070, 70, "10.0.0.2:80")].concat();
        let found = long_ranges(&two).unwrap();
        assert_eq!(found.len(), 2, "the container's ports begin again");
        assert_eq!(found.into_iter().flat_map(PortRange::forwards).collect::<Vec<_>>(), two);
        assert_eq!(joined(&ports(65_400, 136, "10.0.0.2:65400")).len(), 1);
        let short = [ports(8000, 70, "10.0.0.2:80"), ports(1, 3, "10.0.0.2:1")].concat();
        assert_eq!(long_ranges(&short).unwrap().len(), 4, "the others stay single");
    }

    #[test]
    fn ranges_are_found_in_any_order() {
        let udp = |port: PortForward| PortForward { protocol: Protocol::Udp, ..port };
        let tcp = ports(8000, 5000, "10.0.0.2:8000");
        let alternating: Vec<PortForward> = tcp.iter().flat_map(|port| [*port, udp(*port)]).collect();
        assert_eq!(long_ranges(&alternating).unwrap().len(), 2);
        let descending: Vec<PortForward> = alternating.iter().rev().copied().collect();
        assert_eq!(long_ranges(&descending), long_ranges(&alternating));
        assert_eq!(long_ranges(&[tcp.clone(), tcp].concat()).unwrap().len(), 1, "what is there twice is there once");
        let scattered: Vec<PortForward> = ports(1, 200, "10.0.0.2:1").into_iter().step_by(2).collect();
        assert_eq!(long_ranges(&scattered), None);
    }

    #[test]
    fn one_address_comes_before_all_where_both_have_a_port() {
        let on = |port: u16, ip: Option<&str>| PortForward {
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            ..ports(port, 1, "10.0.0.2:80")[0]
        };
        let order =
            |ports: &[PortForward]| by_address(ports).iter().map(|range| range.host_ip.is_some()).collect::<Vec<_>>();
        assert_eq!(order(&[on(80, None), on(81, Some("192.0.2.1"))]), [false, true], "as given");
        assert_eq!(order(&[on(80, None), on(81, None), on(80, Some("192.0.2.1"))]), [true, false, false]);
        let mut many = ports(8000, 90, "10.0.0.2:80");
        many.push(on(8010, Some("192.0.2.1")));
        assert!(long_ranges(&many).unwrap()[0].host_ip.is_some());
    }

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        let ranges = [
            (8000, 99, "10.0.0.2:80"),
            (8000, 99, "[fd00::2]:80"),
            (80, 99, "[fd00::2]:80"),
            (9, 1, "10.0.0.2:9"),
            (9, 1, "[fd00::2]:80"),
        ];
        for (first, count, to) in ranges {
            for range in joined(&ports(first, count, to)) {
                let args = [
                    "-p",
                    "tcp",
                    "-m",
                    "tcp",
                    "--dport",
                    &range.ports(),
                    "-j",
                    "DNAT",
                    "--to-destination",
                    &range.destination(),
                ];
                assert_eq!(PortRange::read(&Rule::new("X", args)), Some(range), "{args:?}");
            }
        }
    }
}
