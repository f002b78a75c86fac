//! DEL: withdraws what the owner publishes.

use std::thread;

use cni_netfilter::{Flush, Netfilter, PortForwards};
use cni_plugin::{CniError, Detachment, Lock, Request};

use crate::config::Config;
use crate::localnet;
use crate::plan::plan;
use crate::settings::Settings;

/// Withdraws. The configured ports and the previous result only show where to look first; without them everything is
/// searched for the owner.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let hints: Vec<PortForwards> = match (Settings::resolve(&request.config), &request.prev_result) {
        (Ok(settings), Some(prev)) => plan(&settings, owner, prev),
        _ => Vec::new(),
    };
    // Nothing that a killed ADD has left at work may come after this.
    let _alone = Lock::if_possible(Lock::of_attachment(owner))?;
    let filter = Netfilter::new();
    let withdrawn = filter.remove_ports(owner, &hints)?;
    localnet::keep_guarded(&filter, request.prev_result.as_ref())?;
    let known = hints.iter().flat_map(|hint| &hint.ports);
    if known.clone().next().or(withdrawn.first()).is_none() {
        return Ok(());
    }
    // After the rules, or the next packet would make the entry anew; and while the kernel frees them.
    let closing = thread::Builder::new().spawn(move || drop(filter));
    if let Err(error) = Netfilter::forget_flows(known.chain(&withdrawn), Flush::Ours) {
        eprintln!("flows to {owner} may continue: {error}");
    }
    if let Ok(closing) = closing {
        drop(closing.join());
    }
    Ok(())
}
