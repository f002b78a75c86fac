//! The one rule that makes our accepts count where iptables-nft looks: at the head of `FORWARD` in its table `filter`,
//! it accepts what our own chain has marked. In that chain Docker drops everything that nobody accepts.
//!
//! Made of nothing that the iptables tools couldn't have made themselves, so that they list it and can delete it.

use cni_plugin::Difference;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE};
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{Expressions, NfTablesMessage, RuleAttribute, RuleMessage};
use rustix::io::Errno;

use super::batch::Batch;
use super::error::NftError;
use super::expr::Ip;
use super::firewall_frame::{MARK, accept, is_marked};
use super::frame::{Family, TableId};
use super::transport::Socket;
use super::{chains, raw};
use crate::Forwarding;

const CHAIN: &str = "FORWARD";
/// The comment by which the rule is known.
pub(crate) const COMMENT: &str = "CNI firewall plugin rules (nftables)";

fn table(ip: Ip) -> TableId {
    TableId { family: Family::Only(ip), name: "filter" }
}

/// The families in which something of the intent is to be accepted and iptables-nft has its chain.
fn concerned(socket: &Socket, intent: &Forwarding) -> Result<Vec<TableId>, NftError> {
    let mut tables: Vec<TableId> = Vec::new();
    for ip in [Ip::V4, Ip::V6] {
        let wanted = intent.addresses.iter().any(|address| Ip::of(*address) == ip);
        if wanted && chains::uses(socket, table(ip), CHAIN)?.is_some() {
            tables.push(table(ip));
        }
    }
    Ok(tables)
}

/// Adds the rule where it is missing.
pub(super) fn add(socket: &Socket, intent: &Forwarding) -> Result<(), NftError> {
    for table in concerned(socket, intent)? {
        if exists(socket, table)? {
            continue;
        }
        let mut batch = Batch::default();
        let mut expressions = is_marked().to_vec();
        expressions.extend([counter(), accept()]);
        let attributes = vec![
            RuleAttribute::Table(table.name.to_owned()),
            RuleAttribute::Chain(CHAIN.to_owned()),
            RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
            RuleAttribute::UserData(raw::comment(COMMENT)),
        ];
        let message = NfTablesMessage::NewRule(RuleMessage { attributes });
        // Without NLM_F_APPEND it comes first.
        batch.push(format!("insert a rule into {table} {CHAIN}"), table.family.number(), NLM_F_CREATE, message);
        match socket.commit(&batch, None) {
            // The chain went away in between.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// The rule, where it is missing.
pub(super) fn check(socket: &Socket, intent: &Forwarding) -> Result<Vec<Difference>, NftError> {
    let mut differences = Vec::new();
    for table in concerned(socket, intent)? {
        if !exists(socket, table)? {
            let thing = format!("nftables rule \"meta mark & {MARK:#x} == {MARK:#x} accept\" of chain {table} {CHAIN}");
            differences.push(Difference::missing(thing));
        }
    }
    Ok(differences)
}

/// iptables' rules count.
fn counter() -> Expressions {
    let zero = |kind| DefaultNla::new(kind, 0u64.to_be_bytes().to_vec());
    // NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS
    Expressions::Other { expression_type: "counter".to_owned(), attributes: vec![zero(1), zero(2)] }
}

fn exists(socket: &Socket, table: TableId) -> Result<bool, NftError> {
    let attributes = vec![RuleAttribute::Table(table.name.to_owned()), RuleAttribute::Chain(CHAIN.to_owned())];
    let question = table.question(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let (mut exists, what) = (false, format!("list the rules of {table} {CHAIN}"));
    socket.dump(&what, &question, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.decode(&what)? else {
            return Ok(());
        };
        let comment = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::UserData(bytes) => raw::read_comment(bytes),
            _ => None,
        });
        exists |= comment.as_deref() == Some(COMMENT);
        Ok(())
    })?;
    Ok(exists)
}
