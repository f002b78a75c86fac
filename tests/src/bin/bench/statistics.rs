//! Figures of a measurement, and rows of a table.

use std::time::Duration;

/// Times of one kind by one contestant, sorted.
#[derive(Debug, Clone)]
pub(crate) struct Sample(Vec<Duration>);

impl FromIterator<Duration> for Sample {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort();
        Self(times)
    }
}

impl Sample {
    /// The middle, or between the two that are.
    pub(crate) fn median(&self) -> Duration {
        let times = &self.0;
        let middle = times.len() / 2;
        if times.len() % 2 == 1 { times[middle] } else { times[middle - 1..=middle].iter().sum::<Duration>() / 2 }
    }

    /// So many of a hundred are as short as this, or shorter.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> &[Duration] {
        &self.0
    }

    /// True if nothing was measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The shortest.
    pub(crate) fn least(&self) -> Duration {
        self.0[0]
    }

    /// A tenth is as short as this, or shorter. Where a processor goes to sleep between two packets or has other work, the
    /// median jumps and this doesn't.
    pub(crate) fn decile(&self) -> Duration {
        self.percentile(10)
    }
}

/// How many times as long `this` takes as `other`.
pub(crate) fn ratio(this: Duration, other: Duration) -> f64 {
    this.as_secs_f64() / other.as_secs_f64()
}

/// In milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// In microseconds.
pub(crate) fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Prints a row: what it is about, and a cell for each contestant, each at least as wide as its column's head.
pub(crate) fn row(label: &str, heads: &[String], cells: &[String]) {
    let cell = |(head, cell): (&String, &String)| format!("  {cell:>width$}", width = head.chars().count().max(15));
    println!("{label:<24}{}", heads.iter().zip(cells).map(cell).collect::<String>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let of = |times: &[u64]| times.iter().map(|ms| Duration::from_millis(*ms)).collect::<Sample>();
        assert_eq!(of(&[3, 1, 2]).median(), Duration::from_millis(2));
        assert_eq!(of(&[4, 1, 2, 3]).median(), Duration::from_micros(2500));
        assert_eq!(of(&[7]).decile(), Duration::from_millis(7));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(
            (of(&hundred).decile(), of(&hundred).least()),
            (Duration::from_millis(10), Duration::from_millis(1))
        );
    }
}
