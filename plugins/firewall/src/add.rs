//! ADD: lets the container's traffic through and keeps the bridge's policy.

use std::rc::Rc;

use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, CniResult, Request, Undo};

use crate::backend::{Chosen, choose};
use crate::config::Config;
use crate::plan::plan;
use crate::settings::Settings;

/// Opens the way and returns the previous result. Without addresses nothing is started, opened or changed.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let owner = &attachment.owner;
    let settings = Settings::resolve(&request.config)?;
    let prev = request.require_prev_result()?;
    let wanted = plan(&settings, owner, prev)?;
    if wanted.addresses.is_empty() {
        return Ok(prev.clone());
    }
    let filter = Rc::new(Netfilter::new());
    let Chosen { firewalld, backend } = choose(&settings, &filter)?;

    // 2. The rules.
    let (taken_back, taken) = (Rc::clone(&filter), wanted.clone());
    undo.push("the firewall rules", move || taken_back.remove_forwarding(&taken.owner, Some(&taken)).map(drop));
    filter.add_forwarding(backend, &wanted)?;

    // 3. firewalld's zone.
    if let Some(firewalld) = firewalld.map(Rc::new) {
        let (taken_back, addresses) = (Rc::clone(&firewalld), wanted.addresses.clone());
        undo.push("the sources of firewalld's zone", move || taken_back.remove(&addresses));
        firewalld.add(&wanted.addresses)?;
    }

    Ok(prev.clone())
}
