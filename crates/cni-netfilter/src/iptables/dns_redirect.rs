//! The redirection of DNS: `PREROUTING` sends port 53 to `CNI-DNSNAME`, whose rules send an attachment's packets to its chain, whose
//! rules translate the destination. `INPUT` accepts what was translated.

use cni_plugin::{Difference, Family, NetworkName, Owner};

use super::owned::{self, ChainKind, OwnedChain, Skeleton, additions, change};
use super::tool::{IptablesError, Place, Reading, Rule, Script, Table, Tools, command, in_each, legacy_in_use};
use crate::intent::DnsRedirect;

/// `CNI-NS-` and 21 digits: the name service of a container.
pub(super) const CHAINS: ChainKind =
    ChainKind { table: "nat", prefix: "CNI-NS-", digits: 21, outdated_prefix: None, go_is_of_container: false };
/// The chain with the entry rules of all attachments.
pub(crate) const REDIRECTS: &str = "CNI-DNSNAME";
const FILTER: &str = "filter";
const INPUT: &str = "INPUT";
const COMMENT: &str = "CNI dnsname plugin";
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];

/// First, so that no published port takes what is for the resolver.
fn skeleton() -> Skeleton {
    let enter = |protocol| Rule::new("PREROUTING", ["-p", protocol, "-m", protocol, "--dport", "53", "-j", REDIRECTS]);
    Skeleton { chains: vec![REDIRECTS.to_owned()], rules: PROTOCOLS.map(|p| (enter(p), Place::First)).to_vec() }
}

fn families(wanted: &DnsRedirect) -> Vec<Family> {
    Family::among(wanted.targets.iter().map(|target| target.client))
}

fn wanted_in(family: Family, wanted: &DnsRedirect) -> OwnedChain {
    let targets = || wanted.targets.iter().filter(|target| Family::of(target.client) == family);
    let interface = wanted.interface.as_str();
    let entries = targets().map(|target| {
        let source = super::tool::host(target.client);
        Rule::new(REDIRECTS, ["-s", source.as_str(), "-i", interface])
    });
    let body = targets().flat_map(|target| {
        let (client, server) = (super::tool::host(target.client), super::tool::host(target.resolver.ip()));
        let to = target.resolver.to_string();
        PROTOCOLS.map(|protocol| {
            let mut args = vec!["-s", client.as_str()];
            if !wanted.intercept {
                args.extend(["-d", server.as_str()]);
            }
            args.extend(["-p", protocol, "-m", protocol, "--dport", "53", "-j", "DNAT", "--to-destination", &to]);
            Rule::new("", args)
        })
    });
    OwnedChain {
        kind: &CHAINS,
        owner: wanted.owner.clone(),
        link: None,
        skeleton: skeleton(),
        body: body.collect(),
        entries: entries.collect(),
        free_form: false,
    }
}

/// What accepts in `INPUT` what was redirected: by the port of the resolver and connection tracking, or by a mark that nftables has
/// set.
fn accepts(by: Accepted) -> Skeleton {
    let rule = |matches: &[&str]| (Rule::commented(INPUT, matches, COMMENT, &["-j", "ACCEPT"]), Place::First);
    let rules = match by {
        Accepted::Port(port) => {
            let port = port.to_string();
            let of = |p| rule(&["-p", p, "-m", p, "--dport", &port, "-m", "conntrack", "--ctstate", "DNAT"]);
            PROTOCOLS.map(of).to_vec()
        }
        Accepted::Mark(mark) => vec![rule(&["-m", "mark", "--mark", &format!("{mark:#x}/{mark:#x}")])],
    };
    Skeleton { chains: Vec::new(), rules }
}

/// By what redirected packets are known in `INPUT`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accepted {
    /// By the port of the resolver.
    Port(u16),
    /// By the mark of the nftables backend.
    Mark(u32),
}

/// Redirects, and accepts what is redirected.
pub(super) fn add(wanted: &DnsRedirect) -> Result<(), IptablesError> {
    let port = wanted.targets.first().map_or(0, |target| target.resolver.port());
    let outcomes = in_each(&families(wanted), |family| {
        owned::add(&CHAINS, family, &[wanted_in(family, wanted)])?;
        accept(Tools::of(family), Accepted::Port(port))
    });
    outcomes.map(drop)
}

fn accept(tools: Tools, by: Accepted) -> Result<(), IptablesError> {
    let mut script = Script::new(FILTER);
    accepts(by).require(&mut script);
    match tools.restore(&script) {
        Err(error) if error.is_refusal() => change(|| Reading::of(tools, FILTER), |table| accepts(by).complete(table)),
        outcome => outcome.map(drop),
    }
}

/// For the nftables backend: accepts in legacy iptables what has the mark, where its table is in use.
pub(crate) fn accept_in_legacy(families: &[Family], mark: u32) -> Result<(), IptablesError> {
    let in_use: Vec<Family> = families.iter().copied().filter(|family| legacy_in_use(*family, FILTER)).collect();
    let outcomes = in_each(&in_use, |family| match Tools::legacy(family) {
        Some(tools) => accept(tools, Accepted::Mark(mark)),
        None => Ok(()),
    });
    outcomes.map(drop)
}

/// Removes what accepts in `INPUT`, of both variants of iptables. Idempotent.
pub(super) fn remove_accepts() -> Result<(), IptablesError> {
    let remove = |table: &mut Table| {
        let ours: Vec<Rule> = table.rules(INPUT).filter(|rule| rule.comment() == Some(COMMENT)).cloned().collect();
        ours.iter().for_each(|rule| table.delete(rule));
    };
    let outcomes = in_each(&Family::ALL, |family| {
        let tools = Tools::of(family);
        // A node without IPv6 need not have its tools.
        match change(|| Reading::for_removal(tools, FILTER, || family == Family::V6), remove) {
            Err(error) if error.is_about_tools() && family == Family::V6 => {}
            outcome => outcome?,
        }
        match Tools::legacy(family).filter(|_| legacy_in_use(family, FILTER)) {
            Some(legacy) => change(|| Reading::of(legacy, FILTER), remove),
            None => Ok(()),
        }
    });
    outcomes.map(drop)
}

/// What of [`add`] isn't there.
pub(super) fn check(wanted: &DnsRedirect) -> Result<Vec<Difference>, IptablesError> {
    let port = wanted.targets.first().map_or(0, |target| target.resolver.port());
    let outcomes = in_each(&families(wanted), |family| {
        let tools = Tools::of(family);
        let mut found = owned::check(tools, &Reading::of(tools, CHAINS.table)?.table, vec![wanted_in(family, wanted)])?;
        let before = Reading::of(tools, FILTER)?.table;
        let mut table = before.clone();
        accepts(Accepted::Port(port)).complete(&mut table);
        let place = format!("{} -t {FILTER}", command(family));
        found.extend(additions(table.changes().commands(), &before, &place));
        Ok(found)
    });
    Ok(outcomes?.concat())
}

/// Removes what the owner has.
pub(super) fn remove(owner: &Owner, hint: Option<&DnsRedirect>) -> Result<(), IptablesError> {
    let expected = |family| hint.map(|hint| wanted_in(family, hint)).into_iter().collect();
    owned::remove(&CHAINS, owner, &hint.map(families).unwrap_or_default(), expected).map(drop)
}

/// Removes what owners of `network` other than `valid` have.
pub(super) fn retain(network: &NetworkName, valid: &[Owner]) -> Result<(), IptablesError> {
    owned::retain(&CHAINS, network, valid).map(drop)
}

/// Takes [`add`] back.
pub(super) fn take_back(owner: &Owner) -> Result<(), IptablesError> {
    owned::take_back(&CHAINS, owner)
}

/// The table that [`add`] makes of an empty one.
pub(super) fn plan(wanted: &DnsRedirect, family: Family) -> Table {
    owned::plan(&CHAINS, &[wanted_in(family, wanted)])
}
