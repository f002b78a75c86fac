//! Dummy: a link that drops what is sent through it.

use std::fmt;

use netlink_packet_route::link::LinkMessage;
use rtnetlink::LinkDummy;

use super::LinkKind;

/// A dummy link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dummy;

impl LinkKind for Dummy {
    fn name(&self) -> &'static str {
        "dummy"
    }

    fn message(&self, name: &str) -> LinkMessage {
        LinkDummy::new(name).build()
    }
}

impl fmt::Display for Dummy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dummy")
    }
}
