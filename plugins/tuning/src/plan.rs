//! The plan: all values that should be set, as data, computed without access to the kernel.

use std::fmt;

use cni_net::{LinkChange, sysctl};
use cni_plugin::{CniResult, IfName};

use crate::settings::{Settings, SettingsError};

/// What an attachment should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The interface.
    ifname: IfName,
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
        Ok(Self { ifname: ifname.clone(), sysctls, link })
    }

    /// True if nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.sysctls.is_empty() && !self.wants_link()
    }

    /// True if the interface is to be changed.
    pub fn wants_link(&self) -> bool {
        self.link != LinkChange::default()
    }

    /// The previous result with what the interface is now.
    pub fn result(&self, prev: &CniResult) -> CniResult {
        let mut result = prev.clone();
        // An interface of the host may have the same name.
        let position = prev.interface(&self.ifname).map(|(position, _)| position);
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

/// As the commands that would do the same, one a line; CONTAINER is the container's namespace.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, value) in &self.sysctls {
            writeln!(f, "ip netns exec CONTAINER sysctl -w {path}={value}")?;
        }
        if !self.wants_link() {
            return Ok(());
        }
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        let attributes = [
            ("address", self.link.mac.map(|mac| mac.to_string())),
            ("mtu", self.link.mtu.map(|mtu| mtu.to_string())),
            ("promisc", self.link.promisc.map(switch)),
            ("allmulticast", self.link.allmulti.map(switch)),
            ("txqueuelen", self.link.txqlen.map(|length| length.to_string())),
        ];
        write!(f, "ip -n CONTAINER link set {}", self.ifname)?;
        for (name, value) in attributes.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            write!(f, " {name} {value}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sysctl;
    use cni_plugin::{CniArgs, Interface};
    use cni_testing::golden;

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
    fn the_result_has_the_changes_of_the_containers_interface_only() {
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
        let result = Plan::new(&settings(&[]), &"eth0".parse().unwrap()).unwrap().result(&prev);
        let macs: Vec<&str> = result.interfaces.iter().map(|interface| interface.mac.as_str()).collect();
        assert_eq!(macs, ["", "02:00:00:00:00:01", ""]);
        assert_eq!(result.interfaces[1].mtu, 1400);
    }

    #[test]
    fn the_examples_plan_their_golden_files() {
        golden::dir(env!("CARGO_MANIFEST_DIR")).compare_examples("tuning", |example| {
            let config = cni_plugin::json::decode(example.config).unwrap();
            let settings = Settings::of(&config, &CniArgs::new("MAC=02:00:00:00:00:05")).unwrap();
            Plan::new(&settings, &"eth0".parse().unwrap()).unwrap().to_string()
        });
    }

    #[test]
    fn every_change_is_printed() {
        let settings = Settings {
            promisc: true,
            all_multicast: Some(false),
            tx_queue: Some(500),
            ..settings(&["net.ipv4.conf.IFNAME.arp_filter"])
        };
        let printed = Plan::new(&settings, &"eth0.100".parse().unwrap()).unwrap().to_string();
        assert_eq!(
            printed,
            "ip netns exec CONTAINER sysctl -w net/ipv4/conf/eth0.100/arp_filter=1\n\
             ip -n CONTAINER link set eth0.100 address 02:00:00:00:00:01 mtu 1400 promisc on allmulticast off txqueuelen 500\n"
        );
        assert_eq!(Plan::new(&Settings::default(), &"eth0".parse().unwrap()).unwrap().to_string(), "");
    }
}
