//! Which address comes next: a pure decision over a range set and what is taken.

use crate::address::Address;
use crate::range::{Range, RangeSet};

/// What is taken, as far as the allocator asks.
pub(crate) trait Taken {
    /// Why the question can't be answered.
    type Error;

    /// The first address from `from` to `to`, both included, that nobody holds. Constant cost, whatever the distance.
    fn next_free(&mut self, from: Address, to: Address) -> Result<Option<Address>, Self::Error>;
}

/// The next free address of `set` and its range, round robin: the first one after `last`, through the following
/// ranges and round to `last` itself; from the set's start if `last` isn't in the set. Never the gateway of the
/// address's own range.
pub(crate) fn next<'s, T: Taken>(
    set: &'s RangeSet,
    last: Option<Address>,
    taken: &mut T,
) -> Result<Option<(Address, &'s Range)>, T::Error> {
    for (range, from, to) in round(set.ranges(), last) {
        if let Some(ip) = next_in(range, from, to, taken)? {
            return Ok(Some((ip, range)));
        }
    }
    Ok(None)
}

/// The set's addresses in the order of the round, as stretches: range, first and last address.
fn round(ranges: &[Range], last: Option<Address>) -> Vec<(&Range, Address, Address)> {
    let whole = |range| -> (&Range, Address, Address) { (range, range.start, range.end) };
    let position = last.and_then(|last| Some((ranges.iter().position(|range| range.contains(last))?, last)));
    let Some((index, last)) = position else { return ranges.iter().map(whole).collect() };
    let current = &ranges[index];
    let mut stretches = Vec::with_capacity(ranges.len() + 1);
    if last < current.end {
        stretches.push((current, last.after(1), current.end));
    }
    stretches.extend(ranges[index + 1..].iter().chain(&ranges[..index]).map(whole));
    stretches.push((current, current.start, last));
    stretches
}

fn next_in<T: Taken>(range: &Range, from: Address, to: Address, taken: &mut T) -> Result<Option<Address>, T::Error> {
    match taken.next_free(from, to)? {
        Some(ip) if ip == range.gateway && ip < to => taken.next_free(ip.after(1), to),
        found => Ok(found.filter(|ip| *ip != range.gateway)),
    }
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
