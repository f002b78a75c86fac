//! What can go wrong between an intent and the kernel.

use std::io;

use rustix::io::Errno;

/// What every removal asks first.
pub(super) const ASK_GENERATION: &str = "read the generation of the rule set";

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
        "cannot {what}: the nftables table {table} has the flag owner, so only the process that created it can change it{}; \
         end that process, or configure another table name for it",
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
    /// A set or chain has the name of this plugin's and is something else. Nothing has changed.
    #[error(
        "nftables {thing} was not created by this plugin: expected {expected}, found {found}; delete or rename it, and the \
         next ADD creates the right one"
    )]
    Foreign {
        /// Kind, table and name.
        thing: String,
        /// What this plugin makes.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An answer that is not what the kernel documents.
    #[error("the kernel's answer to {what} is invalid: {why}")]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// Another owner has it. Nothing has changed.
    #[error("{thing} is held by {holder}: detach that container first, or request another one")]
    HeldBy {
        /// The address or port.
        thing: String,
        /// The holder, from the comment on the element.
        holder: String,
    },
    /// The intent contradicts itself.
    #[error("{thing} is requested twice, with different targets")]
    Twice {
        /// The address or port.
        thing: String,
    },
    /// An address of the wrong family in an intent.
    #[error("{thing} and {to} are of different families: one is IPv4, the other IPv6")]
    Family {
        /// The address or port that does not fit.
        thing: String,
        /// What it was given with.
        to: String,
    },
    /// A condition in words that the backend doesn't know.
    #[error("condition {condition:?}: {word:?} is not supported: {why}")]
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
    /// True if the kernel has no nf_tables at all, so that it holds nothing of this plugin: DEL and GC have nothing to do.
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

    /// [`NftError::Unusable`], if this refusal says that the kernel lacks the feature; itself if the caller lacks a permission, or the
    /// node memory.
    pub(crate) fn or_unusable(self, feature: &str, module: &'static str) -> Self {
        let of_the_moment = [Errno::PERM, Errno::ACCESS, Errno::NOMEM, Errno::NOBUFS, Errno::MFILE, Errno::NFILE];
        match self.errno() {
            Some(errno) if !of_the_moment.contains(&errno) => {
                Self::Unusable { feature: feature.to_owned(), module, source: Box::new(self) }
            }
            _ => self,
        }
    }

    /// The kernel's error code, if it was the kernel that refused.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
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
