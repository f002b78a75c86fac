//! Rollback: what a verb did so far, undone in reverse order unless it is committed.

use crate::process::deadline;

type Step = Box<dyn FnOnce() -> Result<(), String>>;

/// The steps that undo what has been done.
///
/// Every effect pushes its reverse. When the value is dropped without [`Undo::commit`], all of them run, last first. A
/// step that fails is reported on stderr and does not stop the others. The rollback has a time budget of its own
/// ([`crate::process::deadline`]).
#[derive(Default)]
pub struct Undo {
    steps: Vec<(String, Step)>,
}

impl Undo {
    /// No steps yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `step`, which undoes `what` (words for the report should it fail).
    pub fn push<E: std::fmt::Display>(
        &mut self,
        what: impl Into<String>,
        step: impl FnOnce() -> Result<(), E> + 'static,
    ) {
        self.steps.push((what.into(), Box::new(move || step().map_err(|error| error.to_string()))));
    }

    /// Drops the steps: what was done stays.
    pub fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            deadline::begin_rollback();
        }
        while let Some((what, step)) = self.steps.pop() {
            if let Err(error) = step() {
                eprintln!("rollback: cannot undo {what}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn recorded(commit: bool) -> Vec<&'static str> {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut undo = Undo::new();
        for name in ["first", "second", "third"] {
            let log = Rc::clone(&log);
            undo.push(name, move || {
                log.borrow_mut().push(name);
                if name == "second" { Err("fails") } else { Ok(()) }
            });
        }
        if commit {
            undo.commit();
        } else {
            drop(undo);
        }
        Rc::try_unwrap(log).unwrap().into_inner()
    }

    #[test]
    fn dropped_it_runs_everything_in_reverse_past_a_failure() {
        assert_eq!(recorded(false), ["third", "second", "first"]);
    }

    #[test]
    fn committed_it_runs_nothing() {
        assert!(recorded(true).is_empty());
    }
}
