//! Chains as the kernel tells them: how much is in them and leads to them. Those that elements lead to are deleted when
//! none does any more.

use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage};
use rustix::io::Errno;

use super::answer::Raw;
use super::batch::Batch;
use super::error::NftError;
use super::error::absent;
use super::frame::{Base, Chain, TableId};
use super::transport::Socket;

/// Deletes those of the chains `names` that no element leads to any more: whose use count is not above the number of
/// their own rules. Somebody who adds an element at the same time wins (`EBUSY`), so this can only ever do too little.
pub(super) fn delete_unused(socket: &Socket, table: TableId, names: &[String], own_rules: u32) -> Result<(), NftError> {
    let questions = names.iter().map(|name| Chain::question(table, name)).collect();
    for (name, answer) in names.iter().zip(socket.ask("look for a chain", questions)?) {
        let Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain))) = answer else { continue };
        if used(&chain).is_none_or(|used| used > own_rules) {
            continue;
        }
        delete(socket, table, name)?;
    }
    Ok(())
}

/// Deletes a chain with its rules; one that is still in use stays, and one that has gone is fine.
pub(super) fn delete(socket: &Socket, table: TableId, name: &str) -> Result<(), NftError> {
    let attributes = vec![ChainAttribute::Table(table.name.to_owned()), ChainAttribute::Name(name.to_owned())];
    let mut batch = Batch::default();
    let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
    batch.push(format!("delete chain {table} {name}"), table.family.number(), 0, message);
    match socket.commit(&batch, None) {
        Err(error) if !matches!(error.errno(), Some(Errno::BUSY | Errno::NOENT)) => Err(error),
        _ => Ok(()),
    }
}

/// How many rules are in a chain and lead to it; `None` if there is no such chain.
pub(super) fn uses(socket: &Socket, table: TableId, chain: &str) -> Result<Option<u32>, NftError> {
    let question = vec![Chain::question(table, chain)];
    match socket.ask("look for a chain", question)?.pop() {
        Some(Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)))) => {
            Ok(Some(used(&chain).unwrap_or(0)))
        }
        Some(Err(error)) if error.errno() != Some(Errno::NOENT) => Err(error),
        _ => Ok(None),
    }
}

/// The number of rules in a chain and of rules and elements that lead to it.
fn used(chain: &ChainMessage) -> Option<u32> {
    chain.attributes.iter().find_map(|a| if let ChainAttribute::Use(n) = a { Some(*n) } else { None })
}

/// True if the answer to [`Chain::question`] says that there is no such chain, or that rules of it are missing for certain.
/// What leads to a chain counts like its rules, so of others than base chains this can't tell in all cases
/// ([`is_emptied`]); but it costs nothing.
///
/// A base chain that is attached elsewhere than ours is an error: the kernel would not move it.
pub(super) fn lacks_rules(table: TableId, answer: Result<Raw, NftError>, chain: &Chain) -> Result<bool, NftError> {
    let raw = match answer {
        Ok(raw) => raw,
        refused => return absent(refused),
    };
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(found)) = raw.decode("look for a chain")? else {
        return Ok(false);
    };
    if let Some(base) = chain.base.filter(|base| !base.matches(&found.attributes)) {
        return Err(NftError::Foreign {
            thing: format!("chain {table} {}", chain.name),
            expected: base.to_string(),
            found: Base::words(&found.attributes).unwrap_or_else(|| "a chain without a hook".to_owned()),
        });
    }
    Ok(used(&found).is_some_and(|used| usize::try_from(used).is_ok_and(|used| used < chain.rules.len())))
}

/// True if rules are missing of a chain that others lead to. One question, whatever else is in the table.
pub(super) fn is_emptied(socket: &Socket, table: TableId, chain: &Chain) -> Result<bool, NftError> {
    if chain.base.is_some() || chain.rules.is_empty() {
        return Ok(false);
    }
    let attributes = vec![RuleAttribute::Table(table.name.to_owned()), RuleAttribute::Chain(chain.name.clone())];
    let question = table.question(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let what = format!("count the rules of {table} {}", chain.name);
    let rules = socket.dump_state(&what, &question, |rules: &mut usize, _| {
        *rules += 1;
        Ok(())
    })?;
    Ok(rules < chain.rules.len())
}

/// The names of all chains of `table` that begin with `prefix`.
pub(super) fn chains_with(socket: &Socket, table: TableId, prefix: &str) -> Result<Vec<String>, NftError> {
    let question = table.question(NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }));
    let mut names = Vec::new();
    socket.dump(&format!("list the chains of {table}"), &question, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.decode("a list of chains")?
        else {
            return Ok(());
        };
        let mut ours = false;
        let mut name = None;
        for attribute in chain.attributes {
            match attribute {
                ChainAttribute::Table(of) => ours = of == table.name,
                ChainAttribute::Name(text) => name = Some(text),
                _ => {}
            }
        }
        names.extend(name.filter(|name| ours && name.starts_with(prefix)));
        Ok(())
    })?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
