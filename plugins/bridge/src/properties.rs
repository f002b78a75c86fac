//! Properties that must hold for any input on stdin. The fuzz target calls them, and a test with every seed.
#![allow(clippy::expect_used, reason = "properties are assertions")]

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniArgs, CniResult, Interface, MacAddr, Owner, Plugin, Request};

use crate::config::Config;
use crate::plan::AddressPlan;
use crate::settings::{self, Settings};

target!("bridge", probe PROBE);

/// The plugin without the kernel: the previous result is what IPAM says.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
        Ok(planned(&settings, &attachment.owner, request))
    },
    check: |request, attachment| {
        let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
        let result = request.require_result_of_add()?;
        let plan = AddressPlan::from_result(&settings, &attachment.owner, result);
        assert!(plan.ips.len() <= result.ips.len());
        Ok(())
    },
    del: |request, _| {
        let _ = settings::bridge_name(&request.config);
        Ok(())
    },
    status: |request| Ok(Settings::resolve(&request.config, &CniArgs::default(), request.version).map(drop)?),
    ..stdin::probe("bridge")
};

fn planned(settings: &Settings, owner: &Owner, request: &Request<Config>) -> CniResult {
    let Some(ipam) = &request.prev_result else { return CniResult::default() };
    let plan = AddressPlan::new(settings, owner, ipam);
    assert_eq!(plan.ips.len(), ipam.ips.len(), "an address for each of IPAM's");
    assert!(plan.masquerade.len() <= plan.ips.len());
    assert!(plan.gateways.len() <= plan.ips.len());
    let mac: MacAddr = "02:00:00:00:00:01".parse().expect("a MAC address");
    let interfaces =
        [("br0", ""), ("veth0", ""), (owner.ifname.as_str(), "/ns")].map(|(name, ns)| Interface::new(name, mac, ns));
    let result = plan.result(interfaces.into(), settings.dns.clone().unwrap_or_default());
    // What CHECK reads out of the result is what ADD planned.
    let read = AddressPlan::from_result(settings, owner, &result);
    assert_eq!((&read.gateways, &read.ips), (&plan.gateways, &plan.ips));
    result
}
