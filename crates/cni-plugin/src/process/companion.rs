//! A process of the plugin's own executable that outlives the call, such as the one that keeps leases: its companion.
//!
//! A call connects to the companion's Unix socket and exchanges one line of JSON each way ([`Connection::ask`]). Where nothing
//! listens, the call starts a companion ([`Companion::start`]):
//!
//! * In a scope of its own where systemd runs (`systemd-run --scope`): systemd kills all processes of the runtime's unit when that
//!   is stopped (`KillMode=control-group`, systemd.kill(5)), and the containers run on. Elsewhere, and where that fails, as a plain
//!   child.
//! * With nothing of the call: neither its descriptors, of which locks matter most, nor its environment, by which it would be
//!   taken for a call for that container.
//! * The companion says that it listens by a byte on stdout ([`say_that_it_listens`]). The call waits for that, and not longer than
//!   its own deadline. What the companion prints on stderr before becomes the error.
//!
//! The plugin has the lock under which companions are started and decide to end, the questions and the answers.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_socket, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::process::child::{Child, ChildError};
use crate::process::deadline::{self, Polling};
use crate::process::lock;

/// How long a companion may take until it listens; half of it in a scope, so that time is left for a plain start.
const START: Duration = Duration::from_secs(10);
/// How long one that is busy may take until it accepts.
const ACCEPT: Duration = Duration::from_secs(5);
/// Exists where systemd is the first process (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// Set for a companion that was started by a call. Under its unit, or by hand, nothing reads that byte.
const BY_CALL: &str = "CNI_STARTED_BY_CALL";
/// What is read of stderr for the error, in bytes.
const SAID: usize = 4096;

/// Why there is no companion.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no process.
    #[error(transparent)]
    System(io::Error),
    /// It ended instead of listening.
    #[error("{0}")]
    Ended(String),
    /// It does not listen.
    #[error("{processes} did not listen within {seconds} s and was killed")]
    Hung {
        /// The process, and those that it had started.
        processes: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It said that it listens, and cannot be connected to.
    #[error("it has started, but cannot be connected to: {0}")]
    Connect(io::Error),
}

/// How to start a companion.
#[derive(Debug, Clone, Copy)]
pub struct Companion<'a> {
    /// The executable's name, which `ps` shows in the place of `/proc/self/exe`.
    pub name: &'a str,
    /// The arguments that make the executable the companion.
    pub arguments: &'a [&'a OsStr],
    /// What it is, for the description of the scope.
    pub description: &'a str,
    /// Where it listens.
    pub socket: &'a Path,
}

impl Companion<'_> {
    /// Starts a companion and connects to it, or to one that was started meanwhile by its unit. To be called under the lock under
    /// which companions end, after [`connect`] has found none.
    ///
    /// Waits for at most 10 s in all, within the call's budget. A companion that does not listen then is killed and reaped.
    ///
    /// # Errors
    /// [`StartError`], with what a companion that has ended printed on stderr.
    pub fn start(&self) -> Result<Connection, StartError> {
        let started = self.launch();
        match (connect(self.socket), started) {
            (Ok(Some(connection)), _) => Ok(connection),
            (_, Err(error)) => Err(error),
            (Ok(None), Ok(())) => Err(StartError::Ended("it ended at once".to_owned())),
            (Err(error), Ok(())) => Err(StartError::Connect(error)),
        }
    }

    fn launch(&self) -> Result<(), StartError> {
        let (begin, limit) = (Instant::now(), deadline::at_most(START));
        // Also what the runtime or the calling plugin had open without this flag.
        close_fds::set_fds_cloexec(3, &[]);
        let in_scope = self.in_scope().is_some_and(|command| run(command, limit / 2).is_ok());
        let started = if in_scope { Ok(()) } else { run(self.plain(), limit.saturating_sub(begin.elapsed())) };
        // The call may go on to start tools.
        lock::let_children_inherit();
        started
    }

    /// The process replaces `systemd-run`, which makes a scope of itself, and so keeps its number, stdout and stderr.
    fn in_scope(&self) -> Option<Command> {
        let executable = Some(std::env::current_exe().ok()?).filter(|_| Path::new(SYSTEMD).is_dir())?;
        let mut command = Command::new("systemd-run");
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.args(["--scope", "--quiet", "--collect", "--slice=system.slice"]);
        command.arg(format!("--description={}", self.description)).arg("--").arg(executable).args(self.arguments);
        Some(command)
    }

    fn plain(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(self.name).args(self.arguments).env_clear();
        command
    }
}

/// Starts the command and waits until it prints something.
fn run(mut command: Command, limit: Duration) -> Result<(), StartError> {
    command.env(BY_CALL, "1").current_dir("/").stdin(Stdio::null());
    match Child::start(command, None, limit).and_then(Child::run_on_once_it_prints) {
        Ok(None) => Ok(()),
        Ok(Some(output)) => Err(StartError::Ended(said(&output))),
        Err(ChildError::System(error)) => Err(StartError::System(error)),
        Err(ChildError::Hung { processes, seconds }) => Err(StartError::Hung { processes, seconds }),
    }
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(SAID)]).trim().to_owned();
    if text.is_empty() { format!("it ended without a word ({})", output.status) } else { text }
}

/// Called by the companion once it listens: says so to the call that started it, if one did.
pub fn say_that_it_listens() {
    if std::env::var_os(BY_CALL).is_some() {
        let mut stdout = io::stdout();
        // A call that was killed no longer reads it; the next one connects.
        let _ = stdout.write_all(b"\n").and_then(|()| stdout.flush());
    }
}

/// Connects; `None` if nothing listens at `socket`. Waits for up to 5 s, within the call's budget, while the queue of those that wait
/// to be accepted is full.
pub fn connect(socket: &Path) -> io::Result<Option<Connection>> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let polling = Polling::new(ACCEPT);
    loop {
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect_socket(&fd, &address) {
            Ok(()) => {
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(false)?;
                return Ok(Some(Connection(stream)));
            }
            Err(Errno::AGAIN) if polling.pause() => {}
            Err(Errno::AGAIN) => return Err(late("it has accepted no call", polling.waited())),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A connection to a companion, for one question.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// Asks, and returns the answer, a line of at most `longest` bytes; `None` if the companion ended instead. Waits for at most
    /// `limit`, within the call's budget.
    pub fn ask<A: DeserializeOwned>(
        self,
        question: &impl Serialize,
        limit: Duration,
        longest: u64,
    ) -> io::Result<Option<A>> {
        // An answer that is there already is read even when the budget is used up.
        let limit = deadline::at_most(limit).max(Duration::from_millis(1));
        let mut exchange = Exchange { stream: self.0, begin: Instant::now(), limit };
        match write_line(&mut exchange, question).and_then(|()| read_line(&mut exchange, longest)) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if has_ended(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn has_ended(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof)
}

/// A stream with one limit for all that is written and read: a companion that answers byte by byte does not prolong it.
struct Exchange {
    stream: UnixStream,
    begin: Instant,
    limit: Duration,
}

impl Exchange {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.limit.saturating_sub(self.begin.elapsed());
        if left.is_zero() { Err(self.late()) } else { Ok(Some(left)) }
    }

    fn late(&self) -> io::Error {
        late("it has not answered", self.limit)
    }

    /// The kernel's word for a time limit of a socket that is over is `EAGAIN`.
    fn checked<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.map_err(|error| if error.kind() == ErrorKind::WouldBlock { self.late() } else { error })
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        let outcome = self.stream.read(buffer);
        self.checked(outcome)
    }
}

impl Write for Exchange {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        let outcome = self.stream.write(buffer);
        self.checked(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn late(what: &str, waited: Duration) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("{what} for {} s", waited.as_secs()))
}

/// Writes one line.
pub fn write_line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line of at most `longest` bytes.
///
/// # Errors
/// `UnexpectedEof` without a whole line, `InvalidData` if the line is longer or not what `T` is.
pub fn read_line<T: DeserializeOwned>(from: &mut impl Read, longest: u64) -> io::Result<T> {
    let mut line = Vec::new();
    let read = BufReader::new(from.take(longest)).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        return Ok(serde_json::from_slice(&line)?);
    }
    Err(if u64::try_from(read).is_ok_and(|read| read >= longest) {
        io::Error::new(ErrorKind::InvalidData, format!("a line of more than {longest} bytes"))
    } else {
        io::Error::new(ErrorKind::UnexpectedEof, "the other side ended in the middle of a line")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::child::tests::shell;
    use std::os::unix::net::UnixListener;
    use std::thread;

    #[test]
    fn it_is_waited_for_until_it_says_that_it_listens_and_runs_on() {
        let begin = Instant::now();
        run(shell("[ $CNI_STARTED_BY_CALL = 1 ] && echo; exec sleep 20"), START).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_it_says_is_the_error() {
        let error = run(shell("echo 'no room' >&2; exit 3"), START).unwrap_err();
        assert_eq!(error.to_string(), "no room");
        let error = run(shell("exit 3"), START).unwrap_err();
        assert_eq!(error.to_string(), "it ended without a word (exit status: 3)");
    }

    #[test]
    fn one_that_does_not_listen_is_killed_also_if_it_closes_its_stdout() {
        for script in ["sleep 77; true", "exec >&-; sleep 77; true"] {
            let error = run(shell(script), Duration::from_millis(300)).unwrap_err().to_string();
            assert!(error.contains("sleep 77)") && error.contains("did not listen within 0 s"), "{error}");
        }
    }

    #[test]
    fn nothing_listens() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        assert!(connect(&socket).unwrap().is_none());
        drop(UnixListener::bind(&socket).unwrap());
        assert!(connect(&socket).unwrap().is_none());
        assert!(connect(&socket.join("below")).unwrap().is_none());
    }

    /// A listener that answers a question with `answer`, a byte each `pause`.
    fn asked(answer: &'static [u8], pause: Duration, limit: Duration) -> io::Result<Option<u32>> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert_eq!(read_line::<String>(&mut stream, 100).unwrap(), "how many?");
            for byte in answer {
                thread::sleep(pause);
                let _ = stream.write_all(&[*byte]);
            }
        });
        connect(&socket).unwrap().unwrap().ask(&"how many?", limit, 5)
    }

    #[test]
    fn an_answer_is_one_line_of_limited_length() {
        let ask = |answer| asked(answer, Duration::ZERO, START);
        assert_eq!(ask(b"1234\n").unwrap(), Some(1234));
        assert_eq!(ask(b"").unwrap(), None);
        assert_eq!(ask(b"12").unwrap(), None);
        assert!(ask(b"12345\n").unwrap_err().to_string().contains("more than 5 bytes"));
        assert_eq!(ask(b"\"a\"\n").unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn an_answer_byte_by_byte_does_not_prolong_the_limit() {
        let error = asked(b"    ", Duration::from_millis(200), Duration::from_millis(300)).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::TimedOut, "it has not answered for 0 s"));
    }

    #[test]
    fn a_full_queue_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&fd, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        rustix::net::listen(&fd, 0).unwrap();
        let listener = UnixListener::from(fd);
        let first = connect(&socket).unwrap().unwrap();
        let accepting = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            (listener.accept().unwrap(), listener.accept().unwrap())
        });
        let second = connect(&socket).unwrap().unwrap();
        accepting.join().unwrap();
        drop((first, second));
    }
}
