//! The settings of a container's interface, written before it is set up.

use cni_net::{NetNs, SysctlError, sysctl};
use cni_plugin::Undo;

use super::{Layer3, Layer3Error};

/// A setting of the container's namespace.
#[derive(Debug)]
pub(super) struct Setting {
    /// As [`sysctl::write`] takes it.
    pub(super) path: String,
    /// What it should be.
    pub(super) value: &'static str,
    need: Need,
}

/// What it means that a setting can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The interface works without it.
    Wanted,
    /// It works without it where `/proc/sys` is read-only.
    Writable,
    /// It doesn't work without it. Written only if it has another value: a kernel without the setting has no IPv6, and adding the
    /// address will report that.
    Required,
}

const DISABLE_IPV6_ON_LO: &str = "net/ipv6/conf/lo/disable_ipv6";

impl Layer3 {
    /// The settings, in the order in which they are written.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let of = |family: &str, name: &str, value, need| {
            let path = format!("net/{family}/conf/{}/{name}", self.ifname);
            Setting { path, value, need }
        };
        let mut settings = vec![
            // The kernel announces the addresses when the link comes up, so that an address that another container had a
            // moment ago works at once.
            of("ipv4", "arp_notify", "1", Need::Wanted),
            // The addresses come from IPAM: router advertisements must not add others (CVE-2020-10749), also where IPAM gives
            // IPv4 only.
            of("ipv6", "accept_ra", "0", Need::Wanted),
        ];
        if self.has_ipv6() {
            let lo = Setting { path: DISABLE_IPV6_ON_LO.to_owned(), value: "0", need: Need::Required };
            settings.extend([
                lo,
                of("ipv6", "disable_ipv6", "0", Need::Required),
                // The addresses work without it, as long as the link stays up.
                of("ipv6", "keep_addr_on_down", "1", Need::Writable),
                of("ipv6", "ndisc_notify", "1", Need::Wanted),
                of("ipv6", "accept_dad", if self.dad { "1" } else { "0" }, Need::Wanted),
            ]);
            settings.extend(self.dad.then(|| of("ipv6", "enhanced_dad", "1", Need::Wanted)));
        }
        settings
    }

    /// Writes the settings. Idempotent. What is not the interface's own is pushed to `undo`.
    pub(crate) fn prepare(&self, namespace: &NetNs, undo: &mut Undo) -> Result<(), Layer3Error> {
        let (was_off, written) = namespace.run(|| {
            let was_off = self.has_ipv6() && sysctl::read(DISABLE_IPV6_ON_LO).is_ok_and(|value| value != "0");
            (was_off, self.settings().iter().try_for_each(Setting::write))
        })?;
        if was_off {
            let path = namespace.path().to_owned();
            undo.push(DISABLE_IPV6_ON_LO, move || {
                // It was there a moment ago; an error of the kernel changes nothing now.
                NetNs::open(&path)?.run(|| drop(sysctl::write(DISABLE_IPV6_ON_LO, "1")))
            });
        }
        Ok(written?)
    }
}

impl Setting {
    fn write(&self) -> Result<(), SysctlError> {
        let write = || sysctl::write(&self.path, self.value);
        match self.need {
            Need::Wanted => write().or(Ok(())),
            Need::Writable => write().or_else(|error| if error.is_read_only() { Ok(()) } else { Err(error) }),
            Need::Required if sysctl::read(&self.path).is_ok_and(|value| value != self.value) => write(),
            Need::Required => Ok(()),
        }
    }
}
