//! DEL: withdraws the owner's ports.

use std::thread;

use cni_netfilter::conntrack::{self, Flush};
use cni_netfilter::{Netfilter, PortForwards};
use cni_plugin::{CniError, Detachment, Lock, Request};

use crate::config::Config;
use crate::localnet;
use crate::plan::plan;
use crate::settings::Settings;

/// Withdraws the ports; idempotent. The configured ports and the previous result only show where to look first; without them
/// everything is searched for the owner.
pub fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    let owner = &detachment.owner;
    let hints: Vec<PortForwards> = match (Settings::resolve(&request.config), &request.prev_result) {
        (Ok(settings), Some(prev)) => plan(&settings, owner, prev),
        _ => Vec::new(),
    };
    // Processes that a killed ADD has left at work must have ended before.
    let _alone = Lock::if_possible(Lock::of_attachment(owner))?;
    let filter = Netfilter::new();
    let closed = filter.remove_open_ports(owner, &hints);
    let withdrawn = filter.remove_ports(owner, &hints)?;
    closed?;
    localnet::keep_guarded(&filter, request.prev_result.as_ref())?;
    let known = hints.iter().flat_map(|hint| &hint.ports);
    if known.clone().next().or(withdrawn.first()).is_none() {
        return Ok(());
    }
    // After the rules, or the next packet would make the entry again. Closing the socket waits until the kernel has freed the
    // rules, so a thread does that meanwhile.
    let closing = thread::Builder::new().spawn(move || drop(filter));
    if let Err(error) = conntrack::forget_flows(known.chain(&withdrawn), Flush::Ours) {
        eprintln!("connections to {owner} may continue: {error}");
    }
    if let Ok(closing) = closing {
        drop(closing.join());
    }
    Ok(())
}
