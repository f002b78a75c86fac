//! The same thing many times at once, as a busy node does it.

use std::thread;

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
