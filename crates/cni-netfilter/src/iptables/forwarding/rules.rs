//! The rules of the firewall plugin, with the Go plugin's texts, and a chain of this plugin that records their owners.
//!
//! Go's rules name addresses and bridges, but not their owners, and a comment on them would hide them from Go. They also
//! accept replies only, so that under a policy of DROP no client outside reaches a published port. So there is one more
//! chain, for connections whose destination was translated: in it a rule for each address accepts them, with the owner as
//! its comment. A rule without a target lists the bridge that the owner is behind.

use std::collections::HashSet;
use std::net::IpAddr;

use cni_plugin::Owner;

use crate::intent::{Ingress, IngressPolicy};
use crate::iptables::tool::{Place, Rule, host};
use crate::nftables::PUBLISHED_MARK;

/// The table everything is in.
pub(super) const TABLE: &str = "filter";
/// Accepts what was published, and says who has which address and bridge.
pub(crate) const OWNERS: &str = "CNI-FORWARD-PUBLISHED";
/// The kernel's hook.
pub(super) const FORWARD: &str = "FORWARD";
/// The accepts.
pub(crate) const ACCEPTS: &str = "CNI-FORWARD";
/// Where packets that leave a bridge with a policy for somewhere else go on to [`STAGE2`].
pub(super) const STAGE1: &str = "CNI-ISOLATION-STAGE-1";
/// Where packets for a bridge with a policy end.
pub(super) const STAGE2: &str = "CNI-ISOLATION-STAGE-2";
/// The owner of a bridge whose rules another plugin made: the Go plugin, which doesn't say for which container.
pub(super) const FOREIGN: &str = "made by another plugin, stays";

/// The beginning of every comment on a rule of the ingress policies.
const INGRESS: &str = "CNI firewall plugin rules (ingressPolicy: ";

/// The entry to the accepts.
pub(super) fn forward() -> Rule {
    Rule::commented(FORWARD, &[], "CNI firewall plugin rules", &["-j", ACCEPTS])
}

/// The entry to the administrator's rules, before the accepts.
pub(super) fn admin(chain: &str) -> Rule {
    Rule::commented(ACCEPTS, &[], "CNI firewall plugin admin overrides", &["-j", chain])
}

/// What has the mark of published connections is accepted before the ingress policies, unless the administrator's chain
/// decides otherwise. In this order.
pub(super) fn marked_as_published(admin: &str) -> [Rule; 2] {
    let bit = format!("{PUBLISHED_MARK:#x}/{PUBLISHED_MARK:#x}");
    let rule = |target| {
        Rule::commented(FORWARD, &["-m", "mark", "--mark", &bit], "CNI firewall plugin published only", &["-j", target])
    };
    [rule(admin), rule("ACCEPT")]
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
    Rule::commented(ACCEPTS, &translated, "CNI firewall plugin published ports", &["-j", OWNERS])
}

/// The entry of an address in the list of owners.
pub(super) fn owns_address(owner: &Owner, address: IpAddr) -> Rule {
    Rule::commented(OWNERS, &["-d", &host(address)], &owner.comment(), &["-j", "ACCEPT"])
}

/// The entry of a bridge in the list of owners; `comment` is an owner's or [`FOREIGN`].
pub(super) fn owns_bridge(comment: &str, bridge: &str) -> Rule {
    Rule::commented(OWNERS, &["-i", bridge], comment, &[])
}

/// The position of an attachment's own rule: in the chain of owners, rules that packets can match come before those that only
/// this plugin reads.
pub(super) fn place(rule: &Rule) -> Place {
    if rule.chain == OWNERS && rule.target().is_some() { Place::First } else { Place::Last }
}

/// True if the listed rule concerns neither these addresses nor an owner with this key: with the others' accepts alone the
/// listing of a full node has thousands of lines.
pub(super) fn is_of_others(line: &str, addresses: &HashSet<IpAddr>, owner_key: &str) -> bool {
    let mut words = line.split(' ').skip_while(|word| !["-s", "-d"].contains(word));
    let address = words.nth(1).and_then(|word| word.split('/').next()?.parse().ok());
    address.is_some_and(|address| !addresses.contains(&address)) && !line.contains(owner_key)
}

/// The address in an entry of the list of owners.
pub(super) fn address_of(entry: &Rule) -> Option<IpAddr> {
    entry.value("-d")?.split('/').next()?.parse().ok()
}

/// A rule of the ingress policies.
fn of_policy(chain: &str, matches: &[&str], policy: &str, target: &str) -> Rule {
    Rule::commented(chain, matches, &format!("{INGRESS}{policy})"), &["-j", target])
}

/// The policies in the comment of a rule that all have.
const ANY: &str = "same-bridge|isolated";

/// The entry to the ingress policies. It has to come before [`forward`], which would accept what they drop.
pub(super) fn stage1() -> Rule {
    of_policy(FORWARD, &[], ANY, STAGE1)
}

/// The rules that all bridges share, at the end of their chains. Older Go plugins put another policy into the comment,
/// so they are compared by [`is_alike`].
pub(super) fn returns() -> [Rule; 2] {
    [STAGE1, STAGE2].map(|chain| of_policy(chain, &[], ANY, "RETURN"))
}

/// The rules of one bridge, to be put at the head of their chains in this order.
pub(super) fn of_bridge(ingress: &Ingress) -> Vec<Rule> {
    let bridge = ingress.bridge.as_str();
    let policy = ingress.policy.to_string();
    let mut rules = vec![of_policy(STAGE1, &["-i", bridge, "!", "-o", bridge], &policy, STAGE2)];
    if ingress.policy == IngressPolicy::Isolated {
        rules.push(of_policy(STAGE1, &["-i", bridge, "-o", bridge], &policy, "DROP"));
    }
    rules.push(of_policy(STAGE2, &["-o", bridge], ANY, "DROP"));
    rules
}

/// True if `rule` belongs to an ingress policy, this plugin's or the Go plugin's, of this bridge.
pub(super) fn is_of_bridge(rule: &Rule, bridge: &str) -> bool {
    is_policy(rule)
        && match rule.chain.as_str() {
            STAGE1 => rule.value("-i") == Some(bridge),
            STAGE2 => rule.value("-o") == Some(bridge),
            _ => false,
        }
}

/// True if `rule` belongs to an ingress policy, this plugin's or the Go plugin's.
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
