//! Follows a packet through a node: `why FROM TO[:PORT]`. Reads only; nothing is changed.
//!
//! A [`Question`] names two places and a port. [`why`] reads what it needs of the node and of the namespaces on the way (links,
//! addresses, the kernel's own route lookups, neighbours, bridge ports, rules, sysctls, sockets), walks a packet through it as the
//! kernel would, and the answer back, and returns an [`Answer`]: where the way ends, what stops it, and what to do about it.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let question = cni_reach::Question::new("web", "outside:443")?;
//! let answer = cni_reach::why(&question)?;
//! eprint!("{answer}");
//! # Ok(()) }
//! ```
//!
//! The calling thread must be in the node's network namespace. Rules are read with the tools `nft` and `iptables-save`; a rule that
//! isn't understood is named in a note, and the verdict is then [`Verdict::Unsure`] at best.
//!
//! Layers, each using those before it: `packet` <- `rules` (what rules do to it) <- `world` (what the kernel says) <- `walk` (its way)
//! <- `question`, `answer`.

mod answer;
mod packet;
mod probe;
mod question;
mod rules;
mod walk;
mod world;

pub use answer::{Answer, Cause, Note, Step, Verdict};
pub use probe::{Probe, probe};
pub use question::{Endpoint, Question};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReachError {
    /// A namespace can't be opened or entered.
    #[error(transparent)]
    Namespace(#[from] cni_net::NetNsError),
    /// The kernel can't be asked.
    #[error(transparent)]
    Kernel(#[from] cni_net::NetError),
    /// Nothing is found by this name.
    #[error(
        "no container {name:?}: neither /run/netns/{name} exists nor a link whose alias is \"cni NETWORK {name}… INTERFACE\"; \
         a namespace's path or an address is accepted too"
    )]
    NoContainer {
        /// As it was given.
        name: String,
    },
    /// Not `PLACE` or `PLACE:PORT`.
    #[error(
        "{text:?} is no place: expected a container, a namespace's path, an address, `node` or `outside`, and for the destination `:PORT` (1 to 65535)"
    )]
    BadPlace {
        /// As it was given.
        text: String,
    },
    /// Source and destination have no address family in common, or the node has no way outside.
    #[error("{why}")]
    NoPacket {
        /// What is missing.
        why: String,
    },
    /// The probe failed.
    #[error("no probe from {from}: {why}")]
    Probe {
        /// Where it should start.
        from: String,
        /// What went wrong.
        why: String,
    },
}

/// Answers the question. Idempotent; changes nothing.
///
/// # Errors
/// If a place isn't found, or the kernel can't be asked. That a packet is stopped is an answer, not an error.
pub fn why(question: &Question) -> Result<Answer, ReachError> {
    let world = world::World::read()?;
    let (from, packet, notes) = match question::resolve(&world, question)? {
        question::Start::Here(from, packet, notes) => (from, packet, notes),
        question::Start::Never(answer) => return Ok(*answer),
    };
    Ok(walk::answer(&world, &from, *packet, question, notes))
}
