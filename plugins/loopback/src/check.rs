//! CHECK: `lo` is up and has the addresses that ADD told.

use cni_net::{NetNs, Netlink};
use cni_plugin::{Attachment, CniError, Difference, IpConfig, Request, verdict};
use serde::de::IgnoredAny;

use crate::plan;

/// Compares. The addresses are looked for where the previous result says that they are those of `lo`.
pub fn check(request: &Request<IgnoredAny>, of: &Attachment) -> Result<(), CniError> {
    let inside = Netlink::open_in(&NetNs::open(&of.netns)?)?;
    let lo = plan::find(&inside)?;
    if !lo.up {
        return verdict(&[Difference::new("loopback interface lo", "up", "down")]);
    }
    let present = plan::addresses(&inside, &lo)?;
    let told = request.prev_result.iter().flat_map(|told| {
        let is_los = |ip: &&IpConfig| {
            let interface = ip.interface.and_then(|index| told.interfaces.get(usize::try_from(index).ok()?));
            interface.is_some_and(|interface| interface.name == "lo" && !interface.sandbox.is_empty())
        };
        told.ips.iter().filter(is_los)
    });
    let is_missing = |ip: &&IpConfig| !present.iter().any(|found| found.network == ip.address);
    let missing = told.filter(is_missing).map(|ip| Difference::missing(format!("address {} of lo", ip.address)));
    verdict(&missing.collect::<Vec<_>>())
}
