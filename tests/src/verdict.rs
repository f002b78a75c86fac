//! How a case ends: passed, failed with a place, or skipped with a reason.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

/// Why a case stopped before its end.
#[derive(Debug)]
pub enum Stop {
    /// The directory under test can't be asked this question (no such plugin, version or verb).
    Skip(String),
    /// An expectation doesn't hold; the text names the place in the source.
    Fail(String),
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics silent and remembers their text and place for [`caught`]. Call once, before the first case.
pub fn install_hook() {
    panic::set_hook(Box::new(|info| {
        let text = text_of(info.payload());
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        LAST_PANIC.with_borrow_mut(|last| *last = Some(format!("{place}: {text}")));
    }));
}

/// Runs `action` and turns a panic into a [`Stop`].
pub fn caught<T>(action: impl FnOnce() -> T) -> Result<T, Stop> {
    panic::catch_unwind(AssertUnwindSafe(action)).map_err(|payload| match payload.downcast::<Stop>() {
        Ok(stop) => *stop,
        Err(payload) => {
            Stop::Fail(LAST_PANIC.with_borrow_mut(Option::take).unwrap_or_else(|| text_of(payload.as_ref())))
        }
    })
}

/// Ends the case as skipped.
pub fn skip(reason: impl Into<String>) -> ! {
    resume(Stop::Skip(reason.into()))
}

/// Carries a [`Stop`] over a thread's end, keeping its text.
pub fn resume(stop: Stop) -> ! {
    panic::resume_unwind(Box::new(stop))
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a text".to_owned()
    }
}
