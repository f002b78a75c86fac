//! Who has a port that is about to be published by other means than these tables.

use super::comment::{holder, same_container, same_owner};
use super::element;
use super::error::NftError;
use super::expr::Ip;
use super::plan::Held;
use super::portframe::{FORWARDS, table};
use super::portkeys::{forward_key, forward_name};
use super::{Nftables, chains};
use crate::{Evicted, PortForwards};

impl Nftables {
    /// Fails as [`Nftables::add_ports`] does if another container has one of the ports, evicts whoever is gone, and adds
    /// nothing. A question for each port, but one for all where nothing is published.
    ///
    /// # Errors
    /// [`NftError::HeldBy`]; nothing has changed then.
    pub fn free_ports(&self, intents: &[PortForwards]) -> Result<Vec<Evicted>, NftError> {
        let mut held = Vec::new();
        for intent in intents {
            if chains::uses(&self.socket, table(Ip::of(intent.container.ip())), FORWARDS)?.is_some() {
                held.extend(self.held_by_others(intent)?);
            }
        }
        for held in &held {
            if !self.is_gone(held)? {
                return Err(NftError::HeldBy { thing: held.thing.clone(), holder: holder(&held.comment) });
            }
        }
        let evict =
            |held: &Held| Ok(Evicted { holder: holder(&held.comment), ports: self.evict_ports(&held.comment)? });
        held.iter().map(evict).collect()
    }

    fn held_by_others(&self, intent: &PortForwards) -> Result<Vec<Held>, NftError> {
        let own = intent.owner.comment();
        let keys: Vec<_> = intent.ports.iter().map(forward_key).collect();
        let found = element::look_up(&self.socket, keys.iter().map(|(set, key)| (*set, key.as_slice())))?;
        let of_others = |comment: &str| !same_owner(comment, &own) && !same_container(comment, &own);
        let mut held: Vec<Held> = Vec::new();
        for ((port, (set, _)), found) in intent.ports.iter().zip(&keys).zip(found) {
            let Some(comment) = found.map(|found| found.comment).filter(|comment| of_others(comment)) else { continue };
            if held.iter().all(|known| !same_owner(&known.comment, &comment)) {
                held.push(Held { table: set.table, thing: forward_name(port), comment });
            }
        }
        Ok(held)
    }
}
