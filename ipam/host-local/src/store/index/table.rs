//! A hash table in a file: fixed-size records, open addressing, linear probing, no deletion marks.
//!
//! A look-up is one read, a change one write, whatever the number of records. Nothing in it is trusted to be well-formed:
//! whatever the file says, a look-up ends, within the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The length of a record's value.
pub(super) const VALUE: usize = 64;
/// Kind, padding, key, value. A kind of 0 is a free slot, so a hole in the file is free slots.
const RECORD: usize = 8 + 16 + VALUE;
/// Slots read at once: almost every look-up ends within them.
const WINDOW: u64 = 8;
/// A table is replaced by a larger one when more than 3 of 4 slots are in use.
const FULL: (u64, u64) = (3, 4);
const SMALLEST: u64 = 512;

/// Where a table's bytes are.
pub(super) trait Bytes {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

impl Bytes for File {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
}

/// For a table that is built as a whole and written once.
impl Bytes for Vec<u8> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| corrupt())?;
        out.copy_from_slice(self.get(start..start + out.len()).ok_or_else(corrupt)?);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| corrupt())?;
        self.get_mut(start..start + bytes.len()).ok_or_else(corrupt)?.copy_from_slice(bytes);
        Ok(())
    }
}

pub(super) fn corrupt() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the index contradicts itself")
}

/// Name of a record: what kind it is (not 0), and which of that kind.
pub(super) type Key = (u8, u128);

type Record = [u8; RECORD];

/// The table over its bytes, which begin at `offset`.
#[derive(Debug)]
pub(super) struct Table<B> {
    pub(super) bytes: B,
    offset: u64,
    /// A power of two.
    slots: u64,
    used: u64,
}

impl Table<Vec<u8>> {
    /// An empty table in memory with room for `records`, at `offset` in its bytes.
    pub(super) fn with_room_for(records: u64, offset: u64) -> Self {
        let slots = records.saturating_mul(2).max(SMALLEST).next_power_of_two();
        let size = offset + slots * RECORD as u64;
        Self { bytes: vec![0; usize::try_from(size).unwrap_or(usize::MAX)], offset, slots, used: 0 }
    }
}

impl<B: Bytes> Table<B> {
    /// A table that exists already. Refuses a number of slots that can't be.
    pub(super) fn existing(bytes: B, offset: u64, slots: u64, used: u64) -> io::Result<Self> {
        if !slots.is_power_of_two() || !(SMALLEST..=1 << 40).contains(&slots) || used > slots {
            return Err(corrupt());
        }
        Ok(Self { bytes, offset, slots, used })
    }

    /// The number of slots and of those in use: what [`Table::existing`] wants to know.
    pub(super) fn shape(&self) -> (u64, u64) {
        (self.slots, self.used)
    }

    /// True if another record might make look-ups slow.
    pub(super) fn is_full(&self) -> bool {
        self.used * FULL.1 >= self.slots * FULL.0
    }

    pub(super) fn get(&self, key: Key) -> io::Result<Option<[u8; VALUE]>> {
        Ok(self.find(key)?.1.map(|record| value_of(&record)))
    }

    /// Sets a record, new or not.
    pub(super) fn put(&mut self, key: Key, value: &[u8; VALUE]) -> io::Result<()> {
        let (slot, found) = self.find(key)?;
        if found.is_none() {
            if self.is_full() {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "the index is full"));
            }
            self.used += 1;
        }
        let mut record = [0; RECORD];
        record[0] = key.0;
        record[8..24].copy_from_slice(&key.1.to_be_bytes());
        record[24..].copy_from_slice(value);
        self.write(slot, &record)
    }

    /// Removes a record, if it is there. What follows moves up, so that probing never crosses a gap.
    pub(super) fn remove(&mut self, key: Key) -> io::Result<()> {
        let (mut gap, found) = self.find(key)?;
        if found.is_none() {
            return Ok(());
        }
        let mut slot = gap;
        for _ in 0..self.slots {
            slot = (slot + 1) & (self.slots - 1);
            let record = self.read(slot)?;
            let Some(key) = key_of(&record) else { break };
            // It may fill the gap if probing for it, from its home on, comes by there.
            let home = self.home(key);
            if slot.wrapping_sub(home) & (self.slots - 1) >= slot.wrapping_sub(gap) & (self.slots - 1) {
                self.write(gap, &record)?;
                gap = slot;
            }
        }
        self.used = self.used.saturating_sub(1);
        self.write(gap, &[0; RECORD])
    }

    /// The slot of the record and the record; or the free slot where it would go.
    fn find(&self, key: Key) -> io::Result<(u64, Option<Record>)> {
        let home = self.home(key);
        for start in (0..self.slots).step_by(WINDOW as usize) {
            let start = (home + start) & (self.slots - 1);
            let mut window = [0; RECORD * WINDOW as usize];
            // The last slots of the file are read on their own; the window goes on at the first.
            let count = WINDOW.min(self.slots - start);
            let (here, rest) = window.split_at_mut(RECORD * count as usize);
            self.bytes.read_at(self.position(start), here)?;
            if !rest.is_empty() {
                self.bytes.read_at(self.position(0), rest)?;
            }
            for (slot, record) in (start..).zip(window.chunks_exact(RECORD)) {
                let record: Record = record.try_into().map_err(|_| corrupt())?;
                let slot = slot & (self.slots - 1);
                match key_of(&record) {
                    None => return Ok((slot, None)),
                    Some(found) if found == key => return Ok((slot, Some(record))),
                    Some(_) => {}
                }
            }
        }
        Err(corrupt())
    }

    fn home(&self, key: Key) -> u64 {
        // Fibonacci hashing: the high half of the product depends on every bit of the key. Neighbouring blocks of
        // addresses, whose keys are consecutive, are spread.
        const GOLDEN: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let mixed = (key.1 ^ u128::from(key.0) << 120).wrapping_mul(GOLDEN);
        ((mixed >> 64) as u64 >> 8) & (self.slots - 1)
    }

    fn position(&self, slot: u64) -> u64 {
        self.offset + slot * RECORD as u64
    }

    fn read(&self, slot: u64) -> io::Result<Record> {
        let mut record = [0; RECORD];
        self.bytes.read_at(self.position(slot), &mut record)?;
        Ok(record)
    }

    fn write(&mut self, slot: u64, record: &Record) -> io::Result<()> {
        let position = self.position(slot);
        self.bytes.write_at(position, record)
    }
}

fn key_of(record: &Record) -> Option<Key> {
    let key: [u8; 16] = record[8..24].try_into().ok()?;
    (record[0] != 0).then(|| (record[0], u128::from_be_bytes(key)))
}

fn value_of(record: &Record) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    value.copy_from_slice(&record[24..]);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Whatever is put and removed, the table answers as a map would. The keys are few, so that they meet.
        #[test]
        fn it_is_a_map(steps in vec((any::<bool>(), 1u8..3, 0u128..200), 0..600)) {
            let mut table = Table::with_room_for(100, 128);
            let mut map = BTreeMap::new();
            for (n, (put, kind, key)) in steps.into_iter().enumerate() {
                let key = (kind, key << 100);
                if put && !table.is_full() {
                    let value = [n as u8; VALUE];
                    table.put(key, &value).unwrap();
                    map.insert(key, value);
                } else {
                    table.remove(key).unwrap();
                    map.remove(&key);
                }
                prop_assert_eq!(table.shape().1, map.len() as u64);
            }
            for kind in 1..3 {
                for key in 0..200 {
                    let key = (kind, key << 100);
                    prop_assert_eq!(table.get(key).unwrap(), map.get(&key).copied());
                }
            }
        }

        /// Arbitrary bytes end in an answer or an error, not in a panic or an endless loop.
        #[test]
        fn bytes_of_any_kind_are_survived(seed in vec(any::<u8>(), 1..4000), key in any::<u128>(), slots in any::<u64>()) {
            prop_assert!(Table::existing(Vec::new(), 0, slots, 0).is_err() || slots.is_power_of_two());
            let bytes: Vec<u8> = seed.iter().copied().cycle().take(512 * RECORD).collect();
            let mut table = Table::existing(bytes, 0, 512, 7).unwrap();
            let _ = table.get((1, key));
            let _ = table.put((1, key), &[1; VALUE]);
            let _ = table.remove((1, key));
        }
    }
}
