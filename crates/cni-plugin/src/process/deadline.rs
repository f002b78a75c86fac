//! How long one call may wait, in all: for locks, for tools and for other plugins.
//!
//! A runtime gives a call two minutes at best (kubelet's `--runtime-request-timeout`) and kills it then, without an error and
//! without a rollback. So every wait has a limit of its own, and none lasts beyond the end of the call's budget.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a verb may wait in all.
const CALL: Duration = Duration::from_secs(50);
/// How long the rollback of a failed ADD may wait, after that.
const ROLLBACK: Duration = Duration::from_secs(15);
/// The longest wait for a lock of the plugins.
pub const LOCK: Duration = Duration::from_secs(20);
/// The longest run of a tool.
pub const TOOL: Duration = Duration::from_secs(30);
/// The longest call of another plugin. It may have to wait for a lock itself, or for a server on the network.
pub const DELEGATE: Duration = Duration::from_secs(40);

static BUDGET: OnceLock<Budget> = OnceLock::new();

struct Budget {
    begin: Instant,
    /// Milliseconds after `begin`.
    end: AtomicU64,
}

/// Begins the call's budget. Without this, as in tests of a library, only the waits' own limits count.
pub(crate) fn begin() {
    BUDGET.get_or_init(|| Budget { begin: Instant::now(), end: AtomicU64::new(milliseconds(CALL)) });
}

/// Begins the budget of the rollback, because that of the call may be used up.
pub(crate) fn begin_rollback() {
    if let Some(budget) = BUDGET.get() {
        budget.end.store(milliseconds(budget.begin.elapsed() + ROLLBACK), Ordering::Relaxed);
    }
}

/// How long a wait of at most `limit` may last now. Zero where the budget is used up.
pub fn at_most(limit: Duration) -> Duration {
    let Some(budget) = BUDGET.get() else { return limit };
    let end = Duration::from_millis(budget.end.load(Ordering::Relaxed));
    limit.min(end.saturating_sub(budget.begin.elapsed()))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A wait by polling, at growing intervals.
pub(crate) struct Polling {
    begin: Instant,
    limit: Duration,
}

impl Polling {
    const SHORTEST: Duration = Duration::from_micros(200);
    const LONGEST: Duration = Duration::from_millis(20);

    /// A wait of at most `limit`, within the call's budget.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { begin: Instant::now(), limit: at_most(limit) }
    }

    /// Sleeps until the next poll; false if the time is over.
    pub(crate) fn pause(&self) -> bool {
        let waited = self.begin.elapsed();
        if waited >= self.limit {
            return false;
        }
        std::thread::sleep((waited / 8).clamp(Self::SHORTEST, Self::LONGEST));
        true
    }

    /// How long the wait has lasted.
    pub(crate) fn waited(&self) -> Duration {
        self.begin.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_waits_of_a_call_end_before_a_runtimes_two_minutes() {
        assert!(CALL + ROLLBACK < Duration::from_secs(90));
        assert!(LOCK < TOOL && TOOL < DELEGATE && DELEGATE < CALL);
    }

    #[test]
    fn without_a_call_only_the_limit_counts() {
        assert_eq!(at_most(TOOL), TOOL);
        assert!(!Polling::new(Duration::ZERO).pause());
    }
}
