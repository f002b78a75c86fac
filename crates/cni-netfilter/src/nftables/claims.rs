//! Ports that several attachments of one container publish: runtimes pass them to each of its networks. The first one
//! serves; each later one has a claim, `host address, port, rank : container`, with its owner in the comment. Whoever
//! removes the holder makes the first claim the port's element, in the same transaction.
//!
//! The ranks of a port have no gaps, so that one lookup tells that nobody waits.

use std::collections::{HashMap, HashSet};

use super::comment::same_owner;
use super::element::{self, Element, Found, SetId, Value};
use super::error::{NftError, absent};
use super::expr::Ip;
use super::frame::{Chain, Family, TableId};
use super::portframe::{ADDRESS_CONDITIONS, ADDRESS_PORTS, CLAIMS, CONDITIONS, PORTS, WHEN};
use super::transport::Socket;
use super::{index, portkeys};

/// A port: its set and its key in that.
pub(super) type Place = (SetId, Vec<u8>);

/// The chain with the conditions of the owner who left this comment.
pub(super) fn when_of(comment: &str) -> String {
    format!("{WHEN}{}", comment.split(',').next().unwrap_or_default())
}

fn address_length(table: TableId) -> usize {
    if table.family == Family::Only(Ip::V6) { 16 } else { 4 }
}

fn claims(table: TableId) -> SetId {
    SetId { table, name: CLAIMS }
}

/// The key of a claim: the port's, on the address `0.0.0.0` or `::` if it is on all, and the rank in host byte order.
fn claim_key((set, key): &Place, rank: usize) -> Vec<u8> {
    let mut claim = if set.name == PORTS { vec![0; address_length(set.table)] } else { Vec::new() };
    claim.extend(key);
    claim.extend(u32::try_from(rank).unwrap_or(u32::MAX).to_ne_bytes());
    claim
}

/// The port that an element of these sets is for.
fn place(set: SetId, key: &[u8]) -> Option<Place> {
    match set.name {
        PORTS | ADDRESS_PORTS => Some((set, key.to_vec())),
        CLAIMS => {
            let (key, _rank) = key.split_at_checked(key.len().checked_sub(4)?)?;
            let (address, port) = key.split_at_checked(address_length(set.table))?;
            let everywhere = address.iter().all(|byte| *byte == 0);
            let (name, key) = if everywhere { (PORTS, port) } else { (ADDRESS_PORTS, key) };
            Some((SetId { name, ..set }, key.to_vec()))
        }
        _ => None,
    }
}

/// Who waits for each of these ports, by rank.
fn waiting(socket: &Socket, places: &[Place]) -> Result<Vec<Vec<Found>>, NftError> {
    let mut lists = vec![Vec::new(); places.len()];
    let mut open: Vec<usize> = (0..places.len()).collect();
    for rank in 0.. {
        if open.is_empty() {
            break;
        }
        let keys: Vec<_> = open.iter().map(|n| (claims(places[*n].0.table), claim_key(&places[*n], rank))).collect();
        let found = element::look_up(socket, keys.iter().map(|(set, key)| (*set, key.as_slice())))?;
        let more = open.into_iter().zip(found).filter_map(|(n, found)| {
            lists[n].push(found?);
            Some(n)
        });
        open = more.collect();
    }
    Ok(lists)
}

fn claim(place: &Place, rank: usize, value: Value, comment: &str) -> Element {
    let name = format!("claim on {}", name(place, &value));
    Element { set: claims(place.0.table), key: claim_key(place, rank), value, comment: comment.to_owned(), name }
}

/// The port in words.
fn name((set, key): &Place, value: &Value) -> String {
    let found = Found { key: key.clone(), value: value.clone(), comment: String::new() };
    portkeys::read(*set, &found).map_or_else(|| "a port".to_owned(), |port| portkeys::forward_name(&port))
}

/// A claim that should be there.
pub(super) struct Wanted {
    pub(super) element: Element,
    /// What is there in its place.
    pub(super) found: Option<Value>,
}

/// The claims of `ports`, which other attachments of their container hold.
pub(super) fn wanted(socket: &Socket, ports: &[&Element]) -> Result<Vec<Wanted>, NftError> {
    let places: Vec<Place> = ports.iter().map(|port| (port.set, port.key.clone())).collect();
    let lists = waiting(socket, &places)?;
    let one = |((port, place), list): ((&&Element, &Place), Vec<Found>)| {
        let mine = list.iter().position(|found| same_owner(&found.comment, &port.comment));
        let element = claim(place, mine.unwrap_or(list.len()), port.value.clone(), &port.comment);
        Wanted { element, found: mine.map(|rank| list[rank].value.clone()) }
    };
    Ok(ports.iter().zip(&places).zip(lists).map(one).collect())
}

/// What a removal consists of.
#[derive(Default)]
pub(super) struct Succession {
    /// What those who leave have, to be deleted.
    pub(super) gone: Vec<(SetId, Found)>,
    /// Elements of others, to be deleted before they are created anew.
    pub(super) replaced: Vec<(SetId, Vec<u8>)>,
    pub(super) create: Vec<Element>,
}

/// Who has what when `released`, elements of those whose comments satisfy `leaves`, is deleted, and they withdraw their
/// claims on the ports among `keys`.
pub(super) fn succession(
    socket: &Socket,
    keys: &[(SetId, Vec<u8>)],
    released: Vec<(SetId, Found)>,
    leaves: &impl Fn(&str) -> bool,
) -> Result<Succession, NftError> {
    let mut seen = HashSet::new();
    let places = keys.iter().filter_map(|(set, key)| place(*set, key)).filter(|place| seen.insert(place.clone()));
    let places: Vec<Place> = places.collect();
    let mut succession = Succession::default();
    let mut heirs = Vec::new();
    for (place, list) in places.iter().zip(waiting(socket, &places)?) {
        let (leaving, staying): (Vec<_>, Vec<_>) = list.into_iter().partition(|found| leaves(&found.comment));
        let is_free = released.iter().any(|(set, found)| (*set, &found.key) == (place.0, &place.1));
        if staying.is_empty() || (leaving.is_empty() && !is_free) {
            succession.gone.extend(leaving.into_iter().map(|found| (claims(place.0.table), found)));
            continue;
        }
        succession.replaced.extend(staying.iter().map(|found| (claims(place.0.table), found.key.clone())));
        succession.gone.extend(leaving.into_iter().map(|found| (claims(place.0.table), found)));
        let mut staying = staying.into_iter();
        heirs.extend(is_free.then(|| staying.next()).flatten().map(|heir| (place, heir)));
        let moved = staying.enumerate().map(|(rank, found)| claim(place, rank, found.value, &found.comment));
        succession.create.extend(moved);
    }
    succession.take_over(socket, &heirs, &released, leaves)?;
    // Claims are among what is gone already, unless they are behind a gap.
    let known: HashSet<(SetId, Vec<u8>)> =
        succession.gone.iter().map(|(set, found)| (*set, found.key.clone())).collect();
    succession.gone.extend(released.into_iter().filter(|(set, found)| !known.contains(&(*set, found.key.clone()))));
    Ok(succession)
}

impl Succession {
    /// All keys to be deleted.
    pub(super) fn deleted(&self) -> impl Iterator<Item = (SetId, &[u8])> {
        let gone = self.gone.iter().map(|(set, found)| (*set, found.key.as_slice()));
        gone.chain(self.replaced.iter().map(|(set, key)| (*set, key.as_slice())))
    }

    /// The heirs' ports, with their own conditions in place of the former holder's.
    fn take_over(
        &mut self,
        socket: &Socket,
        heirs: &[(&Place, Found)],
        released: &[(SetId, Found)],
        leaves: &impl Fn(&str) -> bool,
    ) -> Result<(), NftError> {
        let conditional = conditional(socket, heirs)?;
        let places: Vec<Place> = heirs.iter().map(|(place, _)| condition_place(place)).collect();
        let former = element::look_up(socket, places.iter().map(|(set, key)| (*set, key.as_slice())))?;
        let mut further: HashMap<(TableId, &str), u32> = HashMap::new();
        for (((place, heir), (set, key)), former) in heirs.iter().zip(places).zip(former) {
            let is_known = released.iter().any(|(other, found)| (*other, &found.key) == (set, &key));
            self.gone.extend(former.filter(|former| !is_known && leaves(&former.comment)).map(|former| (set, former)));
            let (comment, when) = (heir.comment.clone(), when_of(&heir.comment));
            let (value, name) = (heir.value.clone(), name(place, &heir.value));
            if conditional.contains(&(set.table, when.clone())) {
                let (comment, name) = (comment.clone(), format!("conditions of {name}"));
                self.create.push(Element { set, key, value: Value::Goto(when), comment, name });
                *further.entry((set.table, &heir.comment)).or_default() += 1;
            }
            self.create.push(Element { set: place.0, key: place.1.clone(), value, comment, name });
        }
        for ((table, comment), number) in further {
            let Some(entry) = index::grown(socket, table, comment, number)? else { continue };
            self.replaced.push((entry.set, entry.key.clone()));
            self.create.push(entry);
        }
        Ok(())
    }
}

fn condition_place((set, key): &Place) -> Place {
    let name = if set.name == PORTS { CONDITIONS } else { ADDRESS_CONDITIONS };
    (SetId { name, ..*set }, key.clone())
}

/// The chains of those heirs that have conditions.
fn conditional(socket: &Socket, heirs: &[(&Place, Found)]) -> Result<HashSet<(TableId, String)>, NftError> {
    let chains: HashSet<(TableId, String)> =
        heirs.iter().map(|(place, heir)| (place.0.table, when_of(&heir.comment))).collect();
    let mut there = HashSet::new();
    for (table, chain) in chains {
        for answer in socket.ask_raw("look for a chain", vec![Chain::question(table, &chain)])? {
            if !absent(answer)? {
                there.insert((table, chain.clone()));
            }
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::portframe::table;

    #[test]
    fn a_claim_tells_its_port() {
        for ip in [Ip::V4, Ip::V6] {
            let length = address_length(table(ip));
            let port = vec![6, 0, 0, 0, 0, 80, 0, 0];
            for (name, key) in [(PORTS, port.clone()), (ADDRESS_PORTS, [vec![9; length], port].concat())] {
                let here = (SetId { table: table(ip), name }, key);
                for rank in [0, 3] {
                    assert_eq!(place(claims(table(ip)), &claim_key(&here, rank)), Some(here.clone()));
                }
                assert_eq!(place(here.0, &here.1), Some(here.clone()));
            }
            assert_eq!(place(claims(table(ip)), &[0; 3]), None);
        }
    }
}
