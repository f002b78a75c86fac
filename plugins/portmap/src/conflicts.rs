//! Mappings that contradict each other: the same port of the node with different ports of the container.

use std::net::{IpAddr, SocketAddr};

use cni_plugin::{Family, Protocol};

use crate::mapping::Mapping;

/// A host port that would lead to two ports of the container.
#[derive(Debug, thiserror::Error)]
#[error(
    "runtimeConfig.portMappings[{index}] and [{other}]: host port {host_port} {protocol} is mapped to containerPort \
     {target} and to {other_target}: remove one of the mappings, or give them different hostIPs"
)]
pub struct Conflict {
    /// The position of one mapping in the list.
    index: usize,
    /// The position of the other one.
    other: usize,
    /// The port, with its address if there is one.
    host_port: String,
    protocol: Protocol,
    /// The container's port by the one mapping.
    target: u16,
    /// By the other one.
    other_target: u16,
}

/// A mapping in one family: its host ports from `first` to `last`, and the container's port for the first of them.
struct Range {
    protocol: Protocol,
    host_ip: Option<IpAddr>,
    first: u16,
    last: u16,
    container: u16,
    index: usize,
}

impl Range {
    fn of(index: usize, mapping: &Mapping) -> Self {
        let (first, last) = (mapping.host_port, mapping.host_port.saturating_add(mapping.count - 1));
        let (protocol, host_ip, container) = (mapping.protocol, mapping.host_ip, mapping.container_port);
        Self { protocol, host_ip, first, last, container, index }
    }

    /// The container's port for a host port of the range.
    fn target(&self, host_port: u16) -> u16 {
        self.container.saturating_add(host_port - self.first)
    }

    fn overlaps(&self, next: &Self) -> bool {
        (self.protocol, self.host_ip) == (next.protocol, next.host_ip) && next.first <= self.last
    }
}

/// Refuses a port that leads to two ports. The same mapping twice is no contradiction, and neither are one on an address and
/// one on all addresses: the former decides.
pub fn refuse(mappings: &[Mapping]) -> Result<(), Conflict> {
    Family::ALL.into_iter().try_for_each(|family| {
        let of_family = mappings.iter().enumerate().filter(|(_, mapping)| mapping.is_for(family));
        refuse_in_family(of_family.map(|(index, mapping)| Range::of(index, mapping)).collect())
    })
}

/// In sorted order it is enough to compare each range with the one before it that reaches furthest.
fn refuse_in_family(mut ranges: Vec<Range>) -> Result<(), Conflict> {
    ranges.sort_by_key(|range| (range.protocol, range.host_ip, range.first));
    let mut furthest: Option<Range> = None;
    for next in ranges {
        if let Some(before) = furthest.as_ref().filter(|before| before.overlaps(&next)) {
            let targets = (before.target(next.first), next.container);
            if targets.0 != targets.1 {
                let port = next.host_ip.map(|ip| SocketAddr::new(ip, next.first).to_string());
                let host_port = port.unwrap_or_else(|| next.first.to_string());
                let ((index, target), (other, other_target)) =
                    in_order((before.index, targets.0), (next.index, targets.1));
                return Err(Conflict { index, other, host_port, protocol: next.protocol, target, other_target });
            }
            if before.last >= next.last {
                continue;
            }
        }
        furthest = Some(next);
    }
    Ok(())
}

fn in_order<T: Ord>(one: T, other: T) -> (T, T) {
    if one <= other { (one, other) } else { (other, one) }
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;
    use serde_json::{Value, json};

    fn resolve(mappings: &Value) -> Result<(), String> {
        let config = cni_plugin::json::decode(json!({"runtimeConfig": {"portMappings": mappings}})).unwrap();
        Settings::resolve(&config).map(drop).map_err(|error| error.to_string())
    }

    fn mapping(host: u16, container: u16, range: u16, host_ip: &str) -> Value {
        json!({"hostPort": host, "containerPort": container, "protocol": "tcp", "range": range, "hostIP": host_ip})
    }

    #[test]
    fn a_port_that_leads_to_two_is_refused() {
        let refused = resolve(&json!([mapping(8080, 81, 1, ""), mapping(8080, 80, 1, "")])).unwrap_err();
        assert_eq!(
            refused,
            "runtimeConfig.portMappings[0] and [1]: host port 8080 tcp is mapped to containerPort 81 and to 80: \
             remove one of the mappings, or give them different hostIPs"
        );
        for two in [
            [mapping(8080, 80, 100, ""), mapping(8100, 80, 1, "")],
            [mapping(8100, 80, 1, ""), mapping(8080, 80, 100, "0.0.0.0")],
            [mapping(80, 80, 1, "::1"), mapping(80, 81, 1, "::1")],
            [mapping(65_535, 1, 1, ""), mapping(1, 1, 65_535, "")],
        ] {
            assert!(resolve(&json!(two)).is_err(), "{two:?}");
        }
        // Between two that are far apart, and behind one that the first reaches over.
        let three = [mapping(1, 1, 1000, ""), mapping(10, 10, 5, ""), mapping(900, 9, 1, "")];
        assert!(resolve(&json!(three)).unwrap_err().contains("[0] and [2]"));
        assert!(
            resolve(&json!([mapping(80, 80, 1, "192.0.2.1"), mapping(80, 81, 1, "192.0.2.1")]))
                .unwrap_err()
                .contains("192.0.2.1:80 tcp")
        );
    }

    #[test]
    fn what_agrees_or_is_apart_is_not() {
        let udp = json!({"hostPort": 80, "containerPort": 81, "protocol": "udp"});
        for list in [
            vec![mapping(80, 80, 1, ""), mapping(80, 80, 1, ""), udp],
            vec![mapping(80, 80, 1, ""), mapping(80, 81, 1, "192.0.2.1"), mapping(80, 82, 1, "192.0.2.2")],
            vec![mapping(80, 80, 1, "0.0.0.0"), mapping(80, 81, 1, "::")],
            vec![mapping(8080, 80, 100, ""), mapping(8050, 50, 100, ""), mapping(8180, 1, 1, "")],
            (1..=10_000).rev().map(|port| mapping(port, port, 1, "")).collect(),
        ] {
            resolve(&json!(list)).unwrap();
        }
    }
}
