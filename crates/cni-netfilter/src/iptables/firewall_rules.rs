//! The rules of the firewall plugin in the Go plugin's words, and a chain of ours that says whose they are.
//!
//! Go's rules name addresses and bridges, but nobody who owns them, and a comment on them would hide them from Go. They
//! also accept replies only, so that under a policy of DROP nobody outside reaches a published port. So there is one more
//! chain, for connections whose destination was translated: in it a rule for each address accepts them, with the owner as
//! its comment. A rule without a target lists the bridge that the owner is behind.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::Owner;

use super::rules::Rule;
use crate::{Ingress, IngressPolicy};

/// The table everything is in.
pub(super) const TABLE: &str = "filter";
/// Accepts what was published, and says who has which address and bridge.
pub(super) const OWNERS: &str = "CNI-FORWARD-PUBLISHED";
/// The kernel's hook.
pub(super) const FORWARD: &str = "FORWARD";
/// The accepts.
pub(super) const ACCEPTS: &str = "CNI-FORWARD";
/// Where packets that leave a bridge with a policy for somewhere else go on to [`STAGE2`].
pub(super) const STAGE1: &str = "CNI-ISOLATION-STAGE-1";
/// Where packets for a bridge with a policy end.
pub(super) const STAGE2: &str = "CNI-ISOLATION-STAGE-2";
/// The owner of a bridge whose rules somebody else made: the Go plugin, which doesn't say for whom.
pub(super) const FOREIGN: &str = "made by another plugin, stays";

/// The beginning of every comment on a rule of the ingress policies.
const INGRESS: &str = "CNI firewall plugin rules (ingressPolicy: ";

fn commented(chain: &str, head: &[&str], comment: &str, target: &str) -> Rule {
    Rule::new(chain, head.iter().copied().chain(["-m", "comment", "--comment", comment, "-j", target]))
}

/// The entry to the accepts.
pub(super) fn forward() -> Rule {
    commented(FORWARD, &[], "CNI firewall plugin rules", ACCEPTS)
}

/// The entry to the administrator's rules, before the accepts.
pub(super) fn admin(chain: &str) -> Rule {
    commented(ACCEPTS, &[], "CNI firewall plugin admin overrides", chain)
}

/// The two accepts of an address.
pub(super) fn accepts(address: IpAddr) -> [Rule; 2] {
    let host = host(address);
    let replies = ["-d", &host, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"];
    [Rule::new(ACCEPTS, replies), Rule::new(ACCEPTS, ["-s", &host, "-j", "ACCEPT"])]
}

/// The entry to [`OWNERS`]. The replies don't have to pass through the list: [`accepts`] lets them through.
pub(super) fn published() -> Rule {
    let translated = ["-m", "conntrack", "--ctstate", "DNAT", "--ctdir", "ORIGINAL"];
    commented(ACCEPTS, &translated, "CNI firewall plugin published ports", OWNERS)
}

/// The entry of an address in the list of owners.
pub(super) fn owns_address(owner: &Owner, address: IpAddr) -> Rule {
    let (host, comment) = (host(address), owner.comment());
    Rule::new(OWNERS, ["-d", &host, "-m", "comment", "--comment", &comment, "-j", "ACCEPT"])
}

/// The entry of a bridge in the list of owners; `comment` is an owner's or [`FOREIGN`].
pub(super) fn owns_bridge(comment: &str, bridge: &str) -> Rule {
    Rule::new(OWNERS, ["-i", bridge, "-m", "comment", "--comment", comment])
}

/// True if the rule belongs at the head of its chain: in the list of owners those that packets look for come before those that
/// are there for us only.
pub(super) fn comes_first(rule: &Rule) -> bool {
    rule.chain == OWNERS && rule.target().is_some()
}

/// True if the listed rule concerns neither these addresses nor an owner with this key: with the others' accepts alone the
/// listing of a full node has thousands of lines.
pub(super) fn is_anothers(line: &str, addresses: &HashSet<IpAddr>, owner_key: &str) -> bool {
    let mut words = line.split(' ').skip_while(|word| !["-s", "-d"].contains(word));
    let address = words.nth(1).and_then(|word| word.split('/').next()?.parse().ok());
    address.is_some_and(|address| !addresses.contains(&address)) && !line.contains(owner_key)
}

/// The address in an entry of the list, as [`host`] writes it.
pub(super) fn address_of(entry: &Rule) -> Option<IpAddr> {
    entry.value("-d")?.split('/').next()?.parse().ok()
}

fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// The entry to the ingress policies. It has to come before [`forward`], which would accept what they drop.
pub(super) fn stage1() -> Rule {
    commented(FORWARD, &[], &format!("{INGRESS}same-bridge|isolated)"), STAGE1)
}

/// The rules that all bridges share, at the end of their chains. Older Go plugins put another policy into the comment,
/// so they are told by [`is_alike`].
pub(super) fn returns() -> [Rule; 2] {
    [STAGE1, STAGE2].map(|chain| commented(chain, &[], &format!("{INGRESS}same-bridge|isolated)"), "RETURN"))
}

/// The rules of one bridge, to be put at the head of their chains in this order.
pub(super) fn of_bridge(ingress: &Ingress) -> Vec<Rule> {
    let bridge = ingress.bridge.as_str();
    let specific = format!("{INGRESS}{})", ingress.policy);
    let mut rules = vec![commented(STAGE1, &["-i", bridge, "!", "-o", bridge], &specific, STAGE2)];
    if ingress.policy == IngressPolicy::Isolated {
        rules.push(commented(STAGE1, &["-i", bridge, "-o", bridge], &specific, "DROP"));
    }
    rules.push(commented(STAGE2, &["-o", bridge], &format!("{INGRESS}same-bridge|isolated)"), "DROP"));
    rules
}

/// True if `rule` is one of an ingress policy, ours or Go's, of this bridge.
pub(super) fn concerns(rule: &Rule, bridge: &str) -> bool {
    is_policy(rule)
        && match rule.chain.as_str() {
            STAGE1 => rule.value("-i") == Some(bridge),
            STAGE2 => rule.value("-o") == Some(bridge),
            _ => false,
        }
}

/// True if `rule` is of the ingress policies, ours or Go's.
pub(super) fn is_policy(rule: &Rule) -> bool {
    rule.comment().is_some_and(|comment| comment.starts_with(INGRESS))
}

/// True if both do the same and are of the ingress policies, whichever the comments name.
pub(super) fn is_alike(one: &Rule, other: &Rule) -> bool {
    let bare = |rule: &Rule| {
        let comment = rule.comment().map(str::to_owned);
        let args = rule.args.iter().filter(|arg| Some(*arg) != comment.as_ref()).cloned();
        Rule::new(&rule.chain, args)
    };
    one.same_as(other) || is_policy(one) && is_policy(other) && bare(one).same_as(&bare(other))
}
