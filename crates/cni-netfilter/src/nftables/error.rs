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
    #[error(
        "cannot open a netfilter netlink socket: {0}; the kernel needs nf_tables (module nf_tables) and the caller CAP_NET_ADMIN"
    )]
    Open(#[source] io::Error),
    /// Sending or receiving failed.
    #[error("netlink failed to {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel answered with an error. A transaction that it refuses has changed nothing.
    #[error("the kernel refused to {what}: {errno}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// Which message of the transaction it refused, in words.
        what: String,
        /// Its error code.
        errno: Errno,
        /// Its own words, if it had any (extended ack).
        detail: Option<String>,
    },
    /// The transaction does not fit into the socket's send buffer.
    #[error(
        "a transaction of {bytes} bytes does not fit: the send buffer could be raised to {limit} bytes only; \
         raise net.core.wmem_max or publish fewer ports"
    )]
    TooLarge {
        /// Size of the transaction.
        bytes: usize,
        /// Size of the send buffer.
        limit: usize,
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
