//! STATUS: fails when an ADD would fail now, and warns on stderr of other programs' rules that drop accepted packets.

use cni_attach::mark;
use cni_firewall::Firewall;
use cni_net::Netlink;
use cni_plugin::{CniError, Request};

use crate::config::Config;
use crate::settings::Settings;

/// Examines the configuration, the packet filter and firewalld. Chains of other programs that drop what an ADD accepts, and a
/// policy that does not hold, are one line each on stderr: ADD succeeds all the same, and a runtime that takes an error for a node
/// that is not ready would start no container on it.
pub fn status(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let firewall = request.config.firewall();
    for obstacle in firewall.obstacles().map_err(|error| CniError::from(error).unavailable())? {
        eprintln!("containers are not reachable through the firewall: {obstacle}");
    }
    if let Some(missing) = firewall.unheld_policies()?.first() {
        eprintln!("an ingress policy does not hold against networks of legacy iptables until the next ADD: {missing}");
    }
    if settings.published_only {
        warn_of_open_doors(request, &firewall)?;
    }
    Ok(())
}

/// After a flush of the rule set the network's containers still have links, by which they are found here.
fn warn_of_open_doors(request: &Request<Config>, firewall: &Firewall) -> Result<(), CniError> {
    let attached = mark::owner_keys(&Netlink::open()?, &request.network)?;
    let open = firewall.open_doors(&attached).map_err(|error| CniError::from(error).unavailable())?;
    if let Some(missing) = open.first() {
        eprintln!(
            "containers of network {} are reachable directly, not only by published ports, until their next ADD: {missing}",
            request.network
        );
    }
    Ok(())
}
