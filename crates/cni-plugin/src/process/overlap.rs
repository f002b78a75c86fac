//! Two pieces of work that wait for the kernel at the same time.

use std::panic::resume_unwind;
use std::thread::{self, Builder};

/// What both pieces return. `beside` has a thread of its own, with the caller's network namespace; where none can be started, it runs
/// after `here`. A panic in either is the caller's.
pub fn overlap<A: Send, B>(beside: impl Fn() -> A + Sync, here: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let started = Builder::new().spawn_scoped(scope, &beside);
        let here = here();
        let beside = match started {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => beside(),
        };
        (beside, here)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn both_run_at_the_same_time() {
        let met = Barrier::new(2);
        let meet = || met.wait().is_leader();
        let (one, other) = overlap(meet, meet);
        assert!(one != other);
    }
}
