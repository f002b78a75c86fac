//! CHECK: the attachment has the configured addresses.

use cni_plugin::{Attachment, CniError, Difference, IpConfig, Request, verdict};

use crate::config::Config;
use crate::settings::Settings;

/// Compares with the result of ADD: every configured address is there, and with its gateway if it has one.
///
/// A gateway that isn't configured may have been filled in by the caller. Whether the interface has the addresses is
/// what the caller checks; an IPAM plugin doesn't know the interface.
pub fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &attachment.args, request.version)?;
    let reported = request.require_result_of_add()?;
    let differences: Vec<Difference> =
        settings.result.ips.iter().filter_map(|wanted| difference(wanted, &reported.ips)).collect();
    verdict(&differences)
}

fn difference(wanted: &IpConfig, reported: &[IpConfig]) -> Option<Difference> {
    let Some(found) = reported.iter().find(|found| found.address == wanted.address) else {
        return Some(Difference::missing(format!("address {} in prevResult", wanted.address)));
    };
    let gateway = wanted.gateway.filter(|gateway| found.gateway != Some(*gateway))?;
    let found = found.gateway.map_or_else(|| "none".to_owned(), |gateway| gateway.to_string());
    Some(Difference::new(format!("gateway of {} in prevResult", wanted.address), gateway, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(address: &str, gateway: &str) -> IpConfig {
        IpConfig { interface: None, address: address.parse().unwrap(), gateway: gateway.parse().ok() }
    }

    #[test]
    fn absent_addresses_and_other_gateways_are_differences() {
        let reported = [ip("10.0.0.5/24", "10.0.0.1"), ip("fd00::5/64", "")];
        assert_eq!(difference(&ip("10.0.0.5/24", ""), &reported), None);
        assert_eq!(difference(&ip("10.0.0.5/24", "10.0.0.1"), &reported), None);
        let text = |wanted: IpConfig| difference(&wanted, &reported).unwrap().to_string();
        assert_eq!(text(ip("10.0.0.6/24", "")), "address 10.0.0.6/24 in prevResult: expected present, found nothing");
        assert!(text(ip("10.0.0.5/16", "")).contains("10.0.0.5/16"));
        assert!(text(ip("10.0.0.5/24", "10.0.0.2")).ends_with("expected 10.0.0.2, found 10.0.0.1"));
        assert!(text(ip("fd00::5/64", "fd00::1")).ends_with("expected fd00::1, found none"));
    }
}
