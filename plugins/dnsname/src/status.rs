//! STATUS: fails when an ADD would fail now.

use cni_netfilter::Netfilter;
use cni_plugin::{CniError, Request};

use crate::client::{ClientError, ask};
use crate::config::Config;
use crate::place::Place;
use crate::plan::PORT;
use crate::settings::Settings;
use crate::wire::Ask;

/// Asks the configuration, the packet filter, and the resolver, if one runs, whether it listens at every gateway.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &request.network)?;
    let filter = Netfilter::new();
    let usable = filter.can_redirect_dns(settings.backend, PORT);
    usable.map_err(|error| CniError::from(error).unavailable())?;
    let place = Place::new();
    let failed = |error| CniError::plugin(format!("names cannot be written to {:?}: {error}", place.path()));
    place.probe().map_err(|error| failed(error).unavailable())?;
    match ask(&place, &Ask::Alive) {
        Ok(Some(answer)) if !answer.failed.is_empty() => {
            Err(CniError::from(ClientError::Listen(answer.failed.join("; "))).unavailable())
        }
        outcome => outcome.map(drop).map_err(|error| CniError::from(error).unavailable()),
    }
}
