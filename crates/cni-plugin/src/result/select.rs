//! What of a result concerns one interface.

use super::{CniResult, Interface, IpConfig};
use crate::names::IfName;

impl CniResult {
    /// The container's interface `ifname`, with its index in the list. Results that don't tell where their interfaces
    /// are mean the container's.
    pub fn interface(&self, ifname: &IfName) -> Option<(usize, &Interface)> {
        let named = || self.interfaces.iter().enumerate().filter(|(_, found)| found.name == ifname.as_str());
        named().find(|(_, found)| !found.sandbox.is_empty()).or_else(|| named().next())
    }

    /// The node's interface `name`.
    pub fn host_interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|found| found.name == name && found.sandbox.is_empty())
    }

    /// The addresses of the container's interface `ifname`, each with the interface's index. Those that don't say whose
    /// they are count among them: before 0.3.0 no result says so.
    pub fn ips_of(&self, ifname: &IfName) -> Vec<IpConfig> {
        let position = self.interface(ifname).and_then(|(position, _)| i64::try_from(position).ok());
        let is_its = |ip: &&IpConfig| ip.interface.is_none() || ip.interface == position;
        let placed = |ip: &IpConfig| IpConfig { interface: ip.interface.or(position), ..ip.clone() };
        self.ips.iter().filter(is_its).map(placed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_its_own_addresses_and_those_that_are_nobodys() {
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.to_owned(),
            sandbox: sandbox.to_owned(),
            ..Interface::default()
        };
        let ip = |address: &str, interface| IpConfig { interface, address: address.parse().unwrap(), gateway: None };
        let result = CniResult {
            interfaces: vec![interface("eth0", ""), interface("eth1", "/n"), interface("eth0", "/n")],
            ips: vec![
                ip("10.0.0.1/24", Some(2)),
                ip("10.0.0.2/24", Some(1)),
                ip("10.0.0.3/24", None),
                ip("10.0.0.4/24", Some(9)),
            ],
            ..CniResult::default()
        };
        let of = |name: &str| -> Vec<String> {
            let ips = result.ips_of(&name.parse().unwrap());
            ips.iter().map(|ip| format!("{} {:?}", ip.address, ip.interface)).collect()
        };
        assert_eq!(of("eth0"), ["10.0.0.1/24 Some(2)", "10.0.0.3/24 Some(2)"]);
        assert_eq!(of("eth1"), ["10.0.0.2/24 Some(1)", "10.0.0.3/24 Some(1)"]);
        assert_eq!(of("eth7"), ["10.0.0.3/24 None"]);
    }
}
