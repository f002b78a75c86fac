//! The stdout that the result goes to, and whether the process was started with one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// What [`look`] found.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks whether stdout is closed, before `main`, where it is too late. Rust's runtime opens `/dev/null` in the place of a closed
/// descriptor 0 to 2, so that no file gets its number (`library/std/src/sys/pal/unix/mod.rs`, `sanitize_standard_fds`), and
/// that file cannot be distinguished from a `/dev/null` that the caller gave. Go's runtime does the same.
#[ctor::ctor]
fn look() {
    CLOSED.store(rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err(), Ordering::Relaxed);
}

/// This process's stdout. Where it was closed when the process started, every write fails, so that an ADD whose
/// result cannot be delivered is rolled back.
pub(crate) fn open() -> Box<dyn Write> {
    if CLOSED.load(Ordering::Relaxed) {
        return Box::new(Closed);
    }
    // Without std's buffer: what could not be written stays there, and would come out before the error object.
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(io::stdout()),
    }
}

/// A stdout that isn't there.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "it is closed"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
