//! The plan: all values that should be set, as data, computed without access to the kernel.

use cni_net::Tbf;

use crate::settings::{EgressDevice, Limit, Settings};

/// How long a queue takes to drain, in milliseconds, beside the burst that is let through.
const LATENCY: u64 = 25;
/// A burst is this long where none is set, in milliseconds: a busy node's timers may be late by some.
const BURST: u64 = 25;
/// A burst is at least so many bytes where none is set: larger packets are cut before they pass, and pieces get lost.
const BURST_MIN: u64 = 64 * 1024;
/// The largest packet before it is cut for the wire, in bytes (`GSO_LEGACY_MAX_SIZE` of include/linux/netdevice.h).
const PACKET_MAX: u32 = 64 * 1024;

/// What an attachment should have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// On the node's end of the pair, which sends what the container receives.
    pub ingress: Option<Shape>,
    /// For what the container sends.
    pub egress: Option<Shape>,
    /// Where that is.
    pub device: EgressDevice,
}

/// A limited rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The limit. Where a burst is configured it is the Go plugin's, digit for digit: its CHECK compares for equality.
    pub tbf: Tbf,
    /// The Go plugin's, which differs where a burst is one that runtimes send for none, or longer than the kernel can count.
    pub of_go: Tbf,
    /// The bytes that may wait, where that is less than the limit's own queue.
    pub queue: Option<u32>,
}

impl Plan {
    /// The limits of these settings.
    pub fn new(settings: &Settings) -> Self {
        let shape = |limit: Option<Limit>| limit.map(Shape::of);
        Self { ingress: shape(settings.ingress), egress: shape(settings.egress), device: settings.device }
    }

    /// True if something is on the node's end of the pair.
    pub fn needs_host(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some() && self.device == EgressDevice::Ifb
    }
}

impl Shape {
    fn of(limit: Limit) -> Self {
        let rate = limit.rate / 8;
        let chosen = (rate.saturating_mul(BURST) / 1000).max(BURST_MIN);
        let burst = saturated(limit.wanted_burst().map_or(chosen, |bits| bits / 8));
        let drained = saturated(rate.saturating_mul(LATENCY) / 1000);
        let tbf = Tbf { rate, buffer: Tbf::buffer_of(rate, burst), limit: drained.saturating_add(burst) };
        let short = drained.saturating_add(burst.min(PACKET_MAX));
        Self { tbf, of_go: of_go(limit), queue: Some(short).filter(|short| *short < tbf.limit) }
    }

    /// True if `found` is this limit, made by either implementation.
    pub fn is(&self, found: &Tbf) -> bool {
        *found == self.tbf || *found == self.of_go
    }
}

fn saturated(number: u64) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// What the Go plugin computes (`buffer` and `limit` in plugins/meta/bandwidth/ifb_creator.go): the same, but of the burst as it
/// is configured, and numbers beyond 32 bits lose their upper bits.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "Go's conversions, on numbers that are not negative"
)]
fn of_go(limit: Limit) -> Tbf {
    let wrapped = |number: f64| number as u64 as u32;
    let (rate, burst) = (limit.rate / 8, (limit.burst / 8) as u32);
    let microseconds = wrapped(f64::from(burst) * 1e6 / rate as f64);
    let buffer = wrapped(f64::from(microseconds) * Tbf::TICKS_PER_MICROSECOND);
    let drained = wrapped(rate as f64 * (LATENCY * 1000) as f64 / 1e6);
    Tbf { rate, buffer, limit: drained.wrapping_add(burst) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rate: u64, burst: u64) -> Shape {
        Shape::of(Limit { rate, burst })
    }

    #[test]
    fn a_configured_burst_is_as_the_go_plugin_has_it() {
        for (rate, burst) in [(8_000_000, 800_000), (123, 456), (10_000_000_000, 80_000_000), (1_000_003, 999_999)] {
            let shape = shape(rate, burst);
            assert_eq!(shape.tbf, shape.of_go, "{rate} {burst}");
        }
        assert_eq!(shape(8_000_000, 800_000).tbf, Tbf { rate: 1_000_000, buffer: 1_562_500, limit: 125_000 });
    }

    #[test]
    fn an_unset_burst_follows_the_rate() {
        // 4 Gbit, which the Go plugin lets through at 10 Mbit/s, as far as its 32 bits go.
        let limited = shape(10_000_000, 0xffff_ffff);
        assert_eq!((limited.tbf.burst(), limited.tbf.limit), (65_535, 31_250 + 65_536));
        assert!(limited.of_go.burst() > 100_000_000, "{}", limited.of_go);
        assert!(limited.is(&limited.of_go) && limited.is(&limited.tbf));
        assert_eq!(shape(10_000_000_000, 0).tbf.burst(), 31_250_000);
        assert!(!limited.is(&shape(10_000_000, 800_000).tbf));
    }

    #[test]
    fn a_long_burst_does_not_make_a_long_queue() {
        assert_eq!(shape(8_000_000, 800_000).queue, Some(25_000 + 65_536));
        assert_eq!(shape(8_000_000, 80_000).queue, None);
    }

    #[test]
    fn a_burst_that_the_kernel_cannot_count_is_cut() {
        let long = shape(8_000, 8_000_000_000);
        assert_eq!(long.tbf.buffer, u32::MAX);
        assert_ne!(long.tbf, long.of_go);
    }
}
