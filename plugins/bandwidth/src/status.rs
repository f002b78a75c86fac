//! STATUS: says no when an ADD would fail now.

use cni_net::{NetError, Netlink};
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::ifb;
use crate::settings::{EgressDevice, Settings};

/// Checks the configuration, and that the kernel has the token bucket filter and ifb. The limits may come from the runtime, so they
/// are asked for whether the configuration has one or not.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let unavailable = |error: NetError| CniError::from(error).unavailable();
    let socket = Netlink::open().map_err(unavailable)?;
    socket.probe_tbf().map_err(unavailable)?;
    if settings.device == EgressDevice::Ifb {
        ifb::probe(&socket).map_err(unavailable)?;
    }
    Ok(())
}
