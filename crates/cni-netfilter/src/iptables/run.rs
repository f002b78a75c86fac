//! Ports in a row: many that lead to as many of a container are one rule instead of one each.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::rules::Rule;
use crate::{PortForward, Protocol};

/// The longest row that is still written port by port, as the Go plugin writes it and checks it.
const SINGLY: u16 = 64;

/// Host ports from `first` to `last`, and the container's address and port for the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) protocol: Protocol,
    pub(super) host_ip: Option<IpAddr>,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) to: SocketAddr,
}

impl Run {
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

    /// Where `DNAT` sends them. A row to other numbers is shifted: `10.0.0.2:80-89/8000` (Linux 4.18, iptables 1.8).
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

    /// The run that a `DNAT` rule translates.
    pub(super) fn read(rule: &Rule) -> Option<Self> {
        if rule.target() != Some("DNAT") {
            return None;
        }
        let (first, last) = numbers(rule.value("--dport")?)?;
        let text = rule.value("--to-destination")?;
        let to = match text.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, first),
            Err(_) => text.split('-').next()?.parse().ok()?,
        };
        let host_ip = rule.value("-d").and_then(|net| net.split('/').next()?.parse().ok());
        Some(Self { protocol: protocol(rule.value("-p")?)?, host_ip, first, last, to })
    }

    /// True if a packet could be meant by both.
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
    pub(super) fn forwards(self) -> impl Iterator<Item = PortForward> {
        (self.first..=self.last).map(move |host_port| self.forward(host_port))
    }
}

/// The ports of many runs, whatever their addresses: whether another has one of them is told in logarithmic time.
#[derive(Debug)]
pub(super) struct PortSet(Vec<(Protocol, u16, u16)>);

impl PortSet {
    pub(super) fn of<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Self {
        let mut sorted: Vec<_> = runs.into_iter().map(|run| (run.protocol, run.first, run.last)).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(Protocol, u16, u16)> = Vec::new();
        for (protocol, first, last) in sorted {
            match merged.last_mut() {
                Some((of, _, end)) if *of == protocol && first <= *end => *end = last.max(*end),
                _ => merged.push((protocol, first, last)),
            }
        }
        Self(merged)
    }

    pub(super) fn overlaps(&self, run: &Run) -> bool {
        let before = |(protocol, _, last): &(Protocol, u16, u16)| (*protocol, *last) < (run.protocol, run.first);
        let next = self.0.get(self.0.partition_point(before));
        next.is_some_and(|(protocol, first, _)| *protocol == run.protocol && *first <= run.last)
    }
}

/// A protocol as either variant of the tool prints it.
pub(super) fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        "sctp" | "132" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// `80` or `8000:8099`.
pub(super) fn numbers(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The ports in the order given, each by itself.
pub(super) fn singly(ports: &[PortForward]) -> Vec<Run> {
    ports.iter().map(Run::of).collect()
}

/// The ports as rules translate them where no row is long: each by itself in the order given, as Go writes them, but those on
/// one address before those on all if both have a port, for the first rule decides.
pub(super) fn by_address(ports: &[PortForward]) -> Vec<Run> {
    let mut runs = singly(ports);
    let on_all: BTreeSet<_> =
        runs.iter().filter(|run| run.host_ip.is_none()).map(|run| (run.protocol, run.first)).collect();
    if runs.iter().any(|run| run.host_ip.is_some() && on_all.contains(&(run.protocol, run.first))) {
        runs.sort_by_key(|run| run.host_ip.is_none());
    }
    runs
}

/// The ports with long rows as one, in an order that finds all of these; `None` if there are none. Those on one address
/// come before those on all.
pub(super) fn rows(ports: &[PortForward]) -> Option<Vec<Run>> {
    let is_long = |run: &Run| run.last - run.first >= SINGLY;
    let rows = if ports.len() > usize::from(SINGLY) { joined(ports) } else { Vec::new() };
    rows.iter().any(is_long).then(|| {
        let singly = |run: Run| run.forwards().map(|port| Run::of(&port));
        let split = |run: Run| if is_long(&run) { vec![run] } else { singly(run).collect() };
        rows.into_iter().flat_map(split).collect()
    })
}

/// The ports in as few runs as can be.
pub(super) fn joined(ports: &[PortForward]) -> Vec<Run> {
    let mut sorted = singly(ports);
    sorted.sort_unstable_by_key(|run| (run.host_ip.is_none(), run.protocol, run.host_ip, run.first, run.to));
    sorted.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for next in sorted {
        match runs.last_mut() {
            Some(run) if follows(run, &next) => run.last = next.last,
            _ => runs.push(next),
        }
    }
    runs
}

fn follows(run: &Run, next: &Run) -> bool {
    let length = run.last - run.first;
    run.last.checked_add(1) == Some(next.first)
        && run.to.port().checked_add(length + 1) == Some(next.to.port())
        && (run.protocol, run.host_ip, run.to.ip()) == (next.protocol, next.host_ip, next.to.ip())
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
        let run = |first, last| Run { last, ..singly(&ports(first, 1, "10.0.0.2:80"))[0] };
        let set = PortSet::of(&[run(80, 80), run(8000, 8100), run(8050, 8060), run(443, 443)]);
        for (first, last) in [(80, 80), (1, 80), (8100, 9000), (8070, 8070), (81, 443), (1, 65_535)] {
            assert!(set.overlaps(&run(first, last)), "{first}-{last}");
        }
        for (first, last) in [(79, 79), (81, 442), (8101, 65_535)] {
            assert!(!set.overlaps(&run(first, last)), "{first}-{last}");
        }
        assert!(!set.overlaps(&Run { protocol: Protocol::Udp, ..run(80, 80) }));
    }

    #[test]
    fn only_long_rows_become_one() {
        assert_eq!(rows(&ports(8000, 64, "10.0.0.2:80")), None);
        let row = rows(&ports(8000, 65, "10.0.0.2:80")).unwrap();
        let expected = (1, "8000:8064".into(), "10.0.0.2:80-144/8000".into());
        assert_eq!((row.len(), row[0].ports(), row[0].destination()), expected);
        assert_eq!(joined(&ports(8000, 90, "[fd00::2]:8000"))[0].destination(), "fd00::2");
        assert_eq!(joined(&ports(8000, 90, "[fd00::2]:1"))[0].destination(), "[fd00::2]:1-90/8000");
        let two = [ports(8000, 70, "10.0.0.2:80"), ports(8070, 70, "10.0.0.2:80")].concat();
        let found = rows(&two).unwrap();
        assert_eq!(found.len(), 2, "the container's ports begin again");
        assert_eq!(found.into_iter().flat_map(Run::forwards).collect::<Vec<_>>(), two);
        assert_eq!(joined(&ports(65_400, 136, "10.0.0.2:65400")).len(), 1);
        let short = [ports(8000, 70, "10.0.0.2:80"), ports(1, 3, "10.0.0.2:1")].concat();
        assert_eq!(rows(&short).unwrap().len(), 4, "the others stay single");
    }

    #[test]
    fn rows_are_found_in_any_order() {
        let udp = |port: PortForward| PortForward { protocol: Protocol::Udp, ..port };
        let tcp = ports(8000, 5000, "10.0.0.2:8000");
        let alternating: Vec<PortForward> = tcp.iter().flat_map(|port| [*port, udp(*port)]).collect();
        assert_eq!(rows(&alternating).unwrap().len(), 2);
        let descending: Vec<PortForward> = alternating.iter().rev().copied().collect();
        assert_eq!(rows(&descending), rows(&alternating));
        assert_eq!(rows(&[tcp.clone(), tcp].concat()).unwrap().len(), 1, "what is there twice is there once");
        let scattered: Vec<PortForward> = ports(1, 200, "10.0.0.2:1").into_iter().step_by(2).collect();
        assert_eq!(rows(&scattered), None);
    }

    #[test]
    fn one_address_comes_before_all_where_both_have_a_port() {
        let on = |port: u16, ip: Option<&str>| PortForward {
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            ..ports(port, 1, "10.0.0.2:80")[0]
        };
        let order =
            |ports: &[PortForward]| by_address(ports).iter().map(|run| run.host_ip.is_some()).collect::<Vec<_>>();
        assert_eq!(order(&[on(80, None), on(81, Some("192.0.2.1"))]), [false, true], "as given");
        assert_eq!(order(&[on(80, None), on(81, None), on(80, Some("192.0.2.1"))]), [true, false, false]);
        let mut many = ports(8000, 90, "10.0.0.2:80");
        many.push(on(8010, Some("192.0.2.1")));
        assert!(rows(&many).unwrap()[0].host_ip.is_some());
    }

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        let rows = [
            (8000, 99, "10.0.0.2:80"),
            (8000, 99, "[fd00::2]:80"),
            (80, 99, "[fd00::2]:80"),
            (9, 1, "10.0.0.2:9"),
            (9, 1, "[fd00::2]:80"),
        ];
        for (first, count, to) in rows {
            for run in joined(&ports(first, count, to)) {
                let args = [
                    "-p",
                    "tcp",
                    "-m",
                    "tcp",
                    "--dport",
                    &run.ports(),
                    "-j",
                    "DNAT",
                    "--to-destination",
                    &run.destination(),
                ];
                assert_eq!(Run::read(&Rule::new("X", args)), Some(run), "{args:?}");
            }
        }
    }
}
