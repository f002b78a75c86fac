//! CHECK: `lo` is up and has the addresses that ADD reported.

use cni_net::{NetNs, Netlink};
use cni_plugin::{Attachment, CniError, Difference, IpConfig, Request, verdict};
use serde::de::IgnoredAny;

use crate::lo;

/// Compares `lo` with the addresses that the previous result has for it.
pub fn check(request: &Request<IgnoredAny>, of: &Attachment) -> Result<(), CniError> {
    let inside = Netlink::open_in(&NetNs::open(&of.netns)?)?;
    let link = lo::find(&inside)?;
    if !link.up {
        return verdict(&[Difference::new("loopback interface lo", "up", "down")]);
    }
    let present = lo::addresses(&inside, &link)?;
    let reported = request.prev_result.iter().flat_map(|result| {
        let is_los = |ip: &&IpConfig| {
            let interface = ip.interface.and_then(|index| result.interfaces.get(usize::try_from(index).ok()?));
            interface.is_some_and(|interface| interface.name == "lo" && !interface.sandbox.is_empty())
        };
        result.ips.iter().filter(is_los)
    });
    let is_missing = |ip: &&IpConfig| !present.iter().any(|found| found.network == ip.address);
    let missing = reported.filter(is_missing).map(|ip| Difference::missing(format!("address {} of lo", ip.address)));
    verdict(&missing.collect::<Vec<_>>())
}
