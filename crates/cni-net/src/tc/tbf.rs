//! The token bucket filter's settings on the wire: `struct tc_tbf_qopt` and `TCA_TBF_*` of `include/uapi/linux/pkt_sched.h`, which
//! netlink-packet-route lacks.

use std::fmt;

use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_route::tc::TcOption;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;

/// `struct tc_tbf_qopt`: two `struct tc_ratespec` of 12 bytes, whose last four are the rate, then limit, buffer and mtu.
const QOPT_LENGTH: usize = 36;
const RATE_AT: usize = 8;
const LIMIT_AT: usize = 24;
const BUFFER_AT: usize = 28;

/// A token bucket: lets packets pass at `rate` on average, with a burst of `buffer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes a second.
    pub rate: u64,
    /// The bucket's size, as the time that it takes to fill it, in ticks of 64 ns.
    pub buffer: u32,
    /// The longest queue, in bytes; what comes beyond it is dropped.
    pub limit: u32,
}

impl Tbf {
    /// The unit of [`Tbf::buffer`]: the kernel shifts nanoseconds by six (`PSCHED_SHIFT` in `include/net/pkt_sched.h`).
    pub const TICKS_PER_MICROSECOND: f64 = 1000.0 / 64.0;

    /// The buffer of `burst` bytes at `rate` bytes a second, in whole microseconds; as much as fits, which is 274 s.
    pub fn buffer_of(rate: u64, burst: u32) -> u32 {
        let microseconds = (f64::from(burst) * 1e6 / float(rate)).floor();
        saturated(microseconds * Self::TICKS_PER_MICROSECOND)
    }

    /// How many bytes may pass at once, rounded as the buffer is.
    pub fn burst(&self) -> u64 {
        let bytes = f64::from(self.buffer) / Self::TICKS_PER_MICROSECOND / 1e6 * float(self.rate);
        whole(bytes.round())
    }

    /// `TCA_OPTIONS`.
    pub(super) fn options(&self) -> Vec<TcOption> {
        let mut qopt = [0; QOPT_LENGTH];
        let mut put = |at: usize, value: u32| {
            if let Some(bytes) = qopt.get_mut(at..at + 4) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        };
        // 32 bits are 34 Gbit/s; a greater rate has its own attribute.
        put(RATE_AT, u32::try_from(self.rate).unwrap_or(u32::MAX));
        put(LIMIT_AT, self.limit);
        put(BUFFER_AT, self.buffer);
        let mut options = vec![TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, qopt.to_vec()))];
        if u32::try_from(self.rate).is_err() {
            let rate = self.rate.to_ne_bytes().to_vec();
            options.push(TcOption::Other(DefaultNla::new(TCA_TBF_RATE64, rate)));
        }
        options
    }

    /// From the content of `TCA_OPTIONS`; `None` if it lacks the parameters.
    pub(super) fn parse(options: &[u8]) -> Option<Self> {
        let (mut qopt, mut rate64) = (None, None);
        for attribute in NlasIterator::new(options).filter_map(Result::ok) {
            match attribute.kind() {
                TCA_TBF_PARMS => qopt = Some(attribute.value().to_vec()),
                TCA_TBF_RATE64 => rate64 = attribute.value().try_into().ok().map(u64::from_ne_bytes),
                _ => {}
            }
        }
        let qopt = qopt?;
        let get = |at: usize| Some(u32::from_ne_bytes(qopt.get(at..at + 4)?.try_into().ok()?));
        Some(Self { rate: rate64.unwrap_or(get(RATE_AT)?.into()), buffer: get(BUFFER_AT)?, limit: get(LIMIT_AT)? })
    }
}

/// `rate 8000000bit burst 100000b limit 125000b`, as `tc qdisc add` takes it.
impl fmt::Display for Tbf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate {}bit burst {}b limit {}b", u128::from(self.rate) * 8, self.burst(), self.limit)
    }
}

#[allow(clippy::cast_precision_loss, reason = "53 bits are 72 petabits a second")]
fn float(number: u64) -> f64 {
    number as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and `as` saturates")]
fn whole(number: f64) -> u64 {
    number as u64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and `as` saturates")]
fn saturated(number: f64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, Nla};

    fn bytes(options: &[TcOption]) -> Vec<u8> {
        let mut bytes = vec![0; options.buffer_len()];
        options.emit(&mut bytes);
        bytes
    }

    #[test]
    fn settings_survive_the_wire() {
        for rate in [1_000_000, u64::from(u32::MAX), 12_500_000_000] {
            let tbf = Tbf { rate, buffer: Tbf::buffer_of(rate, 100_000), limit: 125_000 };
            assert_eq!(Tbf::parse(&bytes(&tbf.options())), Some(tbf));
        }
        assert_eq!(Tbf::parse(&[]), None);
        assert_eq!(Tbf::parse(&[8, 0, 1, 0, 1, 2, 3, 4]), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_parameters_are_where_the_kernel_reads_them() {
        let options = Tbf { rate: 0x0102_0304, buffer: 0x0506_0708, limit: 0x090a_0b0c }.options();
        assert_eq!((options.len(), options[0].value_len()), (1, 36));
        let mut expected = [0; 40];
        expected[..4].copy_from_slice(&[40, 0, 1, 0]);
        expected[12..16].copy_from_slice(&[4, 3, 2, 1]);
        expected[28..36].copy_from_slice(&[0x0c, 0x0b, 0x0a, 9, 8, 7, 6, 5]);
        assert_eq!(bytes(&options), expected);
    }

    #[test]
    fn it_prints_itself_as_tc_takes_it() {
        let tbf = Tbf { rate: 1_000_000, buffer: Tbf::buffer_of(1_000_000, 100_000), limit: 125_000 };
        assert_eq!((tbf.buffer, tbf.to_string().as_str()), (1_562_500, "rate 8000000bit burst 100000b limit 125000b"));
    }
}
