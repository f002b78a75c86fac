//! Forwarding in the nftables backend: the verbs. The tables are in [`super::firewall_frame`].
//!
//! A policy of ours and one of the iptables backend or the Go plugin drop between each other's bridges too: see
//! [`super::firewall_iptables`].

use std::net::IpAddr;

use cni_plugin::{Difference, IfName, NetworkName, Owner};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, NfTablesMessage, TableAttribute, TableMessage};
use rustix::io::Errno;

use super::apply;
use super::batch::Batch;
use super::element::{self, Element, Found, SetId, Value};
use super::error::NftError;
use super::expr::{self, Ip};
use super::firewall_frame::{self as frame, ADMIN, CLOSED, INSIDE, OWNED, TABLE};
use super::firewall_iptables as iptables;
use super::frame::{Chain, Family};
use super::index::{self, OWNERS};
use super::masquerade::targets;
use super::plan::Plan;
use super::probe::{TableFamily, unusable};
use super::{Nftables, chains, check, remove, valid_keys};
use crate::{Forwarding, Ingress, IngressPolicy};

/// The comment on what a bridge's policy consists of. It is the same for all owners, so whoever comes may change it.
const POLICY: &str = "ingressPolicy";
/// The chain without rules that everybody behind a bridge refers to.
const BRIDGE: &str = "bridge-";
/// How often the removal of a policy is tried while others delete the same things.
const RELEASE_ATTEMPTS: u32 = 8;

/// What ends with a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovedForwarding {
    /// The addresses that are no longer accepted.
    pub addresses: Vec<IpAddr>,
    /// The bridges that no longer have a policy.
    pub bridges: Vec<IfName>,
}

fn bridge_chain(bridge: &str) -> String {
    format!("{BRIDGE}{bridge}")
}

/// An interface name as the kernel compares it: 16 bytes, padded with zeros.
fn name_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// What an owner has: an element for each address, and another if it is behind a bridge with a policy.
fn own(intent: &Forwarding) -> Vec<Element> {
    let element = |set: SetId, address: &IpAddr, value, name| Element {
        set,
        key: expr::octets(*address),
        value,
        comment: intent.owner.comment(),
        name,
    };
    let accepts = intent.addresses.iter().map(|address| {
        element(frame::accepted(Ip::of(*address)), address, Value::Nothing, format!("accept of {address}"))
    });
    let behind = intent.ingress.iter().flat_map(|ingress| {
        intent.addresses.iter().map(|address| {
            let (set, chain) = (frame::behind(Ip::of(*address)), bridge_chain(ingress.bridge.as_str()));
            element(set, address, Value::Goto(chain), format!("place of {address} behind {}", ingress.bridge))
        })
    });
    accepts.chain(behind).collect()
}

/// Wherever an owner of these addresses may be.
fn places(addresses: &[IpAddr]) -> impl Iterator<Item = (SetId, Vec<u8>)> {
    addresses.iter().flat_map(|address| {
        let ip = Ip::of(*address);
        [frame::accepted(ip), frame::behind(ip)].map(|set| (set, expr::octets(*address)))
    })
}

/// What a bridge's policy consists of.
fn policy(ingress: &Ingress) -> Vec<Element> {
    let bridge = ingress.bridge.as_str();
    let target = match ingress.policy {
        IngressPolicy::SameBridge => frame::PASS,
        IngressPolicy::Isolated => frame::REFUSE,
    };
    let name = format!("ingressPolicy {} of {bridge}", ingress.policy);
    let element = |set, key, value| Element { set, key, value, comment: POLICY.to_owned(), name: name.clone() };
    vec![
        element(INSIDE, [name_key(bridge), name_key(bridge)].concat(), Value::Goto(target.to_owned())),
        element(CLOSED, name_key(bridge), Value::Nothing),
    ]
}

pub(super) fn plan(intent: &Forwarding) -> Result<Plan, NftError> {
    let mut plan = Plan { frames: vec![frame::frame()], elements: own(intent), ..Plan::default() };
    if let Some(ingress) = &intent.ingress {
        let chain = Chain { name: bridge_chain(ingress.bridge.as_str()), base: None, rules: Vec::new() };
        plan.chains.push((TABLE, chain));
        plan.elements.extend(policy(ingress));
    }
    plan.register(TABLE, &intent.owner, None);
    plan.deduplicate()?;
    Ok(plan)
}

fn admin_chain(batch: &mut Batch) {
    let attributes = vec![TableAttribute::Name(TABLE.name.to_owned())];
    let table = NfTablesMessage::NewTable(TableMessage { attributes });
    batch.push(format!("add table {TABLE}"), Family::Inet.number(), NLM_F_CREATE, table);
    Chain { name: ADMIN.to_owned(), base: None, rules: Vec::new() }.declare(TABLE, batch);
}

impl Nftables {
    /// Accepts what the intent's addresses send and the replies to it, and keeps the bridge's policy. Idempotent; the
    /// latest call decides about the policy, and an address that another owner had becomes this one's.
    ///
    /// Where iptables-nft has its chain `FORWARD`, the accept counts there too; and so does the policy in its chains, which
    /// are made if `iptables_may_come`.
    ///
    /// Returns the bridges whose policy ends with this, because others had these addresses, or the owner another bridge.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add_forwarding(&self, intent: &Forwarding, iptables_may_come: bool) -> Result<Vec<IfName>, NftError> {
        let own = own(intent);
        let keys = own.iter().map(|element| (element.set, element.key.as_slice()));
        let found = element::look_up(&self.socket, keys)?;
        let again = index::look_up(&self.socket, &[TABLE], &intent.owner.comment())?.iter().any(Option::is_some);
        if chains::uses(&self.socket, TABLE, ADMIN)?.is_none() {
            self.make_admin_chain()?;
        }
        // IPAM gave the addresses to this owner, so whoever has them is gone.
        let mut released = Vec::new();
        if found.iter().flatten().any(|found| !intent.owner.wrote(&found.comment)) {
            released.extend(self.give_up_others(intent, &own)?);
        }
        let is_new = match &intent.ingress {
            Some(ingress) => chains::uses(&self.socket, TABLE, &bridge_chain(ingress.bridge.as_str()))?.is_none(),
            None => false,
        };
        apply::apply(&self.socket, &plan(intent)?)?;
        if again {
            // It may have been behind another bridge.
            released.extend(self.release_bridges()?);
        }
        self.mend_frame()?;
        iptables::add(&self.socket, intent, is_new, iptables_may_come)?;
        Ok(released)
    }

    /// What of [`Nftables::add_forwarding`] isn't there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_forwarding(&self, intent: &Forwarding, iptables_may_come: bool) -> Result<Vec<Difference>, NftError> {
        let mut differences = check::check(&self.socket, &plan(intent)?)?;
        differences.extend(iptables::check(&self.socket, intent, iptables_may_come)?);
        Ok(differences)
    }

    /// The bridges that have a policy here.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn closed_bridges(&self) -> Result<Vec<IfName>, NftError> {
        // Answers that there is none on a kernel without nf_tables too.
        if !self.chain_exists(TableFamily::Inet, TABLE.name, "isolate")? {
            return Ok(Vec::new());
        }
        let name = |found: Found| String::from_utf8(found.key).ok()?.trim_end_matches('\0').parse().ok();
        Ok(element::dump(&self.socket, CLOSED)?.into_iter().filter_map(name).collect())
    }

    /// Keeps `bridges`, which have a policy here, apart from those with a policy in the tables of iptables-nft, for what
    /// `addresses` have to do with. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_apart(&self, bridges: &[IfName], addresses: &[IpAddr]) -> Result<(), NftError> {
        let names: Vec<&str> = bridges.iter().map(IfName::as_str).collect();
        iptables::keep_apart(&self.socket, &iptables::families(addresses), &names, false)
    }

    /// What of [`Nftables::keep_apart`] isn't there.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_apart(&self, bridges: &[IfName], addresses: &[IpAddr]) -> Result<Vec<Difference>, NftError> {
        let names: Vec<&str> = bridges.iter().map(IfName::as_str).collect();
        iptables::check_apart(&self.socket, &iptables::families(addresses), &names, false)
    }

    /// Removes what the owner has, and the policy of a bridge that nobody is behind any more. Idempotent.
    ///
    /// This takes constant time if `hint` is all that the owner has, or if it has nothing; else all elements are read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_forwarding(&self, owner: &Owner, hint: Option<&Forwarding>) -> Result<RemovedForwarding, NftError> {
        let hints: Vec<_> = hint.iter().flat_map(|hint| places(&hint.addresses)).collect();
        let removed = remove::remove_owner(&self.socket, &[TABLE], &OWNED, &hints, owner)?;
        let bridges = self.release(&targets(&removed, TABLE))?;
        Ok(RemovedForwarding { addresses: frame::addresses(&removed), bridges })
    }

    /// Removes what owners of `network` that are not in `valid` have, and the policies of bridges that nobody is behind.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_forwarding(&self, network: &NetworkName, valid: &[Owner]) -> Result<RemovedForwarding, NftError> {
        let index = SetId { table: TABLE, name: OWNERS };
        let sets = [OWNED.as_slice(), &[index]].concat();
        let removed = remove::remove_walking(&self.socket, &sets, valid_keys(network, valid))?;
        let bridges = self.release_bridges()?;
        iptables::retain(&self.socket, |names| {
            let keys: Vec<_> = names.iter().map(|name| name_key(name)).collect();
            let found = element::look_up(&self.socket, keys.iter().map(|key| (CLOSED, key.as_slice())))?;
            Ok(found.iter().map(Option::is_some).collect())
        })?;
        Ok(RemovedForwarding { addresses: frame::addresses(&removed), bridges })
    }

    /// Those of `addresses` that are accepted for nobody.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn unowned(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, NftError> {
        let keys: Vec<_> = addresses.iter().map(|a| (frame::accepted(Ip::of(*a)), expr::octets(*a))).collect();
        let found = element::look_up(&self.socket, keys.iter().map(|(set, key)| (*set, key.as_slice())))?;
        Ok(addresses.iter().zip(found).filter_map(|(address, found)| found.is_none().then_some(*address)).collect())
    }

    /// Asks the kernel whether it can do what forwarding needs; see [`Nftables::usable`].
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn forwarding_usable(&self) -> Result<(), NftError> {
        let mut batch = Batch::default();
        admin_chain(&mut batch);
        frame::frame().install(&mut batch);
        apply::refuse_foreign(&self.socket, frame::frame())?;
        let refused = self.socket.rehearse(&batch);
        refused.map_err(|source| unusable("filter what is forwarded in nftables", "nf_tables and nft_ct", source))
    }

    /// The administrator's chain has to exist before a rule can lead to it, and keeps what is in it.
    fn make_admin_chain(&self) -> Result<(), NftError> {
        let mut batch = Batch::default();
        admin_chain(&mut batch);
        self.socket.commit(&batch, None)
    }

    /// Puts the shared rules right, of which [`apply::apply`] only notices that they aren't there: somebody may have
    /// emptied or changed a chain by hand, and a policy that drops nothing would be everybody's.
    fn mend_frame(&self) -> Result<(), NftError> {
        let frame = frame::frame();
        if check::has_its_rules(&self.socket, &frame)? {
            return Ok(());
        }
        let mut batch = Batch::default();
        frame.install(&mut batch);
        self.socket.commit(&batch, None)
    }

    /// Removes others' elements for these addresses. Returns the bridges whose policy ends with that.
    fn give_up_others(&self, intent: &Forwarding, own: &[Element]) -> Result<Vec<IfName>, NftError> {
        let keys: Vec<_> = own.iter().map(|element| (element.set, element.key.clone())).collect();
        let others = |comment: &str| !intent.owner.wrote(comment);
        let removed = remove::remove_keys(&self.socket, &keys, &others)?;
        self.release(&targets(&removed, TABLE))
    }

    fn release_bridges(&self) -> Result<Vec<IfName>, NftError> {
        self.release(&chains::chains_with(&self.socket, TABLE, BRIDGE)?)
    }

    /// Removes the policies of the bridges with these chains unless somebody is behind them, and returns those.
    fn release(&self, chains: &[String]) -> Result<Vec<IfName>, NftError> {
        let mut released = Vec::new();
        for chain in chains {
            let Some(Ok(bridge)) = chain.strip_prefix(BRIDGE).map(str::parse::<IfName>) else { continue };
            if self.release_bridge(chain, &bridge)? {
                released.push(bridge);
            }
        }
        Ok(released)
    }

    /// Removes a bridge's chain and policy, and says so, unless somebody is behind it. An ADD at the same time wins, for the
    /// kernel refuses to delete a chain that an element leads to.
    fn release_bridge(&self, chain: &str, bridge: &IfName) -> Result<bool, NftError> {
        let wanted = policy(&Ingress { bridge: bridge.clone(), policy: IngressPolicy::SameBridge });
        let keys: Vec<_> = wanted.iter().map(|element| (element.set, element.key.as_slice())).collect();
        for _ in 0..RELEASE_ATTEMPTS {
            if chains::uses(&self.socket, TABLE, chain)?.is_none_or(|uses| uses > 0) {
                return Ok(false);
            }
            let found = element::look_up(&self.socket, keys.iter().copied())?;
            let there = keys.iter().zip(found).filter_map(|(key, found)| found.map(|_| *key));
            let mut batch = Batch::default();
            element::delete(there, &mut batch);
            iptables::release(&self.socket, bridge.as_str(), &mut batch)?;
            let attributes = vec![ChainAttribute::Table(TABLE.name.to_owned()), ChainAttribute::Name(chain.to_owned())];
            let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
            batch.push(format!("delete chain {TABLE} {chain}"), Family::Inet.number(), 0, message);
            match self.socket.commit(&batch, None) {
                // Something of it has been deleted in between.
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                Err(error) if error.errno() == Some(Errno::BUSY) => return Ok(false),
                outcome => return outcome.map(|()| true),
            }
        }
        Ok(false)
    }
}
