//! What DEL and GC have in common: every part is tried, and addresses are released only when their link is gone; first
//! where IPAM needs the link for that.

use cni_plugin::{CniError, Ipam, IpamConfig, Request, overlap};
use ipnetwork::IpNetwork;

use crate::ipam;

/// IPAM's part: [`Ipam::del`] or [`Ipam::gc`].
type Verb = fn(&Ipam) -> Result<(), CniError>;

/// A DEL or GC at work: remembers the first failure and goes on.
#[derive(Debug)]
pub struct Removal {
    /// IPAM's part, until it is done.
    release: Option<(Ipam, Verb)>,
    failure: Option<CniError>,
    link_remains: bool,
}

impl Removal {
    /// Begins with the addresses, if the configuration has an IPAM plugin that needs the link to release them
    /// ([`ipam::needs_link`]).
    pub fn begin<C>(request: &Request<C>, config: &IpamConfig, verb: Verb) -> Self {
        let release = (!config.plugin_type.is_empty()).then(|| (request.ipam(&config.plugin_type), verb));
        let mut removal = Self { release, failure: None, link_remains: false };
        if ipam::needs_link(&config.plugin_type) {
            removal.release();
        }
        removal
    }

    /// A part that has been tried.
    pub fn step<E: Into<CniError>>(&mut self, outcome: Result<(), E>) {
        if let Err(error) = outcome {
            self.failure.get_or_insert(error.into());
        }
    }

    /// The rules and the link at the same time, as each waits for the kernel: both for grace periods, the rules also for the changes and
    /// closing sockets of other processes. Where no thread can be started, one after the other.
    pub fn rules_beside_link<E: Into<CniError> + Send, L: Into<CniError>>(
        &mut self,
        rules: impl Fn() -> Result<(), E> + Sync,
        link: impl FnOnce() -> Result<(), L>,
    ) {
        let (rules, ()) = overlap(rules, || self.link(link()));
        self.step(rules);
    }

    /// The link, or the links. If one could not be removed, the container may still use its addresses.
    pub fn link<E: Into<CniError>>(&mut self, outcome: Result<(), E>) {
        self.link_remains |= outcome.is_err();
        self.step(outcome);
    }

    fn release(&mut self) {
        if let Some((ipam, verb)) = self.release.take() {
            self.step(verb(&ipam));
        }
    }

    /// Last, the addresses, if they aren't released yet. Not where a link remains, or IPAM would give its addresses to another
    /// container; they stay reserved until a later DEL or GC has removed the link.
    ///
    /// # Errors
    /// The first failure of all parts.
    pub fn finish(mut self) -> Result<(), CniError> {
        if !self.link_remains {
            self.release();
        }
        self.failure.map_or(Ok(()), Err)
    }
}

/// The addresses in the result of ADD, if the runtime passes one.
pub fn reported_addresses<C>(request: &Request<C>) -> Vec<IpNetwork> {
    request.prev_result.iter().flat_map(|result| &result.ips).map(|ip| ip.address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use cni_plugin::{Delegates, SpecVersion};

    thread_local! {
        static CALLED: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether IPAM was called before the link was removed and after it, and what DEL reports.
    fn removed(plugin: &str, outcomes: [Result<(), &str>; 2]) -> ([bool; 2], String) {
        let delegates = Delegates::new(Vec::new(), BTreeMap::new(), Vec::new());
        let (network, version) = ("net".parse().unwrap(), SpecVersion::V1_1_0);
        let request = Request { network, version, config: (), prev_result: None, delegates };
        let ipam = IpamConfig { plugin_type: plugin.to_owned(), ..IpamConfig::default() };
        let [link, rules] = outcomes.map(|outcome| outcome.map_err(CniError::plugin));
        CALLED.set(false);
        let mut removal = Removal::begin(&request, &ipam, |_| {
            CALLED.set(true);
            Err(CniError::plugin("ipam"))
        });
        let before = CALLED.replace(false);
        removal.link(link);
        removal.step(rules);
        let removed = removal.finish();
        ([before, CALLED.get()], removed.err().map_or_else(String::new, |error| error.msg))
    }

    #[test]
    fn the_first_failure_is_reported_and_addresses_stay_reserved_while_a_link_remains() {
        assert_eq!(removed("x", [Ok(()), Ok(())]), ([false, true], "ipam".to_owned()));
        assert_eq!(removed("x", [Ok(()), Err("rules")]), ([false, true], "rules".to_owned()));
        assert_eq!(removed("x", [Err("link"), Err("rules")]), ([false, false], "link".to_owned()));
        assert_eq!(removed("", [Ok(()), Ok(())]), ([false, false], String::new()));
    }

    #[test]
    fn an_ipam_plugin_that_needs_the_link_is_called_before_it_goes() {
        assert_eq!(removed("dhcp", [Err("link"), Ok(())]), ([true, false], "ipam".to_owned()));
    }
}
