//! The settings of a container's interface, written before it goes up.

use cni_plugin::{IfName, Undo};

use super::Layer3Error;
use crate::NetNs;
use crate::sysctl::{self, SysctlError};

/// Writes them. Idempotent. What is not the interface's own is pushed to `undo`.
pub(super) fn prepare(
    namespace: &NetNs,
    ifname: &IfName,
    ipv6: bool,
    dad: bool,
    undo: &mut Undo,
) -> Result<(), Layer3Error> {
    let lo = "net/ipv6/conf/lo/disable_ipv6";
    let (was_off, written) = namespace.run(|| {
        let was_off = ipv6 && sysctl::read(lo).is_ok_and(|value| value != "0");
        (was_off, write(ifname.as_str(), ipv6, dad))
    })?;
    if was_off {
        let path = namespace.path().to_owned();
        undo.push(lo, move || {
            // It was there a moment ago; what the kernel says of it now changes nothing.
            NetNs::open(&path)?.run(|| drop(sysctl::write(lo, "1")))
        });
    }
    Ok(written?)
}

fn write(ifname: &str, ipv6: bool, dad: bool) -> Result<(), SysctlError> {
    // The kernel announces the addresses when the link comes up, so that an address that was somebody else's a
    // moment ago works at once.
    let _ = sysctl::write(&format!("net/ipv4/conf/{ifname}/arp_notify"), "1");
    // The addresses come from IPAM: nobody on the link shall add others (CVE-2020-10749), of whatever family.
    let _ = sysctl::write(&format!("net/ipv6/conf/{ifname}/accept_ra"), "0");
    if !ipv6 {
        return Ok(());
    }
    for name in ["lo", ifname] {
        let path = format!("net/ipv6/conf/{name}/disable_ipv6");
        // A kernel without IPv6 has no such file; adding the address will say so.
        if sysctl::read(&path).is_ok_and(|value| value != "0") {
            sysctl::write(&path, "0")?;
        }
    }
    match sysctl::write(&format!("net/ipv6/conf/{ifname}/keep_addr_on_down"), "1") {
        // The addresses work without it, as long as the link stays up.
        Err(error) if error.is_read_only() => {}
        other => other?,
    }
    let _ = sysctl::write(&format!("net/ipv6/conf/{ifname}/ndisc_notify"), "1");
    let _ = sysctl::write(&format!("net/ipv6/conf/{ifname}/accept_dad"), if dad { "1" } else { "0" });
    if dad {
        let _ = sysctl::write(&format!("net/ipv6/conf/{ifname}/enhanced_dad"), "1");
    }
    Ok(())
}
