//! What every plugin that makes an interface has in common: bridge and ptp.

pub(crate) mod check;
pub(crate) mod concurrent;
pub(crate) mod limits;
pub(crate) mod mistyped;
pub(crate) mod mtu;
pub(crate) mod privileges;
pub(crate) mod ready;
pub(crate) mod routes;
pub(crate) mod unusable;
pub(crate) mod uplink;

use cni_tests::Netns;

/// As where the plugins run in a container, for the rest of the case.
fn make_read_only(node: &Netns) {
    node.sh(&["mount", "--bind", "/proc/sys", "/proc/sys"]);
    node.sh(&["mount", "-o", "remount,ro,bind", "/proc/sys"]);
}
