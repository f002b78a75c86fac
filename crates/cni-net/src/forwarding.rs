//! The node forwards between its links, a setting for each family: what every plugin that is a gateway needs.

use cni_plugin::Difference;

use crate::Family;
use crate::sysctl::{self, SysctlError};

fn path(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    }
}

/// Lets the node forward. Idempotent; never taken back, as others need it too.
///
/// # Errors
/// As [`sysctl::ensure`].
pub fn ensure(family: Family) -> Result<(), SysctlError> {
    // Nothing is written where it is on already: the kernel would go through all interfaces.
    sysctl::ensure(path(family), "1").map(drop)
}

/// The setting, if it isn't as [`ensure`] left it.
///
/// # Errors
/// As [`sysctl::read`].
pub fn check(family: Family) -> Result<Option<Difference>, SysctlError> {
    let found = sysctl::read(path(family))?;
    Ok((found != "1").then(|| Difference::new(format!("sysctl {}", path(family)), "1", found)))
}
