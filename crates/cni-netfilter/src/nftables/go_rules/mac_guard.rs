//! The spoof check of the Go bridge plugin, in the table `bridge nat`: a jump from `PREROUTING` with a comment that names
//! container and interface, and two chains of that name.

use cni_plugin::{IfName, Owner};
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::nftables::{Cmp, Expressions, NfTablesMessage};
use rustix::io::Errno;

use super::commit_retrying;
use crate::links;
use crate::nftables::ruleset::expression::bytes_of;
use crate::nftables::ruleset::rule::{self, ListedRule};
use crate::nftables::wire::{Batch, NftError, Socket, Table, TableFamily, part};

const TABLE: Table<'static> = Table { family: TableFamily::Bridge, name: "nat" };
const PREROUTING: &str = "PREROUTING";
const COMMENT: &str = "macspoofchk-";
const CHAIN: &str = "cni-br-iface-";
/// The kernel's longest name of a chain (`NFT_CHAIN_MAXNAMELEN` in include/uapi/linux/netfilter/nf_tables.h, less its end).
const NAME_MAX: usize = 255;

/// A jump from `PREROUTING`.
#[derive(Debug, PartialEq, Eq)]
struct Jump {
    handle: u64,
    /// Container and interface, as in the comment.
    of: String,
    /// The port's name, padded with zeros.
    port: Option<Vec<u8>>,
}

impl Jump {
    fn read(rule: &ListedRule, comment: &str) -> Option<Self> {
        let of = comment.strip_prefix(COMMENT)?.to_owned();
        Some(Self { handle: rule.handle, of, port: rule.expressions.iter().find_map(compared_with) })
    }

    fn is_from(&self, port: &IfName) -> bool {
        let name = |bytes: &Vec<u8>| bytes.split(|byte| *byte == 0).next() == Some(port.as_str().as_bytes());
        self.port.as_ref().is_some_and(name)
    }
}

/// What a comparison, the first of which is that of the port's name, is with.
fn compared_with(expression: &Expressions) -> Option<Vec<u8>> {
    let Expressions::Cmp(parts) = expression else { return None };
    part!(parts, Cmp::Data).and_then(bytes_of).cloned()
}

/// Container and interface, as the Go plugin names them.
fn name_of(owner: &Owner) -> String {
    format!("{}-{}", owner.container_id, owner.ifname)
}

/// Removes the owner's. Idempotent; constant time if there is none.
pub(crate) fn remove(socket: &Socket, owner: &Owner) -> Result<(), NftError> {
    let of = name_of(owner);
    commit_retrying(socket, &format!("delete the spoof check of {of}"), |batch| {
        let chains = existing_chains(socket, &of)?;
        if !chains.is_empty() {
            let handles: Vec<u64> =
                jumps(socket)?.iter().filter(|jump| jump.of == of).map(|jump| jump.handle).collect();
            delete(&handles, &chains, batch);
        }
        Ok(())
    })
}

/// True if the owner's is there for this port.
pub(crate) fn serves(socket: &Socket, owner: &Owner, port: &IfName) -> Result<bool, NftError> {
    let of = name_of(owner);
    let has_chains = existing_chains(socket, &of)?.len() == 2;
    Ok(has_chains && jumps(socket)?.iter().any(|jump| jump.of == of && jump.is_from(port)))
}

/// Removes those whose port does not exist any more.
pub(crate) fn remove_dead(socket: &Socket) -> Result<(), NftError> {
    for jump in jumps(socket)? {
        if jump.port.as_ref().is_some_and(|port| !links::padded_name_exists(socket.descriptor(), port)) {
            let mut batch = Batch::default();
            delete(&[jump.handle], &existing_chains(socket, &jump.of)?, &mut batch);
            match socket.commit(&batch, None) {
                Err(error) if error.errno() != Some(Errno::NOENT) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The chains of the owner that exist: the target of the jump, then the target of that chain.
fn existing_chains(socket: &Socket, of: &str) -> Result<Vec<String>, NftError> {
    let names = [format!("{CHAIN}{of}"), format!("{CHAIN}{of}-mac")];
    // Of a longer name there can be none, and the kernel refuses to look for it.
    let names: Vec<String> = names.into_iter().filter(|name| name.len() <= NAME_MAX).collect();
    let requests = names.iter().map(|name| TABLE.chain_request(name)).collect();
    let mut existing = Vec::new();
    for (name, answer) in names.into_iter().zip(socket.ask("look for a chain", requests)?) {
        match answer {
            Ok(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(_))) => existing.push(name),
            Err(error) if error.errno() != Some(Errno::NOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(existing)
}

/// First what leads to a chain, then the chain.
fn delete(handles: &[u64], chains: &[String], batch: &mut Batch) {
    handles.iter().for_each(|handle| batch.delete_rule(TABLE, PREROUTING, *handle));
    chains.iter().for_each(|chain| batch.flush_chain(TABLE, chain));
    chains.iter().for_each(|chain| batch.delete_chain(TABLE, chain));
}

fn jumps(socket: &Socket) -> Result<Vec<Jump>, NftError> {
    let mut jumps: Vec<Jump> = Vec::new();
    rule::scan_commented(socket, TABLE, &[PREROUTING], |rule, comment| {
        jumps.extend(Jump::read(&rule, comment).filter(|jump| !jumps.contains(jump)));
    })?;
    Ok(jumps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::ruleset::expression as expr;
    use netlink_packet_netfilter::nftables::{MetaKey, Operator};

    /// `iifname <port> jump cni-br-iface-<of>`, as Go's bridge adds it.
    fn jump(port: &[u8], comment: &str) -> Option<Jump> {
        let compare = expr::compare(Operator::Equal, port);
        let expressions = vec![expr::meta(MetaKey::Iifname, 0), compare, expr::jump("cni-br-iface-c1-eth0")];
        Jump::read(&ListedRule { handle: 7, expressions, ..ListedRule::default() }, comment)
    }

    #[test]
    fn a_jump_tells_its_attachment_and_its_port() {
        let read = jump(b"veth0\0\0\0\0\0\0\0\0\0\0\0", "macspoofchk-c1-eth0").unwrap();
        assert_eq!((read.handle, read.of.as_str()), (7, "c1-eth0"));
        for (port, is_from) in [("veth0", true), ("veth", false), ("veth01", false)] {
            assert_eq!(read.is_from(&port.parse().unwrap()), is_from, "{port}");
        }
        assert_eq!(jump(b"veth0\0", "another rule"), None);
    }
}
