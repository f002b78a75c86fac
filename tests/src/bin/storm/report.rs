//! What a storm counts, what it finds, and how both are printed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// The kinds of what must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Left after DEL or GC.
    Leak,
    /// Nothing was left after DEL or GC, and later something was.
    LateCommit,
    /// An address, MAC address or host port is held twice.
    Duplicate,
    /// A living attachment lost something.
    Lost,
    /// A signal that wasn't sent, or another exit code than 0 and 1.
    Abort,
    /// stdout isn't what the specification asks for.
    NotJson,
    /// No end within the deadline.
    Timeout,
    /// An error in fair weather whose reason isn't one of those that the storm brings about.
    Refused,
    /// CHECK or STATUS complains in fair weather.
    Alarm,
}

impl Class {
    fn text(self) -> &'static str {
        match self {
            Self::Leak => "leak: something of an attachment stays after its DEL or GC",
            Self::LateCommit => "late commit: a child of a killed plugin went on after the DEL or GC",
            Self::Duplicate => "duplicate: two attachments have one address, MAC address or host port",
            Self::Lost => "lost: a living attachment lacks what is its own",
            Self::Abort => "abort: a plugin ended by a signal or with an exit code that is neither 0 nor 1",
            Self::NotJson => {
                "not JSON: stdout is not one result, or one error with code and msg, or empty where it must be"
            }
            Self::Timeout => "timeout: a plugin did not end within its deadline",
            Self::Refused => "refused: an ADD, DEL or GC failed without a reason that the storm gave it",
            Self::Alarm => "alarm: CHECK or STATUS complains about what is in order",
        }
    }
}

/// One thing that must not happen.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) class: Class,
    /// What was seen.
    pub(crate) what: String,
    /// The calls that led there, oldest first, as shell lines.
    pub(crate) history: Vec<String>,
}

/// How one call of a plugin ended, for the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// An error object for a reason that is expected.
    Refused,
    /// An error object under limits, injected faults or in a dying namespace, or by another implementation.
    Failed,
    Killed,
    /// One of the findings.
    Bad,
}

#[derive(Debug, Default)]
struct Row {
    counts: [usize; 5],
    /// Of calls in fair weather, in microseconds.
    times: Vec<u32>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<String, Row>,
    events: BTreeMap<&'static str, usize>,
    findings: BTreeMap<(Class, String), (usize, Finding)>,
}

/// Shared by all threads of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Report(Mutex<Inner>);

impl Report {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("no thread panics while it holds the lock")
    }

    /// A call of a plugin; `time` only if nothing disturbed it.
    pub(crate) fn call(&self, verb: &str, outcome: Outcome, time: Option<Duration>) {
        let mut inner = self.inner();
        let row = inner.rows.entry(verb.to_owned()).or_default();
        row.counts[outcome as usize] += 1;
        row.times.extend(time.map(|t| u32::try_from(t.as_micros()).unwrap_or(u32::MAX)));
    }

    /// A kill, a limit, a namespace that died.
    pub(crate) fn event(&self, what: &'static str) {
        *self.inner().events.entry(what).or_default() += 1;
    }

    /// Findings of one class whose texts differ in numbers only are one finding, with the first one's history.
    pub(crate) fn finding(&self, finding: Finding) {
        let shape: String = finding.what.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(80).collect();
        let mut inner = self.inner();
        inner.findings.entry((finding.class, shape)).or_insert_with(|| (0, finding)).0 += 1;
    }

    /// True if a finding of the class is there.
    pub(crate) fn has(&self, class: Class) -> bool {
        self.inner().findings.keys().any(|(found, _)| *found == class)
    }

    /// Prints the table, the events and the findings; the number of findings.
    pub(crate) fn print(&self) -> usize {
        let inner = self.inner();
        println!(
            "{:<8}{:>8}{:>8}{:>9}{:>8}{:>8}{:>6}{:>10}{:>10}{:>10}",
            "verb", "calls", "ok", "refused", "failed", "killed", "bad", "p50 ms", "p99 ms", "max ms"
        );
        for (verb, row) in &inner.rows {
            let [ok, refused, failed, killed, bad] = row.counts;
            let all: usize = row.counts.iter().sum();
            print!("{verb:<8}{all:>8}{ok:>8}{refused:>9}{failed:>8}{killed:>8}{bad:>6}");
            let mut times = row.times.clone();
            times.sort_unstable();
            for share in [50, 99, 100] {
                let at = (times.len() * share / 100).min(times.len().saturating_sub(1));
                print!("{:>10.1}", times.get(at).map_or(f64::NAN, |t| f64::from(*t) / 1000.0));
            }
            println!();
        }
        let events: Vec<_> = inner.events.iter().map(|(what, count)| format!("{count} {what}")).collect();
        println!("{}", events.join(", "));
        let count = |classes: &[Class]| -> usize {
            inner.findings.iter().filter(|((c, _), _)| classes.contains(c)).map(|(_, (n, _))| n).sum()
        };
        println!(
            "leaks {}, late commits {}, duplicates {}, losses {}, aborts {}, not JSON {}, timeouts {}, refusals {}, alarms {}",
            count(&[Class::Leak]),
            count(&[Class::LateCommit]),
            count(&[Class::Duplicate]),
            count(&[Class::Lost]),
            count(&[Class::Abort]),
            count(&[Class::NotJson]),
            count(&[Class::Timeout]),
            count(&[Class::Refused]),
            count(&[Class::Alarm]),
        );
        for ((class, _), (times, finding)) in &inner.findings {
            println!("\n{} ({times} times)\n  {}", class.text(), finding.what);
            finding.history.iter().for_each(|line| println!("    {line}"));
        }
        inner.findings.len()
    }
}
