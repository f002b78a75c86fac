//! One call of one plugin in some weather: what disturbs it, and how it ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::Call;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::random::Random;
use crate::report::Class;

/// What disturbs a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing.
    Fair,
    /// SIGKILL after a time: of the plugin, or of it and its children.
    Kill { after: Duration, group: bool },
    /// A command that limits what it starts, or makes system calls of it fail, and its name in the report.
    Under(&'static str, Vec<String>),
}

impl Weather {
    /// A kill at a random moment.
    pub(crate) fn kill(random: &mut Random) -> Self {
        Self::Kill { after: random.moment(), group: random.chance(30) }
    }

    /// A shortage of descriptors, memory, threads or buffers.
    pub(crate) fn shortage(random: &mut Random) -> Self {
        let words = |line: String| line.split(' ').map(str::to_owned).collect();
        let inject = |calls: &str, error: &str, when: u64| {
            words(format!("strace -qq -f -o /dev/null -e trace={calls} -e inject={calls}:error={error}:when={when}+"))
        };
        match random.below(5) {
            0 => Self::Under("short of descriptors", words(format!("prlimit --nofile={} --", 4 + random.below(16)))),
            1 => Self::Under("short of threads", inject("clone,clone3,fork,vfork", "EAGAIN", 1 + random.below(4))),
            2 => Self::Under("short of sockets", inject("socket", "EMFILE", 1 + random.below(8))),
            3 => Self::Under("short of buffers", inject("sendto,sendmsg", "ENOBUFS", 1 + random.below(20))),
            _ => Self::Under("short of disk", inject("open,openat", "ENOSPC", 1 + random.below(30))),
        }
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Exit 0, with what is on stdout.
    Success(Option<Value>),
    /// Exit 1 and an error object: its code, message and details.
    Error(i64, String),
    /// By the SIGKILL that was sent.
    Killed,
    /// Otherwise.
    Bad(Class, String),
}

/// Processes that run, with the time at which each is killed for taking too long.
#[derive(Debug)]
pub(crate) struct Watch {
    deadline: Duration,
    running: Mutex<BTreeMap<i32, (Instant, bool)>>,
}

impl Watch {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { deadline, running: Mutex::default() }
    }

    fn begin(&self, pid: Pid) {
        self.running.lock().expect("no panic").insert(pid.as_raw(), (Instant::now() + self.deadline, false));
    }

    /// True if it was killed for being late.
    fn end(&self, pid: Pid) -> bool {
        self.running.lock().expect("no panic").remove(&pid.as_raw()).is_some_and(|(_, late)| late)
    }

    /// Kills it unless it has ended; the number isn't used again before [`Self::end`].
    fn kill(&self, pid: Pid, group: bool) {
        let running = self.running.lock().expect("no panic");
        if running.contains_key(&pid.as_raw()) {
            let _ = if group { killpg(pid, Signal::SIGKILL) } else { kill(pid, Signal::SIGKILL) };
        }
    }

    /// Ends what is late; to be called now and then.
    pub(crate) fn tick(&self) {
        let mut running = self.running.lock().expect("no panic");
        for (pid, (until, late)) in running.iter_mut().filter(|(_, (until, late))| !late && *until < Instant::now()) {
            *late = killpg(Pid::from_raw(*pid), Signal::SIGKILL).is_ok() || *until < Instant::now();
        }
    }
}

/// Where a worker's calls write. Files, for a child that outlives a killed plugin would keep a pipe open.
#[derive(Debug)]
pub(crate) struct Streams {
    dir: String,
}

impl Streams {
    pub(crate) fn new(worker: &str) -> Self {
        let dir = format!("/run/cni-test/storm/{worker}");
        fs::create_dir_all(&dir).expect("a directory of the sandbox");
        Self { dir }
    }

    /// A new file each time: an orphan may still write to the last one.
    fn file(&self, name: &str) -> File {
        let path = format!("{}/{name}", self.dir);
        let _ = fs::remove_file(&path);
        File::options().read(true).write(true).create_new(true).open(path).expect("a file of the sandbox")
    }
}

/// Runs a call to its end; the time is the process's life.
pub(crate) fn run(call: &Call, weather: &Weather, streams: &Streams, watch: &Watch) -> (End, Duration) {
    let call = if let Weather::Under(_, wrapper) = weather { call.clone().under(wrapper) } else { call.clone() };
    let (mut stdout, mut stderr) = (streams.file("out"), streams.file("err"));
    let mut command = call.command();
    let twin = |file: &File| Stdio::from(file.try_clone().expect("a descriptor"));
    command.process_group(0).stdin(Stdio::piped()).stdout(twin(&stdout)).stderr(twin(&stderr));
    let begun = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", call.shell()));
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    watch.begin(pid);
    let late = thread::scope(|scope| {
        if let Weather::Kill { after, group } = *weather {
            scope.spawn(move || {
                thread::sleep(after);
                watch.kill(pid, group);
            });
        }
        // It may end without reading.
        let _ = child.stdin.take().expect("piped").write_all(call.input());
        // Ended, but its number stays its own until `wait`.
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        watch.end(pid)
    });
    let status = child.wait().expect("a child");
    let time = begun.elapsed();
    let text = |file: &mut File| {
        let mut bytes = Vec::new();
        let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (out, err) = (text(&mut stdout), text(&mut stderr));
    if late {
        return (End::Bad(Class::Timeout, format!("no end within {} s: {err:?}", watch.deadline.as_secs())), time);
    }
    let killed = matches!(weather, Weather::Kill { .. }) && status.signal() == Some(Signal::SIGKILL as i32);
    (if killed { End::Killed } else { judge(status.code(), status.signal(), &out, &err) }, time)
}

fn judge(code: Option<i32>, signal: Option<i32>, out: &str, err: &str) -> End {
    let said = || format!("stdout {out:?}, stderr {err:?}");
    let document = serde_json::from_str::<Value>(out);
    match (code, document) {
        (Some(0), _) if out.trim().is_empty() => End::Success(None),
        (Some(0), Ok(document)) => End::Success(Some(document)),
        (Some(1), Ok(error)) if error["code"].is_u64() && error["msg"].is_string() => {
            let text = |key: &str| error[key].as_str().unwrap_or("").to_owned();
            End::Error(error["code"].as_i64().unwrap_or(0), format!("{} {}", text("msg"), text("details")))
        }
        (Some(0 | 1), _) => End::Bad(Class::NotJson, format!("exit {code:?}, {}", said())),
        _ => End::Bad(Class::Abort, format!("exit {code:?}, signal {signal:?}, {}", said())),
    }
}
