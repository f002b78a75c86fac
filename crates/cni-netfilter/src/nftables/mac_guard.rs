//! The spoof check: `bridge cni_macspoof`. A frame that arrives by a guarded port must have the port's own source address;
//! two lookups decide, so a frame costs the same with any number of containers.

use cni_plugin::{Difference, IfName, MacAddr, NetworkName, Owner};
use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey};

use super::owned::comment::is_stale;
use super::owned::{Failure, OwnedTable, Plan, apply, check, index, remove};
use super::ruleset::expression as expr;
use super::ruleset::{Chain, DataType, Element, Key, Maps, Set, SetId, Skeleton, Value, data};
use super::wire::{NftError, Table, TableFamily};
use super::{Nftables, go_rules};
use crate::intent::{MacGuard, MacGuardHint};

const TABLE: Table<'static> = Table { family: TableFamily::Bridge, name: "cni_macspoof" };
const GUARDED: &str = "guarded";
const ALLOWED: &str = "allowed";
pub(super) static OWNED: OwnedTable = OwnedTable { table: TABLE, sets: &[GUARDED, ALLOWED], waitlist: None };
/// `NF_BR_PRI_NAT_DST_BRIDGED`: where the Go plugin checks too, before the bridge learns or forwards anything.
const BEFORE_BRIDGING: i32 = -300;

/// The table with what all containers share.
fn skeleton() -> Skeleton {
    let rule = vec![
        expr::meta(MetaKey::Iifname, 0),
        expr::is_in(GUARDED),
        expr::meta(MetaKey::Iifname, 0),
        expr::ethernet_source(4),
        expr::is_not_in(ALLOWED),
        expr::drop(),
    ];
    let set = |name, key, comment| Set { name, key, maps: Maps::Nothing, comment };
    Skeleton {
        table: TABLE,
        comment: "CNI plugins: source addresses of containers",
        sets: vec![
            set(GUARDED, &[DataType::Interface], "ports that are checked"),
            set(ALLOWED, &[DataType::Interface, DataType::Ethernet], "port . source address"),
            index::set(),
        ],
        chains: vec![Chain::base("prerouting", "filter", InetHookNumber::PreRouting, BEFORE_BRIDGING, vec![rule])],
        by_name: |_| None,
    }
}

fn port_key(port: &IfName) -> Key {
    Key::new(SetId { table: TABLE, name: GUARDED }, data::interface(port.as_str()))
}

/// The name, then the address padded to whole registers.
fn pair_key(port: &IfName, mac: MacAddr) -> Key {
    let bytes = [data::interface(port.as_str()), mac.0.to_vec(), vec![0; 2]].concat();
    Key::new(SetId { table: TABLE, name: ALLOWED }, bytes)
}

fn plan(guard: &MacGuard) -> Plan {
    let (port, mac) = (&guard.port, guard.mac);
    let element = |key, name| Element { key, value: Value::Nothing, comment: guard.owner.comment(), name };
    let elements = vec![
        element(port_key(port), format!("spoof check of {port}")),
        element(pair_key(port, mac), format!("spoof check of {port} for {mac}")),
    ];
    let mut plan = Plan::new(skeleton(), elements);
    plan.register(&OWNED, &guard.owner, None);
    plan
}

/// The keys that an owner is thought to have.
fn hinted(hint: &MacGuardHint) -> Vec<Key> {
    let Some(port) = &hint.port else { return Vec::new() };
    [Some(port_key(port)), hint.mac.map(|mac| pair_key(port, mac))].into_iter().flatten().collect()
}

impl Nftables {
    /// Drops what arrives by the port from another address. One transaction; repeating it changes nothing.
    ///
    /// The port must exist and be the owner's: what an earlier link of that name left is replaced.
    ///
    /// # Errors
    /// [`NftError::Unusable`] if the kernel has no nf_tables for bridges; otherwise if it refuses.
    pub fn add_mac_guard(&self, guard: &MacGuard) -> Result<(), NftError> {
        let plan = plan(guard);
        match apply::apply(&self.socket, &plan) {
            Err(Failure::Held(_)) => {
                let of_others = |comment: &str| !guard.owner.wrote(comment);
                remove::keys(&self.socket, &[&OWNED], &plan.keys(), &of_others)?;
                Ok(apply::apply(&self.socket, &plan).map(drop)?)
            }
            // Where the kernel has no nf_tables for bridges, it says that the chain does not exist, again and again.
            Err(error) => self.can_guard_macs().and(Err(error.into())),
            Ok(_) => Ok(()),
        }
    }

    /// Compares what [`Nftables::add_mac_guard`] makes with what is there. No difference if the check that the Go plugin made for
    /// the owner is there, its chains and the jump from the port.
    ///
    /// # Errors
    /// Only if the kernel cannot be asked.
    pub fn check_mac_guard(&self, guard: &MacGuard) -> Result<Vec<Difference>, NftError> {
        let differences = check::check(&self.socket, &plan(guard))?;
        let by_go = !differences.is_empty() && go_rules::mac_guard::serves(&self.socket, &guard.owner, &guard.port)?;
        Ok(if by_go { Vec::new() } else { differences })
    }

    /// Removes the owner's spoof check, also the one that the Go plugin made for it (`bridge nat`). Idempotent.
    ///
    /// This takes constant time if `hint` is all that it has, or if it has nothing; else all elements are read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_mac_guard(&self, owner: &Owner, hint: &MacGuardHint) -> Result<(), NftError> {
        remove::of_owner(&self.socket, &[&OWNED], &hinted(hint), owner)?;
        go_rules::mac_guard::remove(&self.socket, owner)
    }

    /// Removes the spoof checks of all owners of `network` that are not in `valid`, and those of the Go plugin whose port
    /// does not exist any more: their rules do not say which network they are for. Idempotent.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn retain_mac_guard(&self, network: &NetworkName, valid: &[Owner]) -> Result<(), NftError> {
        remove::matching(&self.socket, &[&OWNED], is_stale(network, valid))?;
        go_rules::mac_guard::remove_dead(&self.socket)
    }

    /// Asks the kernel whether it can check source addresses on bridges; see [`Nftables::usable`].
    ///
    /// # Errors
    /// [`NftError::Unusable`] names what is missing.
    pub fn can_guard_macs(&self) -> Result<(), NftError> {
        apply::rehearse(&self.socket, [&skeleton()]).map_err(|refused| {
            refused.or_unusable("filter frames on bridges in nftables", "nf_tables with CONFIG_NF_TABLES_BRIDGE")
        })
    }

    /// What [`Nftables::add_mac_guard`] makes in an empty network namespace. Asks the kernel nothing.
    pub fn print_mac_guard(guard: &MacGuard) -> String {
        plan(guard).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> MacGuard {
        let (network, container_id) = ("n".parse().unwrap(), "c1".parse().unwrap());
        let owner = Owner { network, container_id, ifname: "eth0".parse().unwrap() };
        MacGuard { owner, port: "veth0".parse().unwrap(), mac: "02:00:00:00:00:01".parse().unwrap() }
    }

    /// `nft` pads an interface's name to 16 bytes and a MAC address to two registers.
    #[test]
    fn keys_are_padded_as_nft_pads_them() {
        let port = b"veth0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        let pair = [&port[..], &[2, 0, 0, 0, 0, 1, 0, 0]].concat();
        let keys: Vec<_> = plan(&guard()).keys().into_iter().map(|key| (key.set.name, key.bytes)).collect();
        assert_eq!(keys, [(GUARDED, port), (ALLOWED, pair)]);
    }

    #[test]
    fn a_hint_leads_to_as_much_as_it_knows() {
        let MacGuard { port, mac, .. } = guard();
        let all = plan(&guard()).keys();
        for (hint, keys) in [
            (MacGuardHint::default(), &all[..0]),
            (MacGuardHint { port: None, mac: Some(mac) }, &all[..0]),
            (MacGuardHint { port: Some(port.clone()), mac: None }, &all[..1]),
            (MacGuardHint { port: Some(port), mac: Some(mac) }, &all[..]),
        ] {
            assert_eq!(hinted(&hint), keys, "{hint:?}");
        }
    }

    #[test]
    fn the_owner_is_in_the_index_with_both_elements() {
        let text = plan(&guard()).to_string();
        let entry = format!("comment {:?} : 0x00000002 . 0x00000000", guard().owner.comment());
        assert!(text.contains(&entry), "{text}");
    }
}
