//! What can go wrong between an intent and the kernel.

use std::io;

use rustix::io::Errno;

/// What every removal asks first.
pub(crate) const ASK_GENERATION: &str = "read the generation of the rule set";

/// An operation of the nftables backend or of connection tracking that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// No netlink socket for netfilter.
    #[error("cannot open a netfilter netlink socket: {error}{way_out}", error = .0, way_out = way_out_of_io(.0))]
    Open(#[source] io::Error),
    /// Sending or receiving failed.
    #[error("netlink failed to {what}: {source}{}", way_out_of_io(.source))]
    Io {
        /// What was being done.
        what: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel answered with an error. A transaction that it refuses has changed nothing.
    #[error(
        "the kernel refused to {what}: {errno}{}{}",
        detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default(), way_out(*errno)
    )]
    Refused {
        /// Which message of the transaction it refused, in words.
        what: String,
        /// Its error code.
        #[source]
        errno: Errno,
        /// Its own words, if it had any (extended ack).
        detail: Option<String>,
    },
    /// The transaction does not fit into the socket's send buffer.
    #[error(
        "a transaction of {bytes} bytes does not fit: the send buffer could be raised to {limit} bytes only; \
         raise net.core.wmem_max"
    )]
    TooLarge {
        /// Size of the transaction.
        bytes: usize,
        /// Size of the send buffer.
        limit: usize,
    },
    /// A table of our name that only the process that made it may change (`NFT_TABLE_F_OWNER`). Nothing has changed.
    #[error(
        "cannot {what}: the nftables table {table} has the flag owner, so only the process that made it can change it{}; end \
         that process or let it use another name",
        port.map(|port| format!(" (netlink port {port}, usually its PID)")).unwrap_or_default()
    )]
    Owned {
        /// What was to be done.
        what: String,
        /// Family and name of the table.
        table: String,
        /// The netlink port of the process.
        port: Option<u32>,
    },
    /// Something has the name of ours and is something else. Nothing has changed.
    #[error(
        "nftables {thing} was not made by this plugin: expected {expected}, found {found}; delete or rename it there, the next \
         ADD makes ours"
    )]
    Foreign {
        /// Kind, table and name.
        thing: String,
        /// What it would be if it were ours.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An answer that is not what the kernel documents.
    #[error("the answer of the kernel to {what} makes no sense: {why}")]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// Somebody else has it. Nothing has changed.
    #[error("{thing} is held by {holder}: detach that first, or ask for another")]
    HeldBy {
        /// The address or port.
        thing: String,
        /// The holder, from the comment on the element.
        holder: String,
    },
    /// The intent contradicts itself.
    #[error("{thing} is asked for twice, with different targets")]
    Twice {
        /// The address or port.
        thing: String,
    },
    /// An address of the wrong family in an intent.
    #[error("{thing} does not belong to {to}: one is IPv4 and the other IPv6")]
    Family {
        /// The address or port that does not fit.
        thing: String,
        /// What it was given with.
        to: String,
    },
    /// A condition in words that the backend doesn't know.
    #[error("condition {condition:?} can't be carried out because of {word:?}: {why}")]
    Condition {
        /// All conditions of the family.
        condition: String,
        /// The word in question.
        word: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel lacks something that the backend needs.
    #[error("the kernel cannot {feature}: {source}; load or build the module ({module})")]
    Unusable {
        /// What it cannot do.
        feature: String,
        /// Where that is configured.
        module: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<NftError>,
    },
    /// Other programs changed the rules each time that the operation was tried.
    #[error("could not {what} in {attempts} attempts: other programs keep changing the rule set; try again")]
    Contended {
        /// What was tried.
        what: String,
        /// How often.
        attempts: u32,
    },
}

impl NftError {
    /// True if the kernel has no nf_tables at all, so that nothing of ours can be in it: DEL and GC are done then.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Open(error) => error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()),
            // nfnetlink answers EINVAL for a subsystem that it does not have; the question itself is always valid.
            Self::Refused { what, errno, .. } => {
                what == ASK_GENERATION && matches!(*errno, Errno::INVAL | Errno::OPNOTSUPP)
            }
            _ => false,
        }
    }

    /// True if the kernel lacks something, and not the caller a permission, or the node memory.
    pub(super) fn is_about_the_kernel(&self) -> bool {
        let of_the_moment = [Errno::PERM, Errno::ACCESS, Errno::NOMEM, Errno::NOBUFS, Errno::MFILE, Errno::NFILE];
        self.errno().is_some_and(|errno| !of_the_moment.contains(&errno))
    }

    /// The kernel's error code, if it was the kernel that refused.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// True if the kernel says that there is no such thing.
pub(super) fn absent<T>(answer: Result<T, NftError>) -> Result<bool, NftError> {
    match answer {
        Ok(_) => Ok(false),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(true),
        Err(error) => Err(error),
    }
}

fn way_out_of_io(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOBUFS) => "; its answers did not fit the socket's buffer: raise net.core.rmem_default",
        // The kernel's limit, while for a set it is the size.
        Some(Errno::NFILE) => "; the system has no file left: raise fs.file-max",
        Some(Errno::MFILE) => "; the process may open no more files: raise its limit (ulimit -n)",
        Some(errno) => way_out(errno),
        None => "",
    }
}

/// What an error code of nf_tables means, where the code alone doesn't say it, and what to do about it.
fn way_out(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            "; it takes CAP_NET_ADMIN in the user namespace that the network namespace belongs to"
        }
        Errno::NOMEM | Errno::NOBUFS => "; the kernel has no memory for it",
        Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => "; load or build the module nf_tables",
        Errno::NFILE | Errno::TOOBIG | Errno::NOSPC => {
            "; a set is full, which those of this plugin never are: delete the table, the next ADD makes it without a size"
        }
        Errno::MFILE => "; too many rules or elements refer to it",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: Errno) -> String {
        NftError::Refused { what: "add a set".to_owned(), errno, detail: None }.to_string()
    }

    #[test]
    fn a_message_has_the_way_out() {
        assert!(refused(Errno::PERM).contains("CAP_NET_ADMIN"));
        assert!(refused(Errno::NFILE).contains("full"));
        assert!(!refused(Errno::NOENT).contains(';'));
        let io = |errno: Errno| NftError::Open(io::Error::from_raw_os_error(errno.raw_os_error())).to_string();
        for (errno, named) in [
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::NOBUFS, "net.core.rmem_default"),
            (Errno::PROTONOSUPPORT, "nf_tables"),
            (Errno::PERM, "CAP_NET_ADMIN"),
        ] {
            assert!(io(errno).contains(named), "{}", io(errno));
        }
    }
}
