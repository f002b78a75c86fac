//! CHECK: the names are in their file, the resolver answers them, and the container's questions reach it.

use cni_netfilter::Netfilter;
use cni_plugin::{Attachment, CniError, Difference, Request, verdict};
use ipnetwork::IpNetwork;

use crate::add::links_of;
use crate::client;
use crate::config::Config;
use crate::place::{Place, directory_name};
use crate::plan::Plan;
use crate::settings::Settings;

/// Compares the plan with the file, the rules, and what the resolver answers the container. Starts a resolver where one was killed.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &request.network)?;
    let result = request.require_result_of_add()?;
    let owner = &attachment.owner;
    let plan = Plan::new(&settings, owner, &attachment.args, result, &links_of(result)?)?;
    let place = Place::new();
    let thing = format!("file {:?}", place.path().join(directory_name(&owner.network)).join(owner.key()));
    let mut differences = Vec::new();
    match place.read(owner)? {
        None => differences.push(Difference::missing(thing)),
        Some(found) if found != plan.record => {
            let text = |record| serde_json::to_string(record).unwrap_or_default();
            differences.push(Difference::new(thing, text(&plan.record), text(&found)));
        }
        Some(_) => {
            let _lock = place.lock()?;
            let answered = client::names(&place, owner)?;
            for name in &plan.record.names {
                let found = answered.iter().find(|(answered, _)| answered == name).map(|(_, found)| found.as_slice());
                for address in plan.record.addresses.iter().map(IpNetwork::ip) {
                    if !found.unwrap_or_default().contains(&address) {
                        differences.push(Difference::missing(format!("{address} in the resolver's answer for {name}")));
                    }
                }
            }
        }
    }
    differences.extend(Netfilter::new().check_dns_redirect(settings.backend, &plan.redirect)?);
    verdict(&differences)
}
