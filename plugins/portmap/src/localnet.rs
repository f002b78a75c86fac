//! Serving 127.0.0.1: the kernel routes packets from 127.0.0.0/8 out of the node only by links whose `route_localnet` is on, and
//! the node's own 127.0.0.0/8 must then be guarded against the neighbours on that link (CVE-2020-8558).

use cni_net::localnet;
use cni_netfilter::Netfilter;
use cni_plugin::{CniError, CniResult, Difference, IfName};

/// Switches `route_localnet` on for the link. Idempotent; not taken back, as other containers need it.
pub fn permit(link: &IfName) -> Result<(), CniError> {
    localnet::permit(link).map_err(|error| {
        CniError::plugin(format!("unable to enable route_localnet, which a port on 127.0.0.1 needs: {error}"))
    })
}

/// The setting, if it isn't as [`permit`] left it.
pub fn check(link: &IfName) -> Result<Option<Difference>, CniError> {
    let (path, found) = (localnet::path(link.as_str()), localnet::read(link)?);
    Ok((found.trim() != "1").then(|| Difference::new(format!("sysctl {path}"), "1", found.trim())))
}

/// Restores the guard of 127.0.0.0/8 where `route_localnet` is on: for one of the links that the previous result names, or any
/// that portmap has switched it on for. Constant time; where it never was on, a look at a few files.
pub fn keep_guarded(filter: &Netfilter, prev: Option<&CniResult>) -> Result<(), CniError> {
    let links = prev.into_iter().flat_map(|prev| &prev.interfaces).filter(|interface| interface.sandbox.is_empty());
    Ok(localnet::keep_guarded(links.map(|interface| interface.name.as_str()), || filter.add_localnet_guard())?)
}
