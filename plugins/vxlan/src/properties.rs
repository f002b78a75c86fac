//! Properties that must hold for any input: on stdin, and in the file of the peers. The fuzz target calls them, and a test with every
//! seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use std::net::IpAddr;

use cni_plugin::{CniError, Plugin, Request};

use crate::config::Config;
use crate::peers;
use crate::settings::Settings;

target!("vxlan", |data| {
    stdin::holds(&PROBE, data);
    peers_hold(data);
});

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    add: |request, _, _| {
        resolve(request)?;
        request.require_prev_result().cloned()
    },
    check: |request, _| resolve(request),
    status: resolve,
    ..stdin::probe("vxlan")
};

fn resolve(request: &Request<Config>) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &request.network)?;
    assert!(settings.vni > 0 && settings.vni < 1 << 24 && settings.port > 0);
    assert!(settings.peers.is_absolute());
    Ok(())
}

/// A file is refused with one of its lines, or its hosts are of one family and each is there once.
fn peers_hold(content: &[u8]) {
    let lines = content.split(|byte| *byte == b'\n').count();
    match peers::parse(content) {
        Err((line, what)) => assert!((1..=lines).contains(&line) && !what.is_empty(), "{line}: {what}"),
        Ok(peers) => {
            let mut addresses: Vec<_> = peers.iter().map(|peer| peer.address).collect();
            assert!(addresses.iter().all(|address| cni_net::unusable_host(*address).is_none()));
            addresses.sort_unstable();
            addresses.dedup();
            assert_eq!(addresses.len(), peers.len());
            assert!(peers.iter().all(
                |peer| peer.line <= lines && Some(peer.address.is_ipv6()) == addresses.first().map(IpAddr::is_ipv6)
            ));
        }
    }
}
