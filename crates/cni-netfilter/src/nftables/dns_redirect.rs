//! The redirection of DNS: `ip cni_dnsname`, `ip6 cni_dnsname`. One lookup by interface, client and server finds the resolver, so a
//! packet costs the same with any number of containers.
//!
//! The chain comes before all other translations of destinations, so that a port 53 that another container publishes doesn't take
//! what is for the resolver. As an accept in one table doesn't keep another from dropping, redirected packets get a mark
//! ([`ACCEPT_MARK`]), and a rule in `INPUT` of iptables-nft accepts those.

use std::net::SocketAddr;

use cni_plugin::{Difference, Family, NetworkName, Owner, Protocol};
use netlink_packet_netfilter::nftables::{Expressions, InetHookNumber, MetaKey, Operator};
use rustix::io::Errno;

use super::owned::comment::is_stale;
use super::owned::{Failure, OwnedTable, Plan, apply, check, index, remove};
use super::ruleset::chain::DSTNAT;
use super::ruleset::expression::{self as expr, Side};
use super::ruleset::{Chain, DataType, Element, Key, Maps, Rule, Set, SetId, Skeleton, Value, chain, data, rule};
use super::wire::{Batch, NftError, Table};
use super::{ACCEPT_MARK, Nftables};
use crate::intent::{DnsRedirect, DnsTarget};

const NAME: &str = "cni_dnsname";
/// Clients that ask their resolver's own address.
const SERVERS: &str = "servers";
/// Clients whose every server is meant.
const INTERCEPTED: &str = "intercepted";
static OWNED4: OwnedTable = owned(Family::V4);
static OWNED6: OwnedTable = owned(Family::V6);
pub(super) static OWNED: [&OwnedTable; 2] = [&OWNED4, &OWNED6];
/// Before `NF_IP_PRI_NAT_DST`, and, for the mark, behind it.
const BEFORE_OTHERS: i32 = DSTNAT - 5;
const MARKING: i32 = DSTNAT + 5;
/// The chain of iptables-nft, and the comment by which the rule in it is known.
const INPUT: &str = "INPUT";
pub(crate) const INPUT_COMMENT: &str = "CNI dnsname plugin (nftables)";
/// How often a change is tried while others change the same chain.
const ATTEMPTS: u32 = 8;

const fn owned(family: Family) -> OwnedTable {
    let family = match family {
        Family::V4 => super::TableFamily::Ip,
        Family::V6 => super::TableFamily::Ip6,
    };
    OwnedTable { table: Table { family, name: NAME }, sets: &[SERVERS, INTERCEPTED], waitlist: None }
}

fn owned_table(family: Family) -> &'static OwnedTable {
    match family {
        Family::V4 => &OWNED4,
        Family::V6 => &OWNED6,
    }
}

fn table(family: Family) -> Table<'static> {
    owned_table(family).table
}

fn filter(family: Family) -> Table<'static> {
    Table { family: family.into(), name: "filter" }
}

/// `<protocol> dport <port>`.
fn is_to_port(protocol: Protocol, port: u16) -> Vec<Expressions> {
    let port_is = [expr::port(Side::Destination, 0), expr::compare(Operator::Equal, port.to_be_bytes())];
    expr::protocol_is(protocol).into_iter().chain(port_is).collect()
}

/// `<protocol> dport 53 dnat to iifname . saddr . daddr map @servers`, or the same without the server.
fn redirect(family: Family, protocol: Protocol, set: &str) -> Rule {
    let words = u32::from(family.bits()) / 32;
    let mut rule = is_to_port(protocol, DnsRedirect::PORT);
    rule.extend([expr::meta(MetaKey::Iifname, 0), expr::address(family, Side::Source, 4)]);
    if set == SERVERS {
        rule.push(expr::address(family, Side::Destination, 4 + words));
    }
    rule.extend(expr::dnat(family, set));
    rule
}

/// Marks what was redirected to this node, at the port of the resolver.
fn marking(protocol: Protocol, port: u16) -> Rule {
    let mut rule = expr::destination_was_translated().to_vec();
    rule.extend(expr::destination_is_local());
    rule.extend(is_to_port(protocol, port));
    rule.extend(expr::set_mark(!ACCEPT_MARK, ACCEPT_MARK));
    rule
}

/// The table of a family with what all containers share.
fn skeleton(family: Family, port: u16) -> Skeleton {
    // A set borrows its types for ever, so both families are spelt out.
    type Types = &'static [DataType];
    let [server, client, resolver]: [Types; 3] = match family {
        Family::V4 => [
            &[DataType::Interface, DataType::Address(Family::V4), DataType::Address(Family::V4)],
            &[DataType::Interface, DataType::Address(Family::V4)],
            &[DataType::Address(Family::V4), DataType::Port],
        ],
        Family::V6 => [
            &[DataType::Interface, DataType::Address(Family::V6), DataType::Address(Family::V6)],
            &[DataType::Interface, DataType::Address(Family::V6)],
            &[DataType::Address(Family::V6), DataType::Port],
        ],
    };
    let set = |name, key, comment| Set { name, key, maps: Maps::To(resolver), comment };
    let protocols = [Protocol::Udp, Protocol::Tcp];
    let redirects = protocols.iter().flat_map(|p| [SERVERS, INTERCEPTED].map(|set| redirect(family, *p, set)));
    let marks = protocols.iter().map(|protocol| marking(*protocol, port));
    let base = |name, kind, priority, rules| Chain::base(name, kind, InetHookNumber::PreRouting, priority, rules);
    Skeleton {
        table: table(family),
        comment: "CNI plugins: containers' names",
        sets: vec![
            set(SERVERS, server, "interface, container, server : resolver"),
            set(INTERCEPTED, client, "interface, container : resolver"),
            index::set(),
        ],
        chains: vec![
            // `redirect` is a word of nft's own.
            base("redirection", "nat", BEFORE_OTHERS, redirects.collect()),
            base("marking", "filter", MARKING, marks.collect()),
        ],
        by_name: |_| None,
    }
}

fn key(wanted: &DnsRedirect, target: &DnsTarget) -> Key {
    let table = table(Family::of(target.client));
    let client = [data::interface(wanted.interface.as_str()), data::address(target.client)].concat();
    if wanted.intercept {
        return Key::new(SetId { table, name: INTERCEPTED }, client);
    }
    Key::new(SetId { table, name: SERVERS }, [client, data::address(target.resolver.ip())].concat())
}

fn value(resolver: SocketAddr) -> Value {
    Value::Data([&data::address(resolver.ip())[..], &data::port(resolver.port())].concat())
}

fn plan(wanted: &DnsRedirect) -> Result<Plan, NftError> {
    let element = |target: &DnsTarget| Element {
        key: key(wanted, target),
        value: value(target.resolver),
        comment: wanted.owner.comment(),
        name: format!("redirection of what {} asks at port {}", target.client, DnsRedirect::PORT),
    };
    let mut plan = Plan::default();
    plan.elements.extend(wanted.targets.iter().map(element));
    for (family, port) in families(wanted) {
        plan.skeletons.push(skeleton(family, port));
        plan.register(owned_table(family), &wanted.owner, None);
    }
    plan.deduplicate()?;
    Ok(plan)
}

/// The families of the targets, each with the resolver's port.
fn families(wanted: &DnsRedirect) -> Vec<(Family, u16)> {
    let of = |family| wanted.targets.iter().find(|target| Family::of(target.client) == family);
    Family::ALL.into_iter().filter_map(|family| Some((family, of(family)?.resolver.port()))).collect()
}

impl Nftables {
    /// Redirects, in one transaction, and accepts what is redirected in `INPUT` of iptables-nft. Idempotent; what an earlier
    /// container of the same address left is replaced.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_dns_redirect(&self, wanted: &DnsRedirect) -> Result<(), NftError> {
        let plan = plan(wanted)?;
        match apply::apply(&self.socket, &plan) {
            Err(Failure::Held(_)) => {
                let of_others = |comment: &str| !wanted.owner.wrote(comment);
                remove::keys(&self.socket, &OWNED, &plan.keys(), &of_others)?;
                apply::apply(&self.socket, &plan)?;
            }
            outcome => drop(outcome?),
        }
        families(wanted).into_iter().try_for_each(|(family, _)| self.accept_in_input(family))
    }

    fn accept_in_input(&self, family: Family) -> Result<(), NftError> {
        let table = filter(family);
        if !chain::exists(&self.socket, table, INPUT)? || !self.input_rules(family)?.is_empty() {
            return Ok(());
        }
        let accept = expr::has_mark(ACCEPT_MARK).into_iter().chain([expr::counter(), expr::accept()]);
        let mut batch = Batch::default();
        batch.insert_rule(table, INPUT, &accept.collect::<Vec<_>>(), INPUT_COMMENT, None);
        self.socket.commit(&batch, None)
    }

    /// The handles of this plugin's rules in `INPUT` of iptables-nft.
    fn input_rules(&self, family: Family) -> Result<Vec<u64>, NftError> {
        let rules = rule::list(&self.socket, filter(family), Some(INPUT))?;
        let is_ours = |rule: &&rule::ListedRule| rule.comment.as_deref() == Some(INPUT_COMMENT);
        Ok(rules.iter().filter(is_ours).map(|rule| rule.handle).collect())
    }

    /// Removes what accepts in `INPUT` of iptables-nft: to be called when no owner has a redirection. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_dns_accept(&self) -> Result<(), NftError> {
        for family in Family::ALL {
            for _ in 0..ATTEMPTS {
                let mut batch = Batch::default();
                let rules = self.input_rules(family)?;
                rules.iter().for_each(|handle| batch.delete_rule(filter(family), INPUT, *handle));
                match self.socket.commit(&batch, None) {
                    Err(error) if error.errno() == Some(Errno::NOENT) => {}
                    outcome => {
                        outcome?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// What of [`Nftables::add_dns_redirect`] isn't there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_dns_redirect(&self, wanted: &DnsRedirect) -> Result<Vec<Difference>, NftError> {
        let mut differences = check::check(&self.socket, &plan(wanted)?)?;
        for (family, _) in families(wanted) {
            let table = filter(family);
            if chain::exists(&self.socket, table, INPUT)? && self.input_rules(family)?.is_empty() {
                let rule = format!("meta mark & {ACCEPT_MARK:#x} == {ACCEPT_MARK:#x} accept");
                differences.push(Difference::missing(format!("nftables rule \"{rule}\" of chain {table} {INPUT}")));
            }
        }
        Ok(differences)
    }

    /// Removes the owner's redirections. Idempotent; constant time if `hint` is all that it has, or if it has nothing.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_dns_redirect(&self, owner: &Owner, hint: Option<&DnsRedirect>) -> Result<(), NftError> {
        let hinted = hint.iter().flat_map(|hint| hint.targets.iter().map(|target| key(hint, target)));
        remove::of_owner(&self.socket, &OWNED, &hinted.collect::<Vec<_>>(), owner).map(drop)
    }

    /// Removes the redirections of owners of `network` that are not in `valid`. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_dns_redirect(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        remove::matching(&self.socket, &OWNED, is_stale(network, valid)).map(drop)
    }

    /// Asks the kernel whether it can redirect to this port in IPv4 or, failing that, in IPv6.
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing for IPv4.
    pub fn can_redirect_dns(&self, port: u16) -> Result<(), NftError> {
        let rehearse = |family| apply::rehearse(&self.socket, [&skeleton(family, port)]);
        let either = rehearse(Family::V4).or_else(|error| rehearse(Family::V6).map_err(|_| error));
        either.map_err(|refused| {
            refused.or_unusable("redirect port 53", "nft_nat, nft_chain_nat, nft_fib_ipv4, nft_ct, Linux 5.2 or newer")
        })
    }

    /// What [`Nftables::add_dns_redirect`] makes in an empty network namespace. Asks the kernel nothing.
    ///
    /// # Errors
    /// If the intent contradicts itself.
    pub fn print_dns_redirect(wanted: &DnsRedirect) -> Result<String, NftError> {
        Ok(plan(wanted)?.to_string())
    }
}
