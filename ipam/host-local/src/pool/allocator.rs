//! Which address comes next: a pure decision over a range set and what is taken.

use crate::pool::Address;
use crate::pool::{Range, RangeSet};

/// Which addresses are taken, as far as the allocator needs to know.
pub(crate) trait Taken {
    /// Why the question can't be answered.
    type Error;

    /// The first address from `from` to `to`, both included, that isn't taken. Constant cost, whatever the distance.
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
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::config::RangeKeys;

    struct Model(BTreeSet<Address>);

    impl Taken for Model {
        type Error = Infallible;

        fn next_free(&mut self, from: Address, to: Address) -> Result<Option<Address>, Infallible> {
            Ok((from.0..=to.0).map(Address).find(|ip| !self.0.contains(ip)))
        }
    }

    fn range(subnet: &str, gateway: u8) -> RangeKeys {
        RangeKeys { subnet: subnet.into(), gateway: format!("10.0.0.{gateway}"), ..RangeKeys::default() }
    }

    fn address(host: u8) -> Address {
        std::net::IpAddr::from([10, 0, 0, host]).into()
    }

    /// The order in which the Go plugin tries the addresses: from one after the last to the end, through the ranges, round
    /// to the last; each range without its own gateway.
    fn order(set: &RangeSet, last: Option<Address>) -> Vec<Address> {
        let all: Vec<(Address, bool)> = set
            .ranges()
            .iter()
            .flat_map(|range| (range.start.0..=range.end.0).map(Address).map(|ip| (ip, ip != range.gateway)))
            .collect();
        let first = last.and_then(|last| all.iter().position(|(ip, _)| *ip == last)).map_or(0, |at| at + 1);
        let rotated = all.iter().cycle().skip(first).take(all.len());
        rotated.filter(|(_, usable)| *usable).map(|(ip, _)| *ip).collect()
    }

    proptest! {
        /// Takes the first free one of the order, finds the only free one, and none only when all are taken.
        #[test]
        fn it_takes_the_first_free_one_of_the_round(
            gateways in (0u8..40, 0u8..40),
            last in proptest::option::of(0u8..40),
            free in prop_oneof![proptest::collection::btree_set(0u8..40, 0..3), proptest::collection::btree_set(0u8..40, 0..40)],
        ) {
            // Out of order on purpose: the ranges are used as they are written.
            let set = RangeSet::resolve(&[range("10.0.0.16/28", gateways.0), range("10.0.0.0/29", gateways.1)]).unwrap();
            let mut taken = Model((0..=40).filter(|host| !free.contains(host)).map(address).collect());
            let last = last.map(address);
            let expected = order(&set, last).into_iter().find(|ip| !taken.0.contains(ip));
            let Ok(found) = next(&set, last, &mut taken);
            prop_assert_eq!(found.map(|(ip, _)| ip), expected);
            if let Some((ip, range)) = found {
                prop_assert!(range.contains(ip) && ip != range.gateway && !taken.0.contains(&ip));
            }
        }

        /// Filling a set gives every address once, as many as it says it has.
        #[test]
        fn a_set_is_filled_to_the_last_address(gateways in (0u8..40, 0u8..40), start in proptest::option::of(0u8..40)) {
            let set = RangeSet::resolve(&[range("10.0.0.0/29", gateways.0), range("10.0.0.16/28", gateways.1)]).unwrap();
            let (mut taken, mut last) = (Model(BTreeSet::new()), start.map(address));
            while let Ok(Some((ip, _))) = next(&set, last, &mut taken) {
                prop_assert!(taken.0.insert(ip), "{} was given twice", ip);
                last = Some(ip);
            }
            prop_assert_eq!(taken.0.len() as u128, set.size());
        }
    }
}
