//! STATUS: fails where an ADD would find no address, or could not write a reservation.

use cni_plugin::{CniError, Request, code};

use crate::config::Config;
use crate::pool::RangeSet;
use crate::settings::{self, Settings};

/// Fails with code 50 if a range set is used up or the state can't be written. Creates nothing.
pub(crate) fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, None, request.version)?;
    let place = settings::place(request)?;
    let unavailable = |msg: String| CniError::new(code::UNAVAILABLE, msg);
    let no_address = |index: usize, set: &RangeSet, why: &str| {
        unavailable(format!("no free address in range set {index} ({set}): {why}"))
    };
    if let Some((index, set)) = settings.sets.iter().enumerate().find(|(_, set)| set.size() == 0) {
        return Err(no_address(index, set, "its only address is the gateway's"));
    }
    let Some(mut store) = place.open().map_err(|error| unavailable(error.to_string()))? else {
        return place.probe().map_err(|error| unavailable(error.to_string()));
    };
    store.probe().map_err(|error| unavailable(error.to_string()))?;
    for (index, set) in settings.sets.iter().enumerate() {
        if store.next(set, index)?.is_none() {
            let size = set.size();
            return Err(no_address(index, set, &format!("{size} of {size} are reserved")));
        }
    }
    Ok(())
}
