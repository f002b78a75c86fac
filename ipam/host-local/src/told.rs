//! The attachment's own addresses, as the runtime tells them back in `prevResult`.

use cni_plugin::{CniResult, IfName};

use crate::address::Address;

/// The addresses of the interface; those that don't say whose they are count among them.
pub(crate) fn told(result: Option<&CniResult>, ifname: &IfName) -> Vec<Address> {
    let Some(result) = result else { return Vec::new() };
    let on_other_interface = |index: i64| {
        let interface = usize::try_from(index).ok().and_then(|index| result.interfaces.get(index));
        interface.is_some_and(|interface| interface.name != ifname.as_str())
    };
    let own = result.ips.iter().filter(|ip| !ip.interface.is_some_and(on_other_interface));
    own.map(|ip| Address::from(ip.address.ip())).collect()
}
