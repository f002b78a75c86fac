//! After a restart of the node: reservations of containers that can't exist any more.

use super::dir::NetworkDir;
use super::error::{FirstFailure, StoreError};
use super::walked::Walked;

/// Removes the reservations that were made before the node started; notes and things in the way stay.
///
/// To be called once in a boot, before the first reservation in it: a clock that was wrong when the node came up and is
/// set later would make early reservations of this boot look old.
pub(super) fn reclaim(dir: &NetworkDir, walked: &mut Walked) -> Result<(), StoreError> {
    let Some(started) = boot_time() else { return Ok(()) };
    let old = |ip: &str| dir.modified(ip).is_some_and(|modified| modified < started);
    let mut failure = FirstFailure::default();
    walked.taken.retain(|ip, holder| {
        let name = ip.to_string();
        let reserved = holder.as_ref().is_some_and(|holder| holder.key().is_some());
        !(reserved && old(&name) && failure.note(dir.remove(&name)))
    });
    failure.verdict()
}

/// When the node started, in seconds of the epoch (proc(5), `btime`).
fn boot_time() -> Option<i64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
