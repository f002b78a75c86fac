//! Intermediate functional blocks: a link that sends what is redirected to it back to where it came from, after its queue.

use std::fmt;

use cni_plugin::{IfName, MacAddr};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::LinkKind;
use crate::errno::Errno;
use crate::error::NetError;
use crate::link::LinkSpec;
use crate::netlink::{Netlink, rtm};

/// An ifb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ifb;

impl LinkKind for Ifb {
    fn name(&self) -> &'static str {
        "ifb"
    }

    fn message(&self, name: &str) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
        message
    }
}

impl fmt::Display for Ifb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ifb")
    }
}

impl Netlink {
    /// Says whether the kernel has ifb; creates none. Constant time.
    ///
    /// The kernel looks for the kind before it notices that the address is none for a link (`ifb_validate` in drivers/net/ifb.c).
    ///
    /// # Errors
    /// [`NetError::Unsupported`], and the kernel's.
    pub fn probe_ifb(&self, name: &IfName) -> Result<(), NetError> {
        let spec = LinkSpec { mac: Some(MacAddr([0xff; 6])), ..LinkSpec::new(name.clone(), &Ifb) };
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        match self.tell(rtm::NEWLINK, &spec.message(), flags) {
            Err(failure) if failure.is(Errno::ADDRNOTAVAIL) || failure.is(Errno::EXIST) => Ok(()),
            Err(failure) if failure.is(Errno::OPNOTSUPP) => {
                let feature = "intermediate functional blocks (CONFIG_IFB)";
                Err(NetError::Unsupported { operation: spec.operation(), feature })
            }
            Err(failure) => Err(failure.of(spec.operation())),
            // A kernel that takes any address.
            Ok(_) => self.delete_named(name).map_err(|failure| failure.of(spec.operation())),
        }
    }
}
