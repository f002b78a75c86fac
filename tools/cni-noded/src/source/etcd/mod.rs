//! etcd: each node leases a part of every subnet, publishes it with its addresses, and watches what the others publish.
//!
//! Below the prefix, `nodes/NAME` has a node's addresses and parts, and `parts/SUBNET` the name of the node that has it; all of a node's
//! keys have its lease, and are made in one transaction that demands that none of them exists. So no two nodes have a part, and what a node
//! had is free when its lease has run out. What a node has is also in a file: after a restart it is the same.
//!
//! etcd is asked by its JSON gateway (`/v3/...`), which each server has.

mod lease;
mod names;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use self::lease::{acquire, keep};
use self::names::Others;
use self::wire::{Change, Etcd, EtcdError, Watch};
use super::Reporter;
use crate::node::Node;
use crate::settings;

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);
/// A watch that is silent for so long is made anew: its connection may have died without a word.
const SILENCE: Duration = Duration::from_secs(60);

/// Follows etcd for ever.
pub fn follow(settings: &settings::Etcd, reporter: &Reporter) {
    let mut etcd = None;
    loop {
        if let Err(error) = session(settings, &mut etcd, reporter) {
            reporter.away(&error.to_string());
        }
        thread::sleep(RETRY);
    }
}

/// What a thread of a session works with.
struct Session {
    etcd: Etcd,
    /// The lease of this node's keys.
    lease: i64,
    is_over: Arc<AtomicBool>,
}

impl Session {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends it for all of its threads.
    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// From the lease of a part to its loss, or to an error. Its threads end with it.
fn session(settings: &settings::Etcd, etcd: &mut Option<Etcd>, reporter: &Reporter) -> Result<(), EtcdError> {
    let etcd = match etcd {
        Some(etcd) => etcd,
        None => etcd.insert(Etcd::open(settings)?),
    };
    etcd.refresh()?;
    let lease = acquire(settings, etcd)?;
    let is_over = Arc::new(AtomicBool::new(false));
    let of_thread =
        || Ok::<_, EtcdError>(Session { etcd: Etcd::open(settings)?, lease, is_over: Arc::clone(&is_over) });
    let others = Others::default();
    let (alive, names) =
        (of_thread()?, settings.names.as_ref().map(|network| Ok::<_, EtcdError>((network, of_thread()?))));
    let names = names.transpose()?;
    let (ttl, to) = (settings.ttl, reporter.clone());
    thread::spawn(move || keep(alive, ttl, &to));
    if let Some((network, session)) = names {
        let (settings, network, others) = (settings.clone(), network.clone(), others.clone());
        thread::spawn(move || names::keep(session, &settings, &network, &others));
    }
    let outcome = watch(settings, etcd, &others, reporter, &is_over);
    is_over.store(true, Ordering::Relaxed);
    outcome
}

/// What is known of the other nodes.
struct Known<'s> {
    /// What keys of nodes, and of their names, begin with.
    prefixes: [String; 2],
    nodes: BTreeMap<String, Node>,
    names: &'s Others,
    own: &'s str,
}

impl Known<'_> {
    /// Takes over a change; true if it is one of nodes.
    fn take(&mut self, key: &str, value: Option<&[u8]>) -> bool {
        let [nodes, names] = &self.prefixes;
        if let Some(name) = key.strip_prefix(names).filter(|name| *name != self.own) {
            self.names.set(name, value);
        }
        let Some(name) = key.strip_prefix(nodes) else { return false };
        match value.and_then(|value| lease::node(name, value)) {
            Some(node) => self.nodes.insert(name.to_owned(), node.clone()) != Some(node),
            None => self.nodes.remove(name).is_some(),
        }
    }

    fn all(&self) -> Vec<Node> {
        self.nodes.values().cloned().collect()
    }
}

/// Reports the nodes, and then each change of them, until this node's own entry is gone or the lease is lost.
fn watch(
    settings: &settings::Etcd,
    etcd: &mut Etcd,
    others: &Others,
    reporter: &Reporter,
    is_over: &AtomicBool,
) -> Result<(), EtcdError> {
    let prefix = settings.key("");
    let (entries, mut revision) = etcd.range(&prefix)?;
    let prefixes = [settings.key("nodes/"), settings.key("names/")];
    let mut known = Known { prefixes, nodes: BTreeMap::new(), names: others, own: &settings.node };
    for entry in &entries {
        known.take(&entry.key, Some(&entry.value));
    }
    reporter.nodes(known.all());
    while !is_over.load(Ordering::Relaxed) {
        let mut stream = match etcd.watch(&prefix, revision + 1, SILENCE) {
            Ok(stream) => stream,
            Err(error) => {
                reporter.away(&error.to_string());
                thread::sleep(RETRY);
                etcd.refresh()?;
                continue;
            }
        };
        let began = Instant::now();
        // It ends with an error when it was silent for long, and when the server has gone: the next one shows which.
        while let Some(Ok(watched)) = stream.next() {
            let Watch::Changes { revision: to, changes } = watched else {
                // What has changed since can't be learnt any more: everything is read anew.
                return Ok(());
            };
            reporter.alive();
            revision = revision.max(to);
            let mut is_new = false;
            for Change { key, value } in changes {
                is_new |= known.take(&key, value.as_deref());
            }
            if !known.nodes.contains_key(&settings.node) {
                return Ok(());
            }
            if is_new {
                reporter.nodes(known.all());
            }
        }
        // A server that ends each watch at once is not asked all the time.
        thread::sleep(RETRY.saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// What a node publishes.
fn published(token: &str, addresses: &[std::net::IpAddr], parts: &[ipnetwork::IpNetwork]) -> String {
    json!({"token": token, "addresses": addresses, "subnets": parts}).to_string()
}
