//! Properties that must hold for any input on stdin. The fuzz target calls them, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use std::collections::BTreeSet;

use cni_net::Route;
use cni_plugin::{Attachment, CniError, IpConfig, Plugin, Request};

use crate::config::Config;
use crate::plan::{Plan, Present, addresses};
use crate::settings::Settings;

target!("sbr", |data| stdin::holds(&PROBE, data));

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        planned(request, attachment)?;
        Ok(request.require_prev_result()?.clone())
    },
    check: planned,
    status: |request| Ok(Settings::resolve(&request.config).map(drop)?),
    ..stdin::probe("sbr")
};

fn planned(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config)?;
    let result = request.require_prev_result()?;
    let addresses = addresses(result, &attachment.owner.ifname)?;
    if addresses.is_empty() {
        return Ok(());
    }
    let subnet = |ip: &IpConfig| Route { table: Some(254), ..Route::new(ip.address, None, 7) };
    let present = Present { link: 7, routes: addresses.iter().map(subnet).collect(), tables: [100, 102].into() };
    let plan = Plan::new(&settings, &addresses, result, &present);
    assert_eq!(plan.rules.len(), addresses.len(), "a rule for each address");
    let tables: BTreeSet<u32> = plan.rules.iter().map(|rule| rule.table).collect();
    if settings.table.is_some() {
        assert!(plan.added.is_empty() && plan.removed.is_empty(), "the table's routes are another plugin's");
    } else {
        assert_eq!(tables.len(), addresses.len(), "a table for each address");
        assert!(tables.iter().all(|table| *table > 102 || *table == 101), "{tables:?}");
    }
    Ok(())
}
