//! Work on many things, on all processors.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::thread::{self, Builder};

/// Fewer are not worth a thread.
const PART_MIN: usize = 64;

/// What `work` makes of `items`, in their order: on as many processors as there are, each with one part of them. Where no thread can be
/// started, the caller's does its part too.
pub fn in_parts<'a, T: Sync, U: Send>(items: &'a [T], work: impl Fn(&'a [T]) -> Vec<U> + Sync) -> Vec<U> {
    let processors =
        if items.len() < 2 * PART_MIN { 1 } else { thread::available_parallelism().map_or(1, NonZeroUsize::get) };
    let part = items.len().div_ceil(processors).max(PART_MIN);
    let (first, rest) = items.split_at(part.min(items.len()));
    thread::scope(|scope| {
        let work = &work;
        let start = |part| (part, Builder::new().spawn_scoped(scope, move || work(part)).ok());
        let others: Vec<_> = rest.chunks(part).map(start).collect();
        let mut done = work(first);
        for (part, other) in others {
            done.extend(match other {
                Some(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                None => work(part),
            });
        }
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once_and_in_order() {
        for length in [0, 1, PART_MIN, 2 * PART_MIN + 1, 1000] {
            let items: Vec<usize> = (0..length).collect();
            assert_eq!(
                in_parts(&items, |part| part.iter().map(|item| item + 1).collect()),
                (1..=length).collect::<Vec<_>>()
            );
        }
    }
}
