//! Starting a process and waiting for its end, with a deadline: tools and other plugins.
//!
//! No thread is needed, so that a node that has none to give is no obstacle.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::process::deadline::{self, Polling};
use crate::process::procfs::Process;

/// How often the end is polled for where there is no pidfd (before Linux 5.3).
const LOOK: Duration = Duration::from_millis(2);
/// How long a process that was killed may take to end.
const DYING: Duration = Duration::from_secs(1);
/// How long a process is started again if there is no room for one, or its executable is being replaced.
const STARTING: Duration = Duration::from_secs(5);

/// Set when a killed process hasn't ended: its effects may still come.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// True if a child that was killed is still there.
pub(crate) fn any_abandoned() -> bool {
    ABANDONED.load(Ordering::Relaxed)
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started or read.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It did not end in time.
    #[error("{processes} did not end within {seconds} s and was killed")]
    Hung {
        /// The process, and those that it had started.
        processes: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// A running process. Dropped, it is waited for, within the same limit: its effects must be complete before they can be undone.
pub struct Child {
    inner: std::process::Child,
    ended: Option<ExitStatus>,
    input: Vec<u8>,
    output: [Vec<u8>; 2],
    begin: Instant,
    limit: Duration,
}

impl Child {
    /// Starts `command`, whose stdout and stderr are read, and returns while it runs. `input` goes to its stdin; without any,
    /// stdin is what `command` says. It may run for `limit`, its start included, and not beyond the end of the call's budget.
    ///
    /// While the node has no room for a process, and while the executable is being replaced, it is tried again for some
    /// seconds.
    pub fn start(mut command: Command, input: Option<Vec<u8>>, limit: Duration) -> Result<Self, ChildError> {
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let begin = Instant::now();
        let inner = spawn(&mut command, limit)?;
        let mut child =
            Self { inner, ended: None, input: input.unwrap_or_default(), output: Default::default(), begin, limit };
        if let Some(pipe) = &child.inner.stdin {
            dont_wait(pipe)?;
        }
        child.write();
        Ok(child)
    }

    /// Waits for the end and returns what it printed.
    pub fn finish(mut self) -> Result<Output, ChildError> {
        let status = self.wait()?;
        Ok(self.printed(status))
    }

    /// Waits until it prints something on stdout, and lets it run on: `None`. If it ends without, returns what it printed on stderr.
    pub(crate) fn run_on_once_it_prints(mut self) -> Result<Option<Output>, ChildError> {
        let process = self.pidfd();
        loop {
            let ended = self.step(process.as_ref())?;
            if !self.output[0].is_empty() {
                // Not to be waited for.
                self.limit = Duration::ZERO;
                return Ok(None);
            }
            if let Some(status) = ended {
                return Ok(Some(self.printed(status)));
            }
        }
    }

    fn printed(&mut self, status: ExitStatus) -> Output {
        let [stdout, stderr] = std::mem::take(&mut self.output);
        Output { status, stdout, stderr }
    }

    fn wait(&mut self) -> Result<ExitStatus, ChildError> {
        let process = self.pidfd();
        loop {
            if let Some(status) = self.step(process.as_ref())? {
                return Ok(status);
            }
        }
    }

    fn pidfd(&self) -> Option<OwnedFd> {
        let id = i32::try_from(self.inner.id()).ok().and_then(Pid::from_raw)?;
        pidfd_open(id, PidfdFlags::empty()).ok()
    }

    /// Returns the status of one that has ended, else waits until it does something. One whose time is over is killed.
    fn step(&mut self, process: Option<&OwnedFd>) -> Result<Option<ExitStatus>, ChildError> {
        // Before reading: what it printed before its end is in the pipes then. What its own children print later isn't waited for.
        if let Some(status) = self.inner.try_wait()? {
            self.ended = Some(status);
            self.read_rest()?;
            return Ok(Some(status));
        }
        let left = deadline::at_most(self.limit.saturating_sub(self.begin.elapsed()));
        if left.is_zero() {
            return Err(self.end());
        }
        self.poll(process, left)?;
        Ok(None)
    }

    /// Waits for something to write, to read, or the end.
    fn poll(&mut self, process: Option<&OwnedFd>, left: Duration) -> Result<(), ChildError> {
        let writable = self.inner.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT));
        let stdout = self.inner.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let stderr = self.inner.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let end = process.map(|process| PollFd::new(process, PollFlags::IN));
        let timeout = if process.is_some() { left } else { left.min(LOOK) };
        let mut all: Vec<PollFd<'_>> = [stdout, stderr, writable, end].into_iter().flatten().collect();
        match poll(&mut all, Timespec::try_from(timeout).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        drop(all);
        self.write();
        self.read()
    }

    /// Writes as much as the pipe takes, and closes it in the end. A process that ends without reading (EPIPE) is judged by
    /// what it says.
    fn write(&mut self) {
        let Some(pipe) = &mut self.inner.stdin else { return };
        while !self.input.is_empty() {
            match pipe.write(&self.input) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.inner.stdin = None;
    }

    fn read(&mut self) -> Result<(), ChildError> {
        let [stdout, stderr] = &mut self.output;
        read_now(&mut self.inner.stdout, stdout)?;
        Ok(read_now(&mut self.inner.stderr, stderr)?)
    }

    fn read_rest(&mut self) -> Result<(), ChildError> {
        self.inner.stdin = None;
        self.read()
    }

    /// Kills it, and what it has started: a script's tool would go on.
    fn end(&mut self) -> ChildError {
        let tree = Process::tree(self.inner.id());
        let seconds = self.begin.elapsed().as_secs();
        let processes = tree.iter().rev().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tree.iter().for_each(|process| process.kill_if(|_| true));
        let _ = self.inner.kill();
        let dying = Instant::now();
        while dying.elapsed() < DYING {
            if let Ok(Some(status)) = self.inner.try_wait() {
                self.ended = Some(status);
                break;
            }
            std::thread::sleep(LOOK);
        }
        if self.ended.is_none() {
            ABANDONED.store(true, Ordering::Relaxed);
            // Not to be waited for again.
            self.limit = Duration::ZERO;
        }
        ChildError::Hung { processes, seconds }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() && !self.limit.is_zero() {
            let _ = self.wait();
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("id", &self.inner.id()).finish_non_exhaustive()
    }
}

/// Starts `command` and waits for its end: [`Child::start`].
pub fn run(command: Command, limit: Duration) -> Result<Output, ChildError> {
    Child::start(command, None, limit)?.finish()
}

fn spawn(command: &mut Command, limit: Duration) -> io::Result<std::process::Child> {
    let polling = Polling::new(STARTING.min(limit));
    loop {
        match command.spawn() {
            Err(error) if may_pass(&error) && polling.pause() => {}
            other => return other,
        }
    }
}

/// No process or memory to be had (fork(2)), or an executable that is being replaced.
fn may_pass(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ExecutableFileBusy
        || matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::NOMEM))
}

fn dont_wait(pipe: &impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?)
}

/// Reads what is in the pipe, and closes it at its end.
fn read_now<P: Read + AsFd>(pipe: &mut Option<P>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    let mut buffer = [0; 16 * 1024];
    loop {
        let mut ready = [PollFd::new(open, PollFlags::IN)];
        match poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match open.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => into.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    *pipe = None;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn much_goes_in_and_out() {
        let input: Vec<u8> = (0..1_000_000u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
        let child = Child::start(shell("tee /dev/stderr"), Some(input.clone()), deadline::TOOL).unwrap();
        let output = child.finish().unwrap();
        assert!(output.status.success() && output.stdout == input && output.stderr == input);
    }

    #[test]
    fn it_may_end_without_reading_and_leave_a_daemon_with_its_pipes() {
        let input = vec![b'x'; 300_000];
        let begin = Instant::now();
        let output = Child::start(shell("sleep 20 & echo done; exit 3"), Some(input), deadline::TOOL).unwrap().finish();
        let output = output.unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"done\n"[..]));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn one_that_hangs_is_killed_with_what_it_started_and_named() {
        let error = run(shell("sleep 77; true"), Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("sleep 77)") && error.contains("did not end within 0 s"), "{error}");
        let begin = Instant::now();
        drop(Child::start(shell("sleep 60"), None, Duration::from_millis(300)).unwrap());
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(matches!(run(Command::new("/nonexistent"), deadline::TOOL), Err(ChildError::System(_))));
    }
}
