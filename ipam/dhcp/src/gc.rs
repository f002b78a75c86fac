//! GC: ends the leases of attachments that are no more.

use cni_plugin::{CniError, Owner, Request};

use crate::client;
use crate::config::Config;
use crate::settings;
use crate::wire::{Call, OwnerName};

/// Ends every lease of the network whose owner isn't in `valid`. Idempotent.
pub fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let network = request.network.clone();
    let key = Owner::network_key(&network);
    let valid = valid.iter().map(OwnerName::from).collect();
    client::call_if_kept(&settings::socket(&request.config)?, &key, &Call::Gc { network, valid })
}
