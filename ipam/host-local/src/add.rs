//! ADD: one address of every range set, or nothing.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use cni_plugin::{Attachment, CniError, CniResult, IpConfig, Owner, Request, Undo};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::pool::Address;
use crate::pool::{Range, RangeSet};
use crate::settings::{self, Settings};
use crate::store::{Place, Store, StoreError};

/// Why a set gives no address.
#[derive(Debug, thiserror::Error)]
enum SetError {
    #[error("requested ip {0} is subnet's gateway")]
    Gateway(IpAddr),
    #[error("requested IP address {ip} is not available in range set {set}: {source}")]
    Requested { ip: IpAddr, set: String, source: StoreError },
    #[error(
        "no IP addresses available in range set: {set}: all {size} are reserved: detach unused containers, or \
         configure a wider range"
    )]
    Full { set: String, size: u128 },
    #[error(
        "no IP addresses available in range set: {set}: it has no address but the gateway's: configure a wider range, or \
         another gateway"
    )]
    Empty { set: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reserves the addresses. Not idempotent: an owner that holds an address already is refused, and keeps it.
pub(crate) fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what is wrong before anything is touched.
    let settings = Settings::resolve(&request.config, Some(&attachment.args), request.version)?;
    let place = settings::place(request)?;
    let owner = &attachment.owner;
    let wanted = assign(&settings)?;

    // 2. Lock: until the end no other call reserves or releases addresses of the network.
    let mut store = place.create()?;
    refuse_repetition(&mut store, &settings, owner)?;

    // 3. One address of each set; those are released if a later step fails.
    let taken = release_on_failure(undo, &place, owner);
    let mut ips = Vec::with_capacity(settings.sets.len());
    for (index, (set, wanted)) in settings.sets.iter().zip(wanted).enumerate() {
        let (ip, range) = reserve(&mut store, set, index, wanted, owner)
            .map_err(|error| CniError::plugin(format!("failed to allocate for range {index}: {error}")))?;
        taken.borrow_mut().push(ip);
        store.set_last_reserved(index, ip);
        ips.push(ip_config(ip, range));
    }
    Ok(CniResult { ips, routes: settings.routes, dns: settings.dns, ..CniResult::default() })
}

/// The requested address of each set: the first one in its ranges. Fails for a requested address without a set.
fn assign(settings: &Settings) -> Result<Vec<Option<IpAddr>>, CniError> {
    let mut assigned: Vec<Option<IpAddr>> = vec![None; settings.sets.len()];
    let mut left: Vec<IpAddr> = Vec::new();
    let mut outside = false;
    for ip in &settings.requested {
        let set = settings.set_of((*ip).into());
        outside |= set.is_none();
        match set.and_then(|set| assigned.get_mut(set)).filter(|assigned| assigned.is_none()) {
            Some(place) => *place = Some(*ip),
            None => left.push(*ip),
        }
    }
    if left.is_empty() {
        return Ok(assigned);
    }
    let why = if outside { "out of range" } else { "each range set gives one address only" };
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    let sets: Vec<String> = settings.sets.iter().map(RangeSet::to_string).collect();
    Err(CniError::plugin(format!(
        "failed to allocate all requested IPs: {}: {why}; the range sets are {}",
        left.join(" "),
        sets.join(" ")
    )))
}

fn refuse_repetition(store: &mut Store, settings: &Settings, owner: &Owner) -> Result<(), CniError> {
    let held = store.held_by(owner, &[])?;
    // What is left over from other ranges of the same network isn't this attachment's address.
    match held.iter().find(|ip| settings.set_of(**ip).is_some()) {
        None => Ok(()),
        Some(ip) => Err(CniError::plugin(format!(
            "{ip} has been allocated to {}, duplicate allocation is not allowed: it stays reserved for {}; DEL releases it",
            owner.container_id, owner.ifname
        ))),
    }
}

fn reserve<'s>(
    store: &mut Store,
    set: &'s RangeSet,
    index: usize,
    wanted: Option<IpAddr>,
    owner: &Owner,
) -> Result<(Address, &'s Range), SetError> {
    if let Some((ip, range)) = wanted.and_then(|ip| Some((ip, set.range_of(ip.into())?))) {
        if Address::from(ip) == range.gateway {
            return Err(SetError::Gateway(ip));
        }
        return match store.reserve(ip.into(), owner) {
            Ok(()) => Ok((ip.into(), range)),
            Err(source @ (StoreError::Held { .. } | StoreError::Blocked { .. })) => {
                Err(SetError::Requested { ip, set: set.to_string(), source })
            }
            Err(error) => Err(error.into()),
        };
    }
    let full = || match (set.to_string(), set.size()) {
        (set, 0) => SetError::Empty { set },
        (set, size) => SetError::Full { set, size },
    };
    let (ip, range) = store.next(set, index)?.ok_or_else(full)?;
    match store.reserve(ip, owner) {
        Ok(()) => Ok((ip, range)),
        Err(StoreError::Held { .. } | StoreError::Blocked { .. }) => {
            // The file decides: the index was wrong.
            store.rebuild()?;
            let (ip, range) = store.next(set, index)?.ok_or_else(full)?;
            store.reserve(ip, owner)?;
            Ok((ip, range))
        }
        Err(error) => Err(error.into()),
    }
}

/// The addresses in the returned list are released if the rest fails: all at once, because there may be thousands of sets.
fn release_on_failure(undo: &mut Undo, place: &Place, owner: &Owner) -> Rc<RefCell<Vec<Address>>> {
    let taken = Rc::new(RefCell::new(Vec::new()));
    let (place, owner, list) = (place.clone(), owner.clone(), Rc::clone(&taken));
    undo.push("the reservations", move || place.release(&owner, &list.borrow()));
    taken
}

fn ip_config(ip: Address, range: &Range) -> IpConfig {
    let ip = IpAddr::from(ip);
    // The prefix length is that of a subnet of the same family, so it is in range.
    let address = IpNetwork::new(ip, range.subnet.prefix()).unwrap_or_else(|_| IpNetwork::from(ip));
    IpConfig { interface: None, address, gateway: Some(range.gateway.into()) }
}
