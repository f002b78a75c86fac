//! When a lease is renewed and when it ends, on a clock that counts suspended time and is never set (`CLOCK_BOOTTIME`).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A lease without an end (RFC 2131, 3.3; RFC 8415, 7.7).
const INFINITE: u32 = u32::MAX;
/// The pause between two tries to renew is half of what is left, but not shorter than this, in seconds (RFC 2131, 4.4.5), ...
const PAUSE: u64 = 60;
/// ... unless the lease itself is as short.
const SHORTEST_PAUSE: u64 = 1;

/// Seconds since the node started (`CLOCK_BOOTTIME`).
pub fn now() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or_default()
}

/// The instants of a lease, in seconds of [`now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// T1: from now on its server is asked to prolong it.
    pub renew: u64,
    /// T2: from now on any server is.
    pub rebind: u64,
    /// It is no more.
    pub end: u64,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing until this instant.
    Nothing(u64),
    /// To renew.
    Renew,
    /// To rebind.
    Rebind,
    /// To begin anew.
    Ended,
}

impl Times {
    /// Those of a lease of `lifetime` seconds that was granted at `granted`. T1 and T2 that are absent or out of order are these
    /// parts of the lifetime.
    pub fn new(granted: u64, lifetime: u32, (t1, t2): (Option<u32>, Option<u32>), parts: (f64, f64)) -> Self {
        if lifetime == INFINITE {
            return Self { renew: u64::MAX, rebind: u64::MAX, end: u64::MAX };
        }
        let part = |part: f64| (f64::from(lifetime) * part) as u32;
        let t2 = t2.filter(|t2| (1..lifetime).contains(t2)).unwrap_or_else(|| part(parts.1));
        let t1 = t1.filter(|t1| (1..t2.max(1)).contains(t1)).unwrap_or_else(|| part(parts.0).min(t2));
        let at = |seconds: u32| granted.saturating_add(seconds.into());
        Self { renew: at(t1), rebind: at(t2), end: at(lifetime) }
    }

    /// What is due at `now`, if the last try was at `tried`.
    pub fn due(&self, now: u64, tried: u64) -> Due {
        if now >= self.end {
            return Due::Ended;
        }
        let (due, begin, next) = if now >= self.rebind {
            (Due::Rebind, self.rebind, self.end)
        } else {
            (Due::Renew, self.renew, self.rebind)
        };
        if now < begin {
            return Due::Nothing(begin);
        }
        if tried < begin {
            return due;
        }
        let again = tried.saturating_add(pause(next.saturating_sub(tried)));
        if now >= again { due } else { Due::Nothing(again.min(next)) }
    }
}

fn pause(left: u64) -> u64 {
    (left / 2).max(PAUSE.min(left / 4)).max(SHORTEST_PAUSE)
}

/// The pauses between unanswered messages: 2 s four times, for a server or a bridge's port that is about to be ready, then
/// 4 s, doubled each time up to `longest`, all of them give or take a quarter.
pub struct Backoff {
    sent: u32,
    longest: Duration,
}

impl Backoff {
    /// The first is next.
    pub fn new(longest: Duration) -> Self {
        Self { sent: 0, longest }
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = 2u64 << self.sent.saturating_sub(3).min(6);
        self.sent += 1;
        let base = Duration::from_secs(seconds).min(self.longest);
        let quarter = base / 4;
        Some(base - quarter + quarter.mul_f64(f64::from(random() % 1000) / 500.0))
    }
}

/// An unpredictable number; from the clock, where the kernel's random numbers are not initialized yet.
pub fn random() -> u32 {
    let mut bytes = [0; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(4) => u32::from_ne_bytes(bytes),
        _ => clock_gettime(ClockId::Boottime).tv_nsec as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: (f64, f64) = (0.5, 0.875);

    #[test]
    fn absent_and_impossible_times_are_parts_of_the_lifetime() {
        let times = Times::new(1000, 80, (None, None), PARTS);
        assert_eq!(times, Times { renew: 1040, rebind: 1070, end: 1080 });
        assert_eq!(Times::new(1000, 80, (Some(0), Some(90)), PARTS), times);
        let given = Times::new(1000, 80, (Some(10), Some(20)), PARTS);
        assert_eq!(given, Times { renew: 1010, rebind: 1020, end: 1080 });
        assert_eq!(Times::new(1000, u32::MAX, (None, None), PARTS).end, u64::MAX);
    }

    #[test]
    fn each_time_is_due_in_its_turn() {
        let times = Times { renew: 100, rebind: 200, end: 300 };
        assert_eq!(times.due(99, 0), Due::Nothing(100));
        assert_eq!(times.due(100, 0), Due::Renew);
        assert_eq!(times.due(101, 100), Due::Nothing(150));
        assert_eq!(times.due(150, 100), Due::Renew);
        assert_eq!(times.due(200, 190), Due::Rebind);
        assert_eq!(times.due(201, 200), Due::Nothing(250));
        assert_eq!(times.due(300, 250), Due::Ended);
    }

    #[test]
    fn a_lease_of_seconds_is_tried_again_within_seconds() {
        let times = Times::new(0, 8, (None, None), PARTS);
        assert_eq!(times.due(4, 0), Due::Renew);
        assert_eq!(times.due(4, 4), Due::Nothing(5));
    }

    #[test]
    fn the_pauses_grow_up_to_the_longest() {
        let seconds: Vec<u64> =
            Backoff::new(Duration::from_secs(16)).take(8).map(|pause| pause.as_secs_f64().round() as u64).collect();
        for (index, (found, base)) in seconds.iter().zip([2, 2, 2, 2, 4, 8, 16, 16]).enumerate() {
            assert!((base * 3 / 4..=base * 5 / 4 + 1).contains(found), "{index}: {seconds:?}");
        }
    }
}
