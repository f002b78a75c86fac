//! CHECK: the lease is alive, and has the addresses of the result.

use cni_plugin::{Attachment, CniError, Difference, Request, verdict};

use crate::client::Daemon;
use crate::config::Config;
use crate::settings;
use crate::wire::{Answer, Call, OwnerName};

/// Compares with the result of ADD. A daemon that has ended is started, and continues with the leases in its files.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let socket = settings::socket(&request.config)?;
    settings::options(&request.config, Some((&attachment.owner, &attachment.args)))?;
    let result = request.require_result_of_add()?;
    let answer = Daemon::connect_or_start(&socket)?.call(&Call::Check(OwnerName::from(&attachment.owner)))?;
    let Answer::Granted(granted) = answer else { return Err(answer.unexpected()) };
    let reported = result.ips_of(&attachment.owner.ifname);
    let has = |ip: &cni_plugin::IpConfig| reported.iter().any(|found| found.address == ip.address);
    let differences: Vec<Difference> = granted
        .ips
        .iter()
        .filter(|ip| !has(ip))
        .map(|ip| Difference::missing(format!("leased address {} in prevResult", ip.address)))
        .collect();
    verdict(&differences)
}
