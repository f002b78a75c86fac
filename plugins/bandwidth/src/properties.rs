//! Properties that must hold for any input on stdin. The fuzz target calls them, and a test with every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use cni_plugin::{CniError, Plugin, Request};

use crate::config::Config;
use crate::plan::Plan;
use crate::settings::Settings;

target!("bandwidth", |data| stdin::holds(&PROBE, data));

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    add: |request, _, _| {
        planned(request)?;
        Ok(request.require_prev_result()?.clone())
    },
    check: |request, _| planned(request),
    status: planned,
    ..stdin::probe("bandwidth")
};

fn planned(request: &Request<Config>) -> Result<(), CniError> {
    let plan = Plan::new(&Settings::resolve(&request.config)?);
    for shape in plan.ingress.iter().chain(&plan.egress) {
        assert!(shape.tbf.rate > 0 && shape.tbf.limit > 0, "{}", shape.tbf);
        assert!(shape.is(&shape.tbf) && shape.is(&shape.of_go));
        assert!(shape.queue.is_none_or(|queue| queue < shape.tbf.limit));
    }
    Ok(())
}
