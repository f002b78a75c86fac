//! GC: puts back the devices of attachments of this network that the runtime no longer knows.

use cni_attach::removal::Removal;
use cni_plugin::{CniError, Ipam, Lock, Owner, Request};

use crate::config::Config;
use crate::moving;
use crate::saved::Store;

/// Puts them back. Every part is tried, but for IPAM's where a device could not be put back, and the first failure is reported.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let mut removal = Removal::begin(request, &request.config.ipam, Ipam::gc);
    removal.step(Lock::settle_orphans(&request.network));
    match Store::open() {
        Ok(Some(store)) => match store.stale(&request.network, valid) {
            Ok(keys) => keys.iter().for_each(|key| removal.link(moving::put_back(&store, key, None))),
            Err(error) => removal.link(Err(error)),
        },
        Ok(None) => {}
        Err(error) => removal.link(Err(error)),
    }
    removal.finish()
}
