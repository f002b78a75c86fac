//! Running a plugin as a runtime does: environment and stdin in, exit status, stdout and stderr out.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::netns::Netns;

/// A plugin that doesn't end by itself is killed after this long: far beyond any plugin's own limits.
const PATIENCE: Duration = Duration::from_secs(90);

/// One invocation of a plugin, to be completed and run.
#[derive(Debug, Clone)]
pub struct Call {
    program: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    stdin: Vec<u8>,
}

/// What an invocation left on its streams.
#[derive(Debug)]
pub struct Outcome {
    /// What was run, for messages.
    pub what: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Everything on stdout.
    pub stdout: String,
    /// Everything on stderr.
    pub stderr: String,
}

/// The spec's error object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// The error code.
    pub code: i64,
    /// The short message.
    pub msg: String,
    /// The longer one; empty if absent.
    pub details: String,
    /// The version on the error object, if any.
    pub version: Option<String>,
}

impl Call {
    /// `program` with nothing in the environment but `PATH` and, if not empty, `CNI_COMMAND`.
    pub fn new(program: PathBuf, verb: &str) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let call =
            Self { program, args: Vec::new(), env: BTreeMap::from([("PATH".to_owned(), path)]), stdin: Vec::new() };
        if verb.is_empty() { call } else { call.env("CNI_COMMAND", verb) }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.env.remove(key);
        self
    }

    /// Sets `CNI_CONTAINERID`, `CNI_IFNAME` and `CNI_NETNS`.
    #[must_use]
    pub fn attach(self, id: &str, ifname: &str, netns: &Netns) -> Self {
        self.names(id, ifname).env("CNI_NETNS", &netns.path())
    }

    /// Sets `CNI_CONTAINERID` and `CNI_IFNAME`.
    #[must_use]
    pub fn names(self, id: &str, ifname: &str) -> Self {
        self.env("CNI_CONTAINERID", id).env("CNI_IFNAME", ifname)
    }

    /// Sets stdin to a text.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.as_bytes().to_vec();
        self
    }

    /// Sets stdin to bytes that are no text.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_vec();
        self
    }

    /// Sets stdin to a configuration.
    #[must_use]
    pub fn conf(self, conf: &Value) -> Self {
        self.stdin(&conf.to_string())
    }

    /// Appends arguments: for programs that are no plugins.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Self {
        self.args.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// The same call of another executable: a wrapper around the plugin.
    #[must_use]
    pub fn by(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }

    /// The same call as the last arguments of another command: `prlimit --nofile=8 --`, say.
    #[must_use]
    pub fn under(mut self, wrapper: &[String]) -> Self {
        let Some((first, rest)) = wrapper.split_first() else { return self };
        let program = std::mem::replace(&mut self.program, PathBuf::from(first));
        let own = std::mem::take(&mut self.args);
        self.args = rest.iter().cloned().chain([program.display().to_string()]).chain(own).collect();
        self
    }

    /// The process to start, with nothing decided about its streams.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env);
        command
    }

    /// What it is to read from its stdin.
    pub fn input(&self) -> &[u8] {
        &self.stdin
    }

    /// A line for a shell that makes the same call.
    pub fn shell(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let env: Vec<_> =
            self.env.iter().filter(|(k, _)| *k != "PATH").map(|(k, v)| format!("{k}={}", quoted(v))).collect();
        let words: Vec<_> = [self.program.display().to_string()].into_iter().chain(self.args.iter().cloned()).collect();
        format!("env {} {} <<<{}", env.join(" "), words.join(" "), quoted(&String::from_utf8_lossy(&self.stdin)))
    }

    /// A script that was written a moment ago can't be started while a process that another thread forked at that moment
    /// still has it open for writing.
    fn spawn(&self) -> std::io::Result<Child> {
        let mut tries = 0;
        loop {
            let mut command = self.command();
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            match command.spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 100 => tries += 1,
                other => return other,
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs it where the thread is, to its end.
    pub fn run(&self) -> Outcome {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        let what = format!("{name} {}", self.env.get("CNI_COMMAND").map_or("", String::as_str));
        let mut child = self.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        // A plugin may end without reading its stdin.
        let _ = child.stdin.take().expect("piped").write_all(&self.stdin);
        let out = wait(child);
        Outcome {
            what,
            code: out.status.code(),
            stdout: String::from_utf8(out.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }
}

/// Waits for the end, or kills.
fn wait(child: Child) -> std::process::Output {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (ended, watched) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if watched.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let out = child.wait_with_output().expect("wait");
        drop(ended);
        out
    })
}

impl Outcome {
    /// The one JSON document on stdout, whatever the exit code. Panics on none, several or garbage.
    #[track_caller]
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not one JSON document ({e}): {self}"))
    }

    /// The result of a successful call.
    #[track_caller]
    pub fn result(&self) -> Value {
        assert_eq!(self.code, Some(0), "expected success: {self}");
        self.document()
    }

    /// Success without a word on stdout, as everything but ADD and VERSION has to be.
    #[track_caller]
    pub fn silent(&self) {
        assert_eq!(self.code, Some(0), "expected success: {self}");
        assert_eq!(self.stdout, "", "expected nothing on stdout: {self}");
    }

    /// The error of a failed call: exit 1 and exactly one error object on stdout.
    #[track_caller]
    pub fn error(&self) -> CniError {
        assert_eq!(self.code, Some(1), "expected exit 1: {self}");
        let object = self.document();
        let text = |key: &str| object[key].as_str().map(str::to_owned);
        CniError {
            code: object["code"].as_i64().unwrap_or_else(|| panic!("an error without code: {self}")),
            msg: text("msg").unwrap_or_else(|| panic!("an error without msg: {self}")),
            details: text("details").unwrap_or_default(),
            version: text("cniVersion"),
        }
    }

    /// True if the call succeeded.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: exit {:?}, stdout {:?}, stderr {:?}", self.what, self.code, self.stdout, self.stderr)
    }
}

impl CniError {
    /// Message and details together, for what must be named somewhere.
    pub fn text(&self) -> String {
        format!("{} {}", self.msg, self.details)
    }

    /// Panics unless message or details contain every one of `parts`.
    #[track_caller]
    pub fn names(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.text().contains(part), "{part:?} is not named in {self:?}");
        }
    }
}
