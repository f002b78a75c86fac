//! The link kind `bridge`.

use std::fmt;

use cni_plugin::IfName;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{InfoBridge, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder};

use super::LinkKind;
use crate::errno::Errno;
use crate::error::NetError;
use crate::link::LinkSpec;
use crate::netlink::{Netlink, rtm};

/// `include/uapi/linux/if_link.h`.
const IFLA_BR_VLAN_PROTOCOL: u16 = 8;

/// A bridge. Its MTU is 1500 unless one is given, and then the smallest of its ports'. An Ethernet address that is given
/// stays; one that the kernel chooses follows the lowest of the ports' (`br_stp_recalculate_bridge_id` in
/// net/bridge/br_stp_if.c).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Its ports are in VLANs.
    pub vlan_filtering: bool,
}

impl LinkKind for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn feature(&self) -> Option<&'static str> {
        self.vlan_filtering.then_some("VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING)")
    }

    fn message(&self, name: &str) -> LinkMessage {
        let builder = LinkMessageBuilder::<LinkBridge>::new(name);
        match self.vlan_filtering {
            true => builder.append_info_data(InfoBridge::VlanFiltering(true)).build(),
            false => builder.build(),
        }
    }
}

impl fmt::Display for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.vlan_filtering { "bridge vlan_filtering 1" } else { "bridge" })
    }
}

impl Netlink {
    /// Says whether a bridge of this name could be created; creates none. Constant time.
    ///
    /// The kernel is asked for a bridge whose MTU is too small (`rtnl_create_link` in net/core/rtnetlink.c). One with VLAN
    /// filtering notices before that the VLAN protocol is none (`br_validate` in net/bridge/br_netlink.c).
    ///
    /// # Errors
    /// As [`Netlink::create_link`], but none if a link has the name.
    pub fn probe_bridge(&self, name: &IfName, bridge: &Bridge) -> Result<(), NetError> {
        let spec = LinkSpec::new(name.clone(), bridge);
        let unfiltered = || match bridge.feature() {
            Some(feature) => Err(NetError::Unsupported { operation: spec.operation(), feature }),
            None => Ok(()),
        };
        let no_protocol = InfoBridge::Other(DefaultNla::new(IFLA_BR_VLAN_PROTOCOL, vec![0, 0]));
        let builder = LinkMessageBuilder::<LinkBridge>::new(name.as_str());
        let message = builder.mtu(1).append_info_data(no_protocol).build();
        match self.tell(rtm::NEWLINK, &message, NLM_F_CREATE | NLM_F_EXCL) {
            // EEXIST: it has been created meanwhile.
            Err(failure) if failure.is(Errno::PROTONOSUPPORT) || failure.is(Errno::EXIST) => Ok(()),
            Err(failure) if failure.is(Errno::INVAL) => unfiltered(),
            Err(failure) => Err(failure.of(spec.operation())),
            // A kernel that takes any MTU, and knows no VLANs.
            Ok(_) => {
                let _ = self.delete_named(name);
                unfiltered()
            }
        }
    }
}
