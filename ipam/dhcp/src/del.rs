//! DEL: ends the owner's lease.

use cni_plugin::{CniError, Detachment, Request};

use crate::client;
use crate::config::Config;
use crate::settings;
use crate::wire::{Call, OwnerName};

/// Ends the lease; the server gets a release if the link still exists. Idempotent; does nothing if no daemon runs and none has
/// left a lease.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    client::call_if_kept(&settings::socket(&request.config)?, &owner.key(), &Call::Del(OwnerName::from(owner)))
}
