//! Who lets the traffic through on this node.

use cni_netfilter::{Backend, FilterError, Netfilter};

use crate::settings::{Settings, Wanted};

/// The choice, made once a call.
#[derive(Debug)]
pub enum Chosen {
    /// The kernel's packet filter.
    Filter(Backend),
}

/// As the Go plugin chooses: firewalld where it runs, else iptables, else nftables.
pub fn choose(settings: &Settings, filter: &Netfilter) -> Result<Chosen, FilterError> {
    match settings.backend {
        Wanted::Filter(backend) => Ok(Chosen::Filter(backend)),
        _ => Ok(Chosen::Filter(filter.choose(None)?)),
    }
}
