//! The spoof check of the Go bridge plugin, in the table `bridge nat`: a jump from `PREROUTING` with a comment that names
//! container and interface, and two chains of that name. Found and removed.

use cni_plugin::{IfName, Owner};
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, ListAttribute, NfTablesMessage,
    RuleAttribute, RuleMessage,
};
use rustix::io::Errno;

use super::batch::Batch;
use super::error::{NftError, absent};
use super::frame::{Chain, Family, TableId};
use super::raw;
use super::transport::Socket;
use crate::links;

const TABLE: TableId = TableId { family: Family::Bridge, name: "nat" };
const PREROUTING: &str = "PREROUTING";
const COMMENT: &str = "macspoofchk-";
const CHAIN: &str = "cni-br-iface-";
/// The kernel's longest name of a chain (`NFT_CHAIN_MAXNAMELEN` in include/uapi/linux/netfilter/nf_tables.h, less its end).
const NAME_MAX: usize = 255;
/// How often a deletion is tried while others delete the same things.
const ATTEMPTS: u32 = 5;

/// A jump from `PREROUTING`.
struct Jump {
    handle: u64,
    /// Container and interface, as in the comment.
    of: String,
    /// The port's name, padded with zeros.
    port: Option<Vec<u8>>,
}

/// Removes the owner's. Idempotent; constant time if there is none.
pub(super) fn remove(socket: &Socket, owner: &Owner) -> Result<(), NftError> {
    let of = format!("{}-{}", owner.container_id, owner.ifname);
    for _ in 0..ATTEMPTS {
        let chains = existing_chains(socket, &of)?;
        if chains.is_empty() {
            return Ok(());
        }
        let handles: Vec<u64> = jumps(socket)?.iter().filter(|jump| jump.of == of).map(|jump| jump.handle).collect();
        match socket.commit(&removal(&handles, &chains), None) {
            // Somebody else removed a part of it.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            outcome => return outcome,
        }
    }
    Err(NftError::Contended { what: format!("delete the spoof check of {of}"), attempts: ATTEMPTS })
}

/// True if the owner's is there for this port.
pub(super) fn guards(socket: &Socket, owner: &Owner, port: &IfName) -> Result<bool, NftError> {
    let of = format!("{}-{}", owner.container_id, owner.ifname);
    if existing_chains(socket, &of)?.len() < 2 {
        return Ok(false);
    }
    let from_port = |bytes: &Vec<u8>| bytes.split(|byte| *byte == 0).next() == Some(port.as_str().as_bytes());
    Ok(jumps(socket)?.iter().any(|jump| jump.of == of && jump.port.as_ref().is_some_and(from_port)))
}

/// Removes those whose port does not exist any more.
pub(super) fn remove_dead(socket: &Socket) -> Result<(), NftError> {
    for jump in jumps(socket)? {
        if jump.port.as_ref().is_some_and(|port| !links::padded_name_exists(socket.descriptor(), port)) {
            let chains = existing_chains(socket, &jump.of)?;
            match socket.commit(&removal(&[jump.handle], &chains), None) {
                Err(error) if error.errno() != Some(Errno::NOENT) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The one that the jump leads to, then the one that that leads to.
fn existing_chains(socket: &Socket, of: &str) -> Result<Vec<String>, NftError> {
    let mut existing = Vec::new();
    let names = [format!("{CHAIN}{of}"), format!("{CHAIN}{of}-mac")];
    // Of a longer name there can be none, and the kernel refuses to look for it.
    for name in names.into_iter().filter(|name| name.len() <= NAME_MAX) {
        for answer in socket.ask("look for a chain", vec![Chain::question(TABLE, &name)])? {
            if !absent(answer)? {
                existing.push(name.clone());
            }
        }
    }
    Ok(existing)
}

/// First what leads to a chain, then the chain.
fn removal(handles: &[u64], chains: &[String]) -> Batch {
    let family = TABLE.family.number();
    let rules_of =
        |chain: &str| vec![RuleAttribute::Table(TABLE.name.to_owned()), RuleAttribute::Chain(chain.to_owned())];
    let mut batch = Batch::default();
    for handle in handles {
        let mut attributes = rules_of(PREROUTING);
        attributes.push(RuleAttribute::Handle(*handle));
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes });
        batch.push(format!("delete rule {handle} of {TABLE} {PREROUTING}"), family, 0, message);
    }
    for chain in chains {
        let message = NfTablesMessage::DeleteRule(RuleMessage { attributes: rules_of(chain) });
        batch.push(format!("flush chain {TABLE} {chain}"), family, 0, message);
    }
    for chain in chains {
        let attributes = vec![ChainAttribute::Table(TABLE.name.to_owned()), ChainAttribute::Name(chain.clone())];
        let message = NfTablesMessage::DeleteChain(ChainMessage { attributes });
        batch.push(format!("delete chain {TABLE} {chain}"), family, 0, message);
    }
    batch
}

fn jumps(socket: &Socket) -> Result<Vec<Jump>, NftError> {
    let attributes = vec![RuleAttribute::Table(TABLE.name.to_owned()), RuleAttribute::Chain(PREROUTING.to_owned())];
    let question = TABLE.question(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let mut found: Vec<Jump> = Vec::new();
    socket.dump(&format!("list the rules of {TABLE}"), &question, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.decode("a list of rules")? else {
            return Ok(());
        };
        // A dump that was repeated lists a rule again.
        if let Some(jump) = read_jump(rule).filter(|jump| found.iter().all(|known| known.handle != jump.handle)) {
            found.push(jump);
        }
        Ok(())
    })?;
    Ok(found)
}

fn read_jump(rule: RuleMessage) -> Option<Jump> {
    let (mut in_prerouting, mut handle, mut of, mut port) = (false, None, None, None);
    for attribute in rule.attributes {
        match attribute {
            RuleAttribute::Chain(name) => in_prerouting = name == PREROUTING,
            RuleAttribute::Handle(number) => handle = Some(number),
            RuleAttribute::UserData(bytes) => {
                of = raw::read_comment(&bytes).and_then(|text| text.strip_prefix(COMMENT).map(str::to_owned));
            }
            RuleAttribute::Expressions(list) => port = list.iter().find_map(compared_with),
            _ => {}
        }
    }
    in_prerouting.then_some(Jump { handle: handle?, of: of?, port })
}

/// What the rule's first comparison, that of the port's name, is with.
fn compared_with(entry: &ListAttribute<ExpressionAttribute>) -> Option<Vec<u8>> {
    let ListAttribute::Element(attributes) = entry else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        ExpressionAttribute::Data(Expressions::Cmp(parts)) => parts.iter().find_map(|part| match part {
            Cmp::Data(DataAttribute::Value(bytes)) => Some(bytes.clone()),
            _ => None,
        }),
        _ => None,
    })
}
