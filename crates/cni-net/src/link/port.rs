//! A bridge port's settings.

use netlink_packet_route::link::{InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage};

use super::about;
use crate::error::{NetError, Operation};
use crate::netlink::{Netlink, rtm};

/// What to change of a bridge port; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortChange {
    /// Send packets back out of the port that they came in by.
    pub hairpin: Option<bool>,
    /// Exchange packets with non-isolated ports only.
    pub isolated: Option<bool>,
}

impl Netlink {
    /// Changes the settings of the bridge port with this index. Idempotent.
    ///
    /// # Errors
    /// [`NetError::NoSuchLink`]; otherwise the kernel's, also if the link is not a bridge's port.
    pub fn set_port(&self, index: u32, change: &PortChange) -> Result<(), NetError> {
        // RTM_NEWLINK without NLM_F_CREATE: RTM_SETLINK does not look at a port's data in IFLA_LINKINFO.
        match self.tell(rtm::NEWLINK, &port_message(index, change), 0) {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.during(self, Operation::ChangePort { link: index.into() })),
        }
    }
}

fn port_message(index: u32, change: &PortChange) -> LinkMessage {
    let mut settings = Vec::new();
    settings.extend(change.hairpin.map(InfoBridgePort::HairpinMode));
    settings.extend(change.isolated.map(InfoBridgePort::Isolated));
    let mut message = about(index);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ]));
    message
}
