//! Which traces have a valid owner, and which are leaks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use cni_net::{Netlink, addresses_in_all_namespaces};
use cni_netfilter::Who;
use cni_plugin::{NetworkName, Owner};
use cni_runtime::NetworkList;

use super::Scope;
use super::traces::{self, Trace};
use crate::attached::{Attached, State, attached};
use crate::failure::Failure;
use crate::node::Node;

/// How long, in seconds, an attachment may be in the making before it has a link: an address is reserved first.
const IN_THE_MAKING: u64 = 10;
/// Why something is a leak that has no cache file.
const UNRECORDED: &str = "not in the cache";

/// Something that belongs to nobody that lives.
#[derive(Debug, Clone)]
pub struct Leak {
    /// What it is.
    pub trace: Trace,
    /// Its owner, if that is known in full.
    pub owner: Option<Owner>,
    /// Why it is one.
    pub reason: String,
    /// Its namespace lives, though the cache doesn't have it.
    pub is_unrecorded: bool,
}

impl Leak {
    /// Network, container and interface; empty where unknown.
    pub fn names(&self) -> (String, String, String) {
        if let Some(owner) = &self.owner {
            return (owner.network.to_string(), owner.container_id.to_string(), owner.ifname.to_string());
        }
        match &self.trace.who {
            Who::OfNetwork { network, container } => (network.clone(), container.clone(), String::new()),
            Who::Container(container) => (String::new(), container.clone(), String::new()),
            Who::Key { container, ifname, .. } => {
                (String::new(), container.clone().unwrap_or_default(), ifname.clone().unwrap_or_default())
            }
            _ => Default::default(),
        }
    }
}

/// The node, by what has an owner on it.
#[derive(Debug)]
pub struct Survey {
    /// The networks of the configuration directories.
    pub lists: Vec<NetworkList>,
    /// The attachments of the cache.
    pub attached: Vec<Attached>,
    /// Attachments in the cache whose namespaces live.
    pub valid: BTreeSet<Owner>,
    /// Attachments whose namespaces live, or that are being made, and that are not in the cache.
    pub unrecorded: BTreeSet<Owner>,
    all: Vec<Leak>,
}

impl Survey {
    /// Looks at the whole node.
    pub fn of(node: &Node) -> Result<Self, Failure> {
        let lists: Vec<NetworkList> = node.networks()?.lists().map(|(_, list)| list.clone()).collect();
        let mut attached = attached(node)?;
        let traces = {
            let mut cached: Vec<&NetworkList> = attached.iter().filter_map(|one| one.entry.list().ok()).collect();
            // Attachments of one network have one list.
            cached.dedup_by(|one, other| std::ptr::eq(*one, *other));
            traces::all(&lists.iter().chain(cached).collect::<Vec<_>>())?
        };
        let known = Known::of(&lists, &attached, &traces);
        let life = Life::of(&known, &traces)?;
        for one in &mut attached {
            if !one.state.is_running() && life.has(&one.owner().key()) {
                one.state = State::Running;
            }
        }
        let is_running = |one: &&Attached| one.state.is_running();
        let valid: BTreeSet<Owner> = attached.iter().filter(is_running).map(Attached::owner).collect();
        let mut survey = Self { lists, attached, valid, unrecorded: BTreeSet::new(), all: Vec::new() };
        survey.judge(traces, &known, &life);
        Ok(survey)
    }

    fn judge(&mut self, traces: Vec<Trace>, known: &Known, life: &Life) {
        let gone = |one: &&Attached| !one.state.is_running();
        let reasons: HashMap<String, String> =
            self.attached.iter().filter(gone).map(|one| (one.owner().key(), reason(one))).collect();
        let files = self
            .attached
            .iter()
            .filter(gone)
            .map(|one| Trace::of_file("cache", &one.entry.path, Who::Owner(one.owner())));
        let traces: Vec<Trace> = files.collect::<Vec<_>>().into_iter().chain(traces).collect();
        for trace in traces {
            if self.is_valid(&trace.who) {
                continue;
            }
            let owner = known.owner(&trace.who);
            let key = owner.as_ref().map(Owner::key).or_else(|| known.key(&trace.who));
            let is_unrecorded = key.as_ref().is_some_and(|key| life.has(key) || life.is_made(key, &reasons));
            if is_unrecorded {
                self.unrecorded.extend(owner.clone());
            }
            let why = key.and_then(|key| reasons.get(&key).cloned());
            let reason = why.unwrap_or_else(|| UNRECORDED.to_owned());
            self.all.push(Leak { trace, owner, reason, is_unrecorded });
        }
        self.all.sort_by_key(|leak| (leak.names(), leak.trace.kind));
    }

    /// True if the owner, or one of those that it may be, is valid.
    fn is_valid(&self, who: &Who) -> bool {
        let mut valid = self.valid.iter();
        match who {
            Who::Owner(owner) => self.valid.contains(owner),
            Who::Key { key, .. } => valid.any(|owner| owner.key() == *key),
            Who::OfNetwork { network, container } => {
                valid.any(|owner| owner.network.as_str() == network && owner.container_id.as_str() == container)
            }
            Who::Container(container) => valid.any(|owner| owner.container_id.as_str() == container),
            Who::Unknown(_) => true,
        }
    }

    /// The leaks within this scope.
    pub fn leaks(&self, scope: &Scope) -> Vec<&Leak> {
        self.meant(scope).filter(|leak| scope.unrecorded || !leak.is_unrecorded).collect()
    }

    /// Says on stderr what isn't in the table: that it is empty, and what isn't shown because its namespace lives.
    pub fn say(&self, scope: &Scope) {
        let hidden: BTreeSet<_> = self.meant(scope).filter(|leak| leak.is_unrecorded).map(Leak::names).collect();
        let hidden = if scope.unrecorded { 0 } else { hidden.len() };
        if self.leaks(scope).is_empty() {
            let valid = self.valid.len();
            eprintln!("no leaks ({valid} attachments are valid)");
        }
        if hidden > 0 {
            eprintln!("{hidden} more live or are being made, but are not in the cache: --unrecorded shows them");
        }
    }

    fn meant(&self, scope: &Scope) -> impl Iterator<Item = &Leak> {
        let network = scope.network.clone();
        self.all.iter().filter(move |leak| network.as_ref().is_none_or(|network| leak.names().0 == *network))
    }
}

fn reason(one: &Attached) -> String {
    match &one.state {
        State::Gone(why) => why.clone(),
        State::Running => String::new(),
    }
}

/// The owners that are known in full, from anywhere.
struct Known {
    by_key: HashMap<String, Owner>,
    networks: Vec<NetworkName>,
}

impl Known {
    fn of(lists: &[NetworkList], attached: &[Attached], traces: &[Trace]) -> Self {
        let named = traces
            .iter()
            .filter_map(|trace| if let Who::Owner(owner) = &trace.who { Some(owner.clone()) } else { None });
        let by_key: HashMap<String, Owner> =
            attached.iter().map(Attached::owner).chain(named).map(|owner| (owner.key(), owner)).collect();
        let networks =
            lists.iter().map(|list| list.name.clone()).chain(by_key.values().map(|owner| owner.network.clone()));
        let networks: BTreeSet<NetworkName> = networks.collect();
        Self { by_key, networks: networks.into_iter().collect() }
    }

    /// The owner in full, if something tells it.
    fn owner(&self, who: &Who) -> Option<Owner> {
        match who {
            Who::Owner(owner) => Some(owner.clone()),
            Who::Key { key, container, ifname } => self.by_key.get(key).cloned().or_else(|| {
                let network = self.networks.iter().find(|network| key.starts_with(&Owner::network_key(network)))?;
                let (container_id, ifname) = (container.as_ref()?.parse().ok()?, ifname.as_ref()?.parse().ok()?);
                Some(Owner { network: network.clone(), container_id, ifname }).filter(|owner| owner.key() == *key)
            }),
            Who::OfNetwork { network, container } => {
                let is = |owner: &&Owner| owner.network.as_str() == network && owner.container_id.as_str() == container;
                self.by_key.values().filter(is).min().cloned()
            }
            Who::Container(container) => {
                self.by_key.values().filter(|owner| owner.container_id.as_str() == container).min().cloned()
            }
            Who::Unknown(_) => None,
        }
    }

    fn key(&self, who: &Who) -> Option<String> {
        if let Who::Key { key, .. } = who { Some(key.clone()) } else { self.owner(who).map(|owner| owner.key()) }
    }
}

/// Which attachments have a namespace that lives, by what leads into it: for those whose namespace has no path, or that the cache
/// doesn't have.
#[derive(Default)]
struct Life {
    keys: HashSet<String>,
    /// Reserved a moment ago, without a link yet.
    young: HashSet<String>,
}

impl Life {
    fn of(known: &Known, traces: &[Trace]) -> Result<Self, Failure> {
        let mut life = Self::default();
        let mut reserved: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for trace in traces {
            let Some(key) = known.key(&trace.who) else { continue };
            if trace.lives {
                life.keys.insert(key.clone());
            }
            if trace.age.is_some_and(|age| age < IN_THE_MAKING) {
                life.young.insert(key.clone());
            }
            if let Some(address) = trace.address {
                reserved.entry(address).or_default().push(key);
            }
        }
        // A container whose link has no end on the node is found by its address.
        if reserved.values().flatten().any(|key| !life.keys.contains(key)) {
            let there = addresses_in_all_namespaces(&Netlink::open()?)?;
            for (_, keys) in reserved.into_iter().filter(|(address, _)| there.contains(address)) {
                life.keys.extend(keys);
            }
        }
        Ok(life)
    }

    fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// True if it may be an attachment in the making: the cache gets its file when all plugins have succeeded.
    fn is_made(&self, key: &str, gone: &HashMap<String, String>) -> bool {
        self.young.contains(key) && !gone.contains_key(key)
    }
}
