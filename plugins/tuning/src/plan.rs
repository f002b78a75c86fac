//! What should be, as data; computed without touching the kernel.

use cni_net::{LinkChange, sysctl};
use cni_plugin::{CniResult, IfName};

use crate::settings::{Settings, SettingsError};

/// What an attachment should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sysctls, with the interface's name in place.
    pub sysctls: sysctl::Values,
    /// The interface's attributes.
    pub link: LinkChange,
}

impl Plan {
    /// The settings for this interface.
    pub fn new(settings: &Settings, ifname: &IfName) -> Result<Self, SettingsError> {
        let mut sysctls = sysctl::Values::new();
        for (path, sysctl) in &settings.sysctls {
            let path = path.replacen("IFNAME", ifname.as_str(), 1);
            if sysctls.insert(path, sysctl.value.clone()).is_some() {
                return Err(SettingsError::SameSysctl(sysctl.key.clone(), format!("IFNAME={ifname}")));
            }
        }
        let link = LinkChange {
            mac: settings.mac,
            mtu: settings.mtu,
            promisc: settings.promisc.then_some(true),
            allmulti: settings.all_multicast,
            txqlen: settings.tx_queue,
            ..LinkChange::default()
        };
        Ok(Self { sysctls, link })
    }

    /// True if the interface is to be changed.
    pub fn wants_link(&self) -> bool {
        self.link != LinkChange::default()
    }

    /// The previous result with what the interface is now.
    pub fn result(&self, prev: &CniResult, ifname: &IfName) -> CniResult {
        let mut result = prev.clone();
        // An interface of the host may have the same name.
        let position = prev.interface(ifname).map(|(position, _)| position);
        if let Some(interface) = position.and_then(|position| result.interfaces.get_mut(position)) {
            if let Some(mac) = self.link.mac {
                interface.mac = mac.to_string();
            }
            if let Some(mtu) = self.link.mtu.filter(|_| interface.mtu > 0) {
                interface.mtu = mtu;
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sysctl;
    use cni_plugin::Interface;

    fn settings(keys: &[&str]) -> Settings {
        let sysctl = |key: &&str| (key.replace('.', "/"), Sysctl { key: (*key).to_owned(), value: "1".to_owned() });
        Settings {
            sysctls: keys.iter().map(sysctl).collect(),
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            mtu: Some(1400),
            promisc: false,
            all_multicast: None,
            tx_queue: None,
        }
    }

    #[test]
    fn ifname_is_replaced_once_and_may_have_dots() {
        let plan = Plan::new(&settings(&["net.ipv4.conf.IFNAME.IFNAME"]), &"eth0.100".parse().unwrap()).unwrap();
        assert_eq!(plan.sysctls.keys().collect::<Vec<_>>(), ["net/ipv4/conf/eth0.100/IFNAME"]);
        let both = settings(&["net.ipv4.conf.IFNAME.x", "net.ipv4.conf.eth0.x"]);
        assert!(Plan::new(&both, &"eth0".parse().unwrap()).is_err());
    }

    #[test]
    fn the_result_tells_the_containers_interface_and_not_the_hosts() {
        let interface = |name: &str, sandbox: &str, mtu| Interface {
            name: name.to_owned(),
            sandbox: sandbox.to_owned(),
            mtu,
            ..Interface::default()
        };
        let prev = CniResult {
            interfaces: vec![interface("eth0", "", 0), interface("eth0", "/n", 1500), interface("x", "/n", 0)],
            ..CniResult::default()
        };
        let told = Plan::new(&settings(&[]), &"eth0".parse().unwrap()).unwrap().result(&prev, &"eth0".parse().unwrap());
        let macs: Vec<&str> = told.interfaces.iter().map(|interface| interface.mac.as_str()).collect();
        assert_eq!(macs, ["", "02:00:00:00:00:01", ""]);
        assert_eq!(told.interfaces[1].mtu, 1400);
    }
}
