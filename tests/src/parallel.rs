//! What happens at the same time: calls at once, as on a busy node, and waiting for what the kernel or another process does.

use std::thread;
use std::time::{Duration, Instant};

use crate::verdict;

/// Runs `action` for 0 up to `count` in threads at the same time; the first panic of one of them is handed on.
pub fn at_once<T: Send>(count: usize, action: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let action = &action;
    thread::scope(|scope| {
        let one = |n| scope.spawn(move || verdict::caught(|| action(n)));
        let threads: Vec<_> = (0..count).map(one).collect();
        let ended = threads.into_iter().map(|t| t.join().expect("panics are caught inside"));
        ended.map(|end| end.unwrap_or_else(|stop| verdict::resume(stop))).collect()
    })
}

/// Waits until it holds, 30 s at most.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        thread::sleep(Duration::from_millis(20));
    }
}
