//! Which addresses are taken, as bits: 512 addresses a record; above them, levels that say which 512 records are full.
//!
//! So the next free address is at most one read up and one read down a level away, in a /24 as in a /8 and a /64, and
//! only what is taken takes room.

use std::io;

use super::table::{Bytes, Table, VALUE, corrupt};
use crate::pool::Address;

/// Bits of the address that a level decides: 512 children.
const STEP: u32 = 9;
const LEVELS: u32 = 128_u32.div_ceil(STEP);
const MASK: u128 = (1 << STEP) - 1;
/// Kinds 1 to `LEVELS` of the table's records.
const FIRST_KIND: u32 = 1;

type Bits = [u8; VALUE];
const EMPTY: Bits = [0; VALUE];
const FULL: Bits = [0xff; VALUE];

/// How many records these addresses need at most; they come in order.
pub(super) fn count<'a>(ips: impl Iterator<Item = &'a Address>) -> u64 {
    let mut last = None;
    let lowest = ips.filter(|ip| last.replace(ip.0 >> STEP) != Some(ip.0 >> STEP)).count() as u64;
    // A record above needs 512 full ones below.
    lowest + lowest / 256 + u64::from(LEVELS)
}

/// Notes the address as taken.
pub(super) fn insert<B: Bytes>(table: &mut Table<B>, ip: Address) -> io::Result<()> {
    let mut position = ip.0;
    for level in 0..LEVELS {
        let mut bits = read(table, level, position >> STEP)?;
        set(&mut bits, position & MASK, true);
        write(table, level, position >> STEP, &bits)?;
        if bits != FULL {
            break;
        }
        position >>= STEP;
    }
    Ok(())
}

/// Notes the address as free.
pub(super) fn remove<B: Bytes>(table: &mut Table<B>, ip: Address) -> io::Result<()> {
    let mut position = ip.0;
    for level in 0..LEVELS {
        let mut bits = read(table, level, position >> STEP)?;
        let was_full = bits == FULL;
        set(&mut bits, position & MASK, false);
        write(table, level, position >> STEP, &bits)?;
        if !was_full {
            break;
        }
        position >>= STEP;
    }
    Ok(())
}

/// The first address from `from` to `to` that isn't taken.
pub(super) fn next_free<B: Bytes>(table: &Table<B>, from: Address, to: Address) -> io::Result<Option<Address>> {
    let mut position = from.0;
    for level in 0..LEVELS {
        let bits = read(table, level, position >> STEP)?;
        if let Some(bit) = first_free(&bits, position & MASK) {
            let free = descend(table, level, position & !MASK | bit)?;
            return Ok(free.filter(|free| free <= &to));
        }
        // Everything here is taken to the end: go on with the next record, one level up.
        position = (position >> STEP) + 1;
        if position > u128::MAX >> (STEP * (level + 1)).min(127) {
            break;
        }
    }
    Ok(None)
}

/// The first free address below a position of `level` that isn't full.
fn descend<B: Bytes>(table: &Table<B>, level: u32, mut position: u128) -> io::Result<Option<Address>> {
    // Above the last address there are only bits that fill up the highest level's record.
    if level > 0 && position > u128::MAX >> (STEP * level) {
        return Ok(None);
    }
    for level in (0..level).rev() {
        let bits = read(table, level, position)?;
        let bit = first_free(&bits, 0).ok_or_else(corrupt)?;
        position = position << STEP | bit;
    }
    Ok(Some(Address(position)))
}

fn read<B: Bytes>(table: &Table<B>, level: u32, record: u128) -> io::Result<Bits> {
    Ok(table.get((kind(level), record))?.unwrap_or(EMPTY))
}

fn write<B: Bytes>(table: &mut Table<B>, level: u32, record: u128, bits: &Bits) -> io::Result<()> {
    if *bits == EMPTY { table.remove((kind(level), record)) } else { table.put((kind(level), record), bits) }
}

fn kind(level: u32) -> u8 {
    (FIRST_KIND + level) as u8
}

fn set(bits: &mut Bits, bit: u128, on: bool) {
    let (byte, mask) = ((bit >> 3) as usize, 1 << (bit & 7));
    if on {
        bits[byte] |= mask;
    } else {
        bits[byte] &= !mask;
    }
}

fn first_free(bits: &Bits, from: u128) -> Option<u128> {
    (from..=MASK).find(|bit| bits[(bit >> 3) as usize] & 1 << (bit & 7) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn reference(taken: &BTreeSet<u128>, from: u128, to: u128) -> Option<u128> {
        (from..=to).find(|ip| !taken.contains(ip))
    }

    proptest! {
        /// Runs of addresses come and go, over several full records; the answer is that of a plain search.
        #[test]
        fn the_next_free_one_is_the_first_that_is_free(
            base in prop_oneof![Just(0xffff_0a00_0000_u128), Just(0xfd00_u128 << 112), Just(u128::MAX - 4000)],
            steps in vec((any::<bool>(), 0u128..3000, 1u128..1500), 1..12),
            asked in vec((0u128..3600, 0u128..3600), 10),
        ) {
            let mut table = Table::with_room_for(100, 0);
            let mut taken = BTreeSet::new();
            for (take, start, length) in steps {
                for ip in start..(start + length).min(3600) {
                    if take {
                        insert(&mut table, Address(base + ip)).unwrap();
                        taken.insert(base + ip);
                    } else {
                        remove(&mut table, Address(base + ip)).unwrap();
                        taken.remove(&(base + ip));
                    }
                }
            }
            for (from, to) in asked {
                let found = next_free(&table, Address(base + from), Address(base + to)).unwrap().map(|ip| ip.0);
                prop_assert_eq!(found, reference(&taken, base + from, base + to));
            }
            for ip in taken {
                remove(&mut table, Address(ip)).unwrap();
            }
            prop_assert_eq!(table.shape().1, 0);
        }
    }

    #[test]
    fn past_the_last_address_there_is_none() {
        let mut table = Table::with_room_for(100, 0);
        let last = Address(u128::MAX);
        assert_eq!(next_free(&table, last, last).unwrap(), Some(last));
        insert(&mut table, last).unwrap();
        assert_eq!(next_free(&table, last, last).unwrap(), None);
    }

    #[test]
    fn two_full_levels_are_skipped_at_once() {
        let mut table = Table::with_room_for(2000, 0);
        let base = 0xfd00_u128 << 112;
        for ip in 0..(512 * 512 + 3) {
            insert(&mut table, Address(base + ip)).unwrap();
        }
        let free = next_free(&table, Address(base), Address(base + (1 << 64))).unwrap();
        assert_eq!(free, Some(Address(base + 512 * 512 + 3)));
    }
}
