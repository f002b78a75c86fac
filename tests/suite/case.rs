//! A case of the suite, and what its expectation rests on.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use cni_tests::Sandbox;
use cni_tests::verdict::Stop;
use libtest_mimic::{Arguments, Completion, Trial};

/// Where an expectation comes from, so that totals against other plugins can be read fairly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Basis {
    /// The spec, or what the Go plugins have done for years.
    Common,
    /// Go plugins later than Debian 12's (1.1.1) do it.
    Newer,
    /// A sentence of the spec, for which the conformance table has a row.
    Spec,
    /// Deliberately better than the Go plugins (ARCHITECTURE.md says where and why).
    Improved,
}

impl Basis {
    fn name(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Newer => "newer",
            Self::Spec => "spec",
            Self::Improved => "improved",
        }
    }
}

/// One case: a story on a node of its own. It fails by panicking and skips by [`cni_tests::verdict::skip`].
#[derive(Clone)]
pub(crate) struct Case {
    name: String,
    basis: Basis,
    story: Arc<dyn Fn(&Sandbox) + Send + Sync>,
}

impl Case {
    /// The same case on another basis; for tables whose rows differ in it.
    pub(crate) fn based_on(self, basis: Basis) -> Self {
        Self { basis, ..self }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The same case named by its path: that of its theme, and then its own name.
    pub(crate) fn below(self, path: &str) -> Self {
        Self { name: format!("{path}::{}", self.name), ..self }
    }

    /// The same case on a node that is prepared first.
    pub(crate) fn after(self, prepare: impl Fn() + Send + Sync + 'static) -> Self {
        let story = self.story;
        let prepared = move |sandbox: &Sandbox| {
            prepare();
            story(sandbox);
        };
        Self { story: Arc::new(prepared), ..self }
    }
}

/// A case that the spec or long practice asks for.
pub(crate) fn common(name: impl Into<String>, story: impl Fn(&Sandbox) + Send + Sync + 'static) -> Case {
    Case { name: name.into(), basis: Basis::Common, story: Arc::new(story) }
}

/// A case that Debian 12's plugins are too old for.
pub(crate) fn newer(name: impl Into<String>, story: impl Fn(&Sandbox) + Send + Sync + 'static) -> Case {
    Case { basis: Basis::Newer, ..common(name, story) }
}

/// A case for a sentence of the spec.
pub(crate) fn spec(name: impl Into<String>, story: impl Fn(&Sandbox) + Send + Sync + 'static) -> Case {
    Case { basis: Basis::Spec, ..common(name, story) }
}

/// A case in which being better than the Go plugins is the point.
pub(crate) fn improved(name: impl Into<String>, story: impl Fn(&Sandbox) + Send + Sync + 'static) -> Case {
    Case { basis: Basis::Improved, ..common(name, story) }
}

#[derive(Default, Clone, Copy)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

type Counts = Arc<Mutex<BTreeMap<Basis, Count>>>;

/// Runs the cases, prints totals by basis, and says by the exit code whether all of them hold.
///
/// Two cases a processor run at the same time unless `--test-threads` says otherwise: many wait rather than work. Those that
/// wait longest are whole subjects, so the cases of all subjects are mixed.
pub(crate) fn judge(args: &Arguments, dir: &Path, mut cases: Vec<Case>) -> ExitCode {
    let counts = Counts::default();
    if !args.list {
        cases.sort_by_cached_key(|case| {
            let mut hasher = DefaultHasher::new();
            case.name.hash(&mut hasher);
            hasher.finish()
        });
    }
    let trials = cases.into_iter().map(|case| trial(case, dir, Arc::clone(&counts))).collect();
    let mut args = args.clone();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    args.test_threads.get_or_insert(2 * processors);
    let conclusion = libtest_mimic::run(&args, trials);
    if !args.list {
        println!("plugins of {}:", dir.display());
        for (basis, count) in counts.lock().unwrap().iter() {
            let Count { passed, failed, skipped } = count;
            println!("  {:<9} {passed:>4} passed {failed:>4} failed {skipped:>4} skipped", basis.name());
        }
    }
    conclusion.exit_code()
}

fn trial(case: Case, dir: &Path, counts: Counts) -> Trial {
    let dir = dir.to_owned();
    let Case { name, basis, story } = case;
    Trial::ignorable_test(name, move || {
        let ended = Sandbox::run(&dir, |sandbox| story(sandbox));
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(basis).or_default();
        match ended {
            Ok(()) => {
                count.passed += 1;
                Ok(Completion::Completed)
            }
            Err(Stop::Skip(reason)) => {
                count.skipped += 1;
                Ok(Completion::ignored_with(reason))
            }
            Err(Stop::Fail(text)) => {
                count.failed += 1;
                Err(text.into())
            }
        }
    })
    .with_kind(if matches!(basis, Basis::Common | Basis::Spec) { "" } else { basis.name() })
}
