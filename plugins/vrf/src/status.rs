//! STATUS: fails if an ADD would fail now, and only then.

use cni_net::{LinkSpec, Netlink, Vrf};
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::settings::Settings;

/// `EINVAL`
const EINVAL: i32 = 22;

/// Asks the configuration, and whether the kernel has VRFs: it is asked for one without a table, which it refuses as such if it
/// knows them at all (`vrf_newlink` in drivers/net/vrf.c).
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    match Netlink::open()?.create_link(&LinkSpec::new(settings.name, &Vrf { table: 0 })) {
        Err(error) if error.errno() != Some(EINVAL) => {
            let error = CniError::from(error);
            Err(CniError::plugin(format!("{} (VRFs need CONFIG_NET_VRF)", error.msg)).unavailable())
        }
        _ => Ok(()),
    }
}
