//! A node's part of the subnets: claimed in a transaction, kept alive, and found again after a restart.

use std::collections::{HashSet, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use cni_net::unusable_host;
use cni_plugin::state::{Entry as File, StateDir};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::wire::{Etcd, EtcdError};
use super::{Session, published};
use crate::log;
use crate::node::Node;
use crate::settings::{self, Pool};
use crate::source::Reporter;

/// How often a part is looked for before it is said that others are quicker.
const ATTEMPTS: usize = 16;
/// The longest time between two signs of life.
const ALIVE: Duration = Duration::from_secs(30);
/// How soon a thread sees that it is to end.
const TICK: Duration = Duration::from_millis(100);
/// The longest state file.
const MAX: u64 = 1 << 16;

/// What the node remembers of itself.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// Tells its entry from that of another host of the same name.
    token: String,
    /// What it had.
    subnets: Vec<IpNetwork>,
}

/// An entry `nodes/NAME`.
#[derive(Debug, Deserialize)]
struct Published {
    token: String,
    addresses: Vec<IpAddr>,
    subnets: Vec<IpNetwork>,
}

/// The node of an entry; none if it isn't understood: a newer version's, or another program's.
pub fn node(name: &str, value: &[u8]) -> Option<Node> {
    let Published { addresses, subnets, .. } = serde_json::from_slice(value).ok()?;
    let usable = addresses.iter().all(|address| unusable_host(*address).is_none()) && !addresses.is_empty();
    usable.then(|| Node { name: name.to_owned(), addresses, subnets })
}

/// Takes a part of each subnet, or the one again that the node has or had. Returns the lease of this node's keys.
///
/// # Errors
/// [`EtcdError`], also if no part is free, or another host has the node's name.
pub fn acquire(settings: &settings::Etcd, etcd: &mut Etcd) -> Result<i64, EtcdError> {
    let mut memory = recall(settings)?;
    let addresses = addresses(settings, etcd)?;
    for _ in 0..ATTEMPTS {
        match present(settings, etcd, &mut memory, &addresses)? {
            Present::Ours(lease) => return Ok(lease),
            // It goes with its lease at any moment.
            Present::Ending => thread::sleep(TICK),
            Present::Nothing => {
                let lease = etcd.grant(settings.ttl)?;
                let taken = take(settings, etcd, lease, &addresses, &mut memory);
                if !matches!(taken, Ok(true)) {
                    // It would only run out later.
                    let _ = etcd.revoke(lease);
                }
                if taken? {
                    return Ok(lease);
                }
            }
        }
    }
    Err(EtcdError::Overtaken)
}

/// What is there of this node.
enum Present {
    /// Its own entry, with this lease.
    Ours(i64),
    /// Its own entry, whose lease has run out.
    Ending,
    Nothing,
}

fn present(
    settings: &settings::Etcd,
    etcd: &mut Etcd,
    memory: &mut Memory,
    addresses: &[IpAddr],
) -> Result<Present, EtcdError> {
    let key = settings.key(&format!("nodes/{}", settings.node));
    let Some(entry) = etcd.get(&key)? else { return Ok(Present::Nothing) };
    let found = serde_json::from_slice::<Published>(&entry.value).ok();
    let Some(found) = found.as_ref().filter(|found| found.token == memory.token) else {
        let addresses = found.map(|other| other.addresses).unwrap_or_default();
        return Err(EtcdError::NameTaken { name: settings.node.clone(), addresses });
    };
    if !etcd.keep_alive(entry.lease)? {
        return Ok(Present::Ending);
    }
    if found.addresses != addresses {
        etcd.put_all(entry.lease, &[], &[(key, published(&memory.token, addresses, &found.subnets))])?;
    }
    remember(settings, memory, &found.subnets)?;
    Ok(Present::Ours(entry.lease))
}

/// One attempt; false if another node was quicker.
fn take(
    settings: &settings::Etcd,
    etcd: &mut Etcd,
    lease: i64,
    addresses: &[IpAddr],
    memory: &mut Memory,
) -> Result<bool, EtcdError> {
    let prefix = settings.key("parts/");
    let (taken, _) = etcd.range(&prefix)?;
    let taken: HashSet<String> = taken.into_iter().map(|entry| entry.key).collect();
    let key_of = |part: &IpNetwork| format!("{prefix}{}-{}", part.network(), part.prefix());
    let is_free = |part: &IpNetwork| !taken.contains(&key_of(part));
    let mut parts = Vec::new();
    for pool in &settings.pools {
        let had = memory.subnets.iter().copied().find(|part| pool.has(*part));
        let found = had.filter(is_free).or_else(|| pool.parts_from(&settings.node).find(is_free));
        let Some(part) = found else {
            return Err(EtcdError::Full { subnet: pool.subnet, part: pool.part });
        };
        if let Some(had) = had.filter(|had| *had != part) {
            log::line(&format!(
                "{had}, which this node had, was given to another while its lease had run out; it has {part} now: attach containers with \
                 addresses of {had} anew"
            ));
        }
        parts.push(part);
    }
    let node = settings.key(&format!("nodes/{}", settings.node));
    // Before they are taken: a node that is killed in between finds them again.
    remember(settings, memory, &parts)?;
    let mut puts: Vec<(String, String)> = parts.iter().map(|part| (key_of(part), settings.node.clone())).collect();
    puts.push((node, published(&memory.token, addresses, &parts)));
    let absent: Vec<String> = puts.iter().map(|(key, _)| key.clone()).collect();
    etcd.put_all(lease, &absent, &puts)
}

/// Keeps the lease alive until it is lost, which ends the session, or the session is over.
pub fn keep(mut session: Session, ttl: u32, reporter: &Reporter) {
    let interval = (Duration::from_secs(ttl.into()) / 3).min(ALIVE);
    while !session.is_over() {
        let began = Instant::now();
        let Session { etcd, lease, .. } = &mut session;
        let kept = etcd.refresh().and_then(|()| etcd.keep_alive(*lease));
        match kept {
            Ok(true) => reporter.alive(),
            Ok(false) => {
                log::line("the lease of this node's part had run out");
                return session.end();
            }
            Err(error) => reporter.away(&error.to_string()),
        }
        // Sooner if it has failed: the lease goes on running.
        let pause = if reporter.is_away() { interval.min(Duration::from_secs(1)) } else { interval };
        while began.elapsed() < pause && !session.is_over() {
            thread::sleep(TICK);
        }
    }
}

/// The addresses that are published: as configured, else the one from which etcd is reached.
fn addresses(settings: &settings::Etcd, etcd: &Etcd) -> Result<Vec<IpAddr>, EtcdError> {
    if !settings.addresses.is_empty() {
        return Ok(settings.addresses.clone());
    }
    let authority = etcd.endpoint().split("://").nth(1).unwrap_or_default();
    let any = if authority.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    // Connecting it sends nothing.
    let local = UdpSocket::bind(any).and_then(|socket| socket.connect(authority).and_then(|()| socket.local_addr()));
    match local {
        Ok(local) if unusable_host(local.ip()).is_none() => Ok(vec![local.ip()]),
        Ok(local) => Err(EtcdError::LocalOnly(local.ip())),
        Err(source) => Err(EtcdError::Unreachable { authority: authority.to_owned(), source }),
    }
}

fn file(settings: &settings::Etcd) -> (PathBuf, String) {
    (settings.state.clone(), format!("{}.json", settings.node.replace('/', "_")))
}

fn recall(settings: &settings::Etcd) -> Result<Memory, EtcdError> {
    let (directory, name) = file(settings);
    let read = || -> std::io::Result<Option<Memory>> {
        let Some(directory) = StateDir::open(&directory, true)? else { return Ok(None) };
        match directory.read(&name, MAX)? {
            File::File(content) => Ok(serde_json::from_slice(&content).ok()),
            _ => Ok(None),
        }
    };
    let memory = read().map_err(|source| EtcdError::State { path: directory.join(&name), source })?;
    match memory.filter(|memory| !memory.token.is_empty()) {
        Some(memory) => Ok(memory),
        None => {
            let path = PathBuf::from("/proc/sys/kernel/random/uuid");
            let token = std::fs::read_to_string(&path).map_err(|source| EtcdError::State { path, source })?;
            Ok(Memory { token: token.trim().to_owned(), subnets: Vec::new() })
        }
    }
}

fn remember(settings: &settings::Etcd, memory: &mut Memory, parts: &[IpNetwork]) -> Result<(), EtcdError> {
    memory.subnets = parts.to_vec();
    let (directory, name) = file(settings);
    let write = || -> std::io::Result<()> {
        StateDir::make(&directory, 0o755)?;
        let opened = StateDir::open(&directory, true)?.ok_or(std::io::ErrorKind::NotFound)?;
        let content = serde_json::to_vec(memory)?;
        if opened.read(&name, MAX)? == File::File(content.clone()) {
            return Ok(());
        }
        opened.replace(&name, &content)
    };
    write().map_err(|source| EtcdError::State { path: directory.join(&name), source })
}

impl Pool {
    /// True if it is a part of this subnet, of this size.
    fn has(&self, part: IpNetwork) -> bool {
        part.prefix() == self.part && self.subnet.contains(part.network()) && part.is_ipv4() == self.subnet.is_ipv4()
    }

    /// All parts, from one that follows from the name: nodes that start at once seldom want the same.
    fn parts_from(&self, name: &str) -> impl Iterator<Item = IpNetwork> + use<> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let bits = u32::from(self.part - self.subnet.prefix()).min(u32::BITS - 1);
        let (count, start) = (1u64 << bits, hasher.finish());
        let (subnet, prefix) = (self.subnet, self.part);
        (0..count).filter_map(move |step| part(subnet, prefix, start.wrapping_add(step) % count))
    }
}

/// The part with this number.
fn part(subnet: IpNetwork, prefix: u8, number: u64) -> Option<IpNetwork> {
    let address = match subnet.network() {
        IpAddr::V4(v4) => IpAddr::from(
            (u32::from(v4) | u32::try_from(number).ok()?.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
                .to_be_bytes(),
        ),
        IpAddr::V6(v6) => IpAddr::from(
            (u128::from(v6) | u128::from(number).checked_shl(128 - u32::from(prefix)).unwrap_or(0)).to_be_bytes(),
        ),
    };
    IpNetwork::new(address, prefix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_subnet_are_all_of_it_and_no_two_alike() {
        for (subnet, prefix, count) in [("10.42.0.0/16", 24, 256), ("10.42.0.0/24", 24, 1), ("fd00:42::/56", 64, 256)] {
            let pool = Pool { subnet: subnet.parse().unwrap(), part: prefix };
            let parts: HashSet<_> = pool.parts_from("a").collect();
            assert_eq!(parts.len(), count);
            assert!(parts.iter().all(|part| pool.has(*part) && part.ip() == part.network()), "{parts:?}");
        }
    }
}
