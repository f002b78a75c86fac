//! The parts of a result that belong to one interface.

use super::{CniResult, Interface, IpConfig};
use crate::protocol::error::CniError;
use crate::protocol::names::IfName;

impl CniResult {
    /// The container's interface `ifname`, with its index in the list. Where no interface of that name has
    /// a `sandbox`, the first one of that name.
    pub fn interface(&self, ifname: &IfName) -> Option<(usize, &Interface)> {
        let named = || self.interfaces.iter().enumerate().filter(|(_, found)| found.name == ifname.as_str());
        named().find(|(_, found)| !found.sandbox.is_empty()).or_else(|| named().next())
    }

    /// The node's interface `name`.
    pub fn host_interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|found| found.name == name && found.sandbox.is_empty())
    }

    /// Refuses a result that can't be that of an ADD which made the container's interface `ifname`, with at least one
    /// address if it has `addresses`: CHECK would have nothing to compare.
    pub fn require_of_add(&self, ifname: &IfName, addresses: bool) -> Result<(), CniError> {
        let Some((position, _)) = self.interface(ifname) else {
            return Err(CniError::plugin(format!(
                "prevResult has no interface {ifname}: CHECK compares with the result of this attachment's ADD"
            )));
        };
        if let Some(ip) = self.ips.iter().find(|ip| ip.interface.is_some_and(|index| self.at(index).is_none())) {
            let (address, index) = (ip.address, ip.interface.unwrap_or_default());
            return Err(CniError::plugin(format!(
                "prevResult: address {address} refers to interface {index}, which is not in interfaces"
            )));
        }
        let position = i64::try_from(position).ok();
        if addresses && !self.ips.iter().any(|ip| ip.interface.is_none() || ip.interface == position) {
            return Err(CniError::plugin(format!("prevResult has no address of {ifname}, but ADD assigned one")));
        }
        Ok(())
    }

    fn at(&self, index: i64) -> Option<&Interface> {
        self.interfaces.get(usize::try_from(index).ok()?)
    }

    /// The addresses of the container's interface `ifname`, each with the interface's index. Addresses
    /// without an `interface` count among them: before 0.3.0 no address has one.
    pub fn ips_of(&self, ifname: &IfName) -> Vec<IpConfig> {
        let position = self.interface(ifname).and_then(|(position, _)| i64::try_from(position).ok());
        let is_own = |ip: &&IpConfig| ip.interface.is_none() || ip.interface == position;
        let placed = |ip: &IpConfig| IpConfig { interface: ip.interface.or(position), ..ip.clone() };
        self.ips.iter().filter(is_own).map(placed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(ips: &[(&str, Option<i64>)]) -> CniResult {
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.to_owned(),
            sandbox: sandbox.to_owned(),
            ..Interface::default()
        };
        let ip = |(address, interface): &(&str, Option<i64>)| IpConfig {
            interface: *interface,
            address: address.parse().unwrap(),
            gateway: None,
        };
        CniResult {
            interfaces: vec![interface("eth0", ""), interface("eth1", "/n"), interface("eth0", "/n")],
            ips: ips.iter().map(ip).collect(),
            ..CniResult::default()
        }
    }

    #[test]
    fn an_interface_has_its_own_addresses_and_those_without_an_interface() {
        let result = result(&[
            ("10.0.0.1/24", Some(2)),
            ("10.0.0.2/24", Some(1)),
            ("10.0.0.3/24", None),
            ("10.0.0.4/24", Some(9)),
        ]);
        let of = |name: &str| -> Vec<String> {
            let ips = result.ips_of(&name.parse().unwrap());
            ips.iter().map(|ip| format!("{} {:?}", ip.address, ip.interface)).collect()
        };
        assert_eq!(of("eth0"), ["10.0.0.1/24 Some(2)", "10.0.0.3/24 Some(2)"]);
        assert_eq!(of("eth1"), ["10.0.0.2/24 Some(1)", "10.0.0.3/24 Some(1)"]);
        assert_eq!(of("eth7"), ["10.0.0.3/24 None"]);
    }

    #[test]
    fn a_result_that_cannot_be_the_one_of_add_is_refused() {
        let refused = |ips: &[(&str, Option<i64>)], name: &str, addresses| {
            let outcome = result(ips).require_of_add(&name.parse().unwrap(), addresses);
            outcome.map_err(|error| error.msg).err().unwrap_or_default()
        };
        let (own, others) = ([("10.0.0.1/24", Some(2))], [("10.0.0.2/24", Some(1))]);
        assert_eq!(refused(&own, "eth0", true), "");
        assert_eq!(refused(&[("10.0.0.1/24", None)], "eth0", true), "");
        assert!(refused(&own, "eth7", false).contains("no interface eth7"));
        assert!(refused(&others, "eth0", true).contains("no address of eth0"));
        assert_eq!(refused(&others, "eth0", false), "");
        assert!(refused(&[own[0], ("10.0.0.2/24", Some(3))], "eth0", true).contains("interface 3"));
    }
}
