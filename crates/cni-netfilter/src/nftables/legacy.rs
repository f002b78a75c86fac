//! What the Go plugins leave in their own nftables tables: found by the comments of their rules, and removed.

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{NfTablesMessage, RuleAttribute, RuleMessage};
use rustix::io::Errno;

use super::batch::Batch;
use super::error::NftError;
use super::expr::Ip;
use super::frame::{Family, TableId};
use super::raw;
use super::transport::Socket;

/// Of their bridge and ptp; the rules are in `masq_checks`, their comment begins with the owner's key.
const MASQUERADE: TableId = TableId { family: Family::Inet, name: "cni_plugins_masquerade" };
/// Of their portmap; the comment is the container ID alone.
const PORTMAP: [TableId; 2] = [
    TableId { family: Family::Only(Ip::V4), name: "cni_hostport" },
    TableId { family: Family::Only(Ip::V6), name: "cni_hostport" },
];
/// How often a deletion is tried while others delete the same rules.
const ATTEMPTS: u32 = 5;

/// Removes the rules of the Go plugins' masquerading whose comment satisfies `is_mine`. Idempotent.
pub(super) fn remove_masquerade(socket: &Socket, is_mine: impl Fn(&str) -> bool) -> Result<(), NftError> {
    remove(socket, MASQUERADE, &["masq_checks"], is_mine)
}

/// Removes the rules of the Go portmap for this container. Idempotent.
///
/// The comment names the container only, so these are the container's ports of all networks, as in the Go plugin.
pub(super) fn remove_ports(socket: &Socket, container_id: &str) -> Result<(), NftError> {
    for table in PORTMAP {
        let chains = ["hostports", "hostip_hostports", "masquerading"];
        remove(socket, table, &chains, |comment| comment == container_id)?;
    }
    Ok(())
}

fn remove(socket: &Socket, table: TableId, chains: &[&str], is_mine: impl Fn(&str) -> bool) -> Result<(), NftError> {
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::default();
        for (chain, handle) in find(socket, table, chains, &is_mine)? {
            let what = format!("delete rule {handle} of {table} {chain}");
            let attributes = vec![
                RuleAttribute::Table(table.name.to_owned()),
                RuleAttribute::Chain(chain),
                RuleAttribute::Handle(handle),
            ];
            let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
            batch.push(what, table.family.number(), 0, message);
        }
        match socket.commit(&batch, None) {
            // A handle is never used again, so what is gone is gone.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            outcome => return outcome,
        }
    }
    Err(NftError::Contended { what: format!("delete rules of {table}"), attempts: ATTEMPTS })
}

/// The chain and handle of each rule that is to go.
fn find(
    socket: &Socket,
    table: TableId,
    chains: &[&str],
    is_mine: impl Fn(&str) -> bool,
) -> Result<Vec<(String, u64)>, NftError> {
    let attributes = vec![RuleAttribute::Table(table.name.to_owned())];
    let question = table.question(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let mut found = Vec::new();
    socket.dump(&format!("list the rules of {table}"), &question, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.decode("a list of rules")? else {
            return Ok(());
        };
        let (mut place, mut number, mut comment) = (None, None, None);
        for attribute in rule.attributes {
            match attribute {
                RuleAttribute::Chain(name) => place = Some(name),
                RuleAttribute::Handle(handle) => number = Some(handle),
                RuleAttribute::UserData(bytes) => comment = raw::read_comment(&bytes),
                _ => {}
            }
        }
        if let (Some(place), Some(number), Some(comment)) = (place, number, comment)
            && chains.contains(&place.as_str())
            && is_mine(&comment)
        {
            found.push((place, number));
        }
        Ok(())
    })?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
