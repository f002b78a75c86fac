//! A case of the suite, and what its expectation rests on.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cni_tests::Sandbox;
use cni_tests::verdict::Stop;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

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

impl Count {
    /// Counts how a case ended, and says it as the harness wants it.
    fn add(&mut self, ended: Result<(), Stop>) -> Result<Completion, Failed> {
        match ended {
            Ok(()) => {
                self.passed += 1;
                Ok(Completion::Completed)
            }
            Err(Stop::Skip(reason)) => {
                self.skipped += 1;
                Ok(Completion::ignored_with(reason))
            }
            Err(Stop::Fail(text)) => {
                self.failed += 1;
                Err(text.into())
            }
        }
    }
}

/// What the cases that ended came to.
#[derive(Default)]
struct Totals {
    counts: BTreeMap<Basis, Count>,
    /// Cases that failed beside others and passed alone, with what the failure was.
    unsteady: Vec<String>,
}

/// So many unsteady cases are put down to a busy machine; with more, the run fails.
const TOLERATED: usize = 3;

/// Cases hold it shared; the repetition of one that failed holds it alone.
static RUNNING: RwLock<()> = RwLock::new(());

/// Runs the cases, prints totals by basis, and says by the exit code whether all of them hold.
///
/// Two cases a processor run at the same time unless `--test-threads` says otherwise: many wait rather than work. Those that
/// wait longest are whole subjects, so the cases of all subjects are mixed.
///
/// A case that fails is run once more with no other beside it. If it passes then, it is listed as unsteady: a fault of the plugins
/// or of the case that shows now and then, and that needs a look. Up to [`TOLERATED`] of them don't fail the run.
pub(crate) fn judge(args: &Arguments, dir: &Path, mut cases: Vec<Case>) -> ExitCode {
    let totals = Arc::new(Mutex::new(Totals::default()));
    if !args.list {
        cases.sort_by_cached_key(|case| {
            let mut hasher = DefaultHasher::new();
            case.name.hash(&mut hasher);
            hasher.finish()
        });
    }
    let trials = cases.into_iter().map(|case| trial(case, dir, Arc::clone(&totals))).collect();
    let mut args = args.clone();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    args.test_threads.get_or_insert(2 * processors);
    let conclusion = libtest_mimic::run(&args, trials);
    if args.list {
        return conclusion.exit_code();
    }
    let totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
    report(dir, &totals);
    if totals.unsteady.len() > TOLERATED { ExitCode::FAILURE } else { conclusion.exit_code() }
}

fn report(dir: &Path, totals: &Totals) {
    println!("plugins of {}:", dir.display());
    for (basis, count) in &totals.counts {
        let Count { passed, failed, skipped } = count;
        println!("  {:<9} {passed:>4} passed {failed:>4} failed {skipped:>4} skipped", basis.name());
    }
    if !totals.unsteady.is_empty() {
        println!("  unsteady: failed beside others, passed alone ({TOLERATED} are tolerated)");
        totals.unsteady.iter().for_each(|case| println!("  unsteady: {case}"));
    }
}

fn trial(case: Case, dir: &Path, totals: Arc<Mutex<Totals>>) -> Trial {
    let dir = dir.to_owned();
    let kind = if matches!(case.basis, Basis::Common | Basis::Spec) { "" } else { case.basis.name() };
    Trial::ignorable_test(case.name.clone(), move || {
        let run = || Sandbox::run(&dir, |sandbox| (case.story)(sandbox));
        let first = beside_others(run);
        let unsteady = match &first {
            Err(Stop::Fail(text)) if alone(run).is_ok() => Some(format!("{}: {text}", case.name)),
            _ => None,
        };
        let ended = if unsteady.is_some() { Ok(()) } else { first };
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.unsteady.extend(unsteady);
        totals.counts.entry(case.basis).or_default().add(ended)
    })
    .with_kind(kind)
}

fn beside_others<T>(run: impl FnOnce() -> T) -> T {
    let _shared = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
    run()
}

fn alone<T>(run: impl FnOnce() -> T) -> T {
    let _alone = RUNNING.write().unwrap_or_else(PoisonError::into_inner);
    run()
}
