//! Processes as /proc shows them: who holds a lock, and who started whom. Read after a wait has timed out.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How much of a command is shown.
const COMMAND_MAX: usize = 80;

/// A kind of lock, in the words of /proc/PID/fdinfo (`lock_get_status` in fs/locks.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// flock(2): the whole file.
    Whole,
    /// Of these bytes: the first and the last (fcntl(2), "Open file description locks").
    Bytes(u64, u64),
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pid: i32,
}

impl Process {
    /// The process with this number.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid: i32::try_from(pid).unwrap_or_default() }
    }

    /// Those that hold a lock of this kind on the file, this process aside. Other PID namespaces' aren't visible.
    pub(crate) fn holding(file: &fs::File, path: &Path, kind: Kind) -> Vec<Self> {
        let Ok(file) = file.metadata() else { return Vec::new() };
        let holds = |process: &Self| process.holds((file.dev(), file.ino()), path, kind);
        Self::all().filter(|process| !process.is_this()).filter(holds).collect()
    }

    /// The process and those that it started, and those that these started: the last ones first.
    pub(crate) fn tree(pid: u32) -> Vec<Self> {
        let parents: Vec<(Self, i32)> = Self::all().filter_map(|one| one.parent().map(|of| (one, of))).collect();
        let mut tree = vec![Self::new(pid)];
        let mut next = 0;
        while let Some(parent) = tree.get(next).map(|process| process.pid) {
            tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| process.clone()));
            next += 1;
        }
        tree.reverse();
        tree
    }

    /// Ends it with SIGKILL, if `condition` still holds once it can't be mistaken for another.
    pub(crate) fn kill_if(&self, condition: impl FnOnce(&Self) -> bool) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && condition(self)
        {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// True if it holds such a lock on the file.
    pub(crate) fn holds(&self, (device, inode): (u64, u64), path: &Path, kind: Kind) -> bool {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Ok(descriptors) = fs::read_dir(self.path("fd")) else { return false };
        descriptors.flatten().any(|descriptor| {
            // By its name first: a file on a server that doesn't answer must not be looked at.
            fs::read_link(descriptor.path()).is_ok_and(|target| target.to_string_lossy().contains(&name))
                && descriptor.path().metadata().is_ok_and(|file| (file.dev(), file.ino()) == (device, inode))
                && fs::read_to_string(self.path("fdinfo").join(descriptor.file_name()))
                    .is_ok_and(|text| text.lines().any(|line| has_lock(line, kind)))
        })
    }

    fn all() -> impl Iterator<Item = Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(Self { pid: entry.file_name().to_str()?.parse().ok()? }))
    }

    fn is_this(&self) -> bool {
        u32::try_from(self.pid).is_ok_and(|pid| pid == std::process::id())
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(file)
    }

    /// What follows the name in /proc/PID/stat: the state, then the parent.
    fn stat(&self) -> Option<(char, i32)> {
        let text = fs::read_to_string(self.path("stat")).ok()?;
        let mut words = text.rsplit_once(')')?.1.split_whitespace();
        Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
    }

    fn parent(&self) -> Option<i32> {
        self.stat().map(|(_, parent)| parent)
    }

    /// True if it has been stopped, by SIGSTOP or a debugger.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stat().is_some_and(|(state, _)| matches!(state, 'T' | 't'))
    }

    fn command(&self) -> String {
        let arguments = fs::read(self.path("cmdline")).unwrap_or_default();
        let words: Vec<_> = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let mut text = words.join(" ").trim().to_owned();
        if text.is_empty() {
            text = fs::read_to_string(self.path("comm")).unwrap_or_default().trim().to_owned();
        }
        text.chars().take(COMMAND_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// The verb and the container of a plugin's call, as its environment says.
    fn call(&self) -> Option<String> {
        let verb = self.variable("CNI_COMMAND=")?;
        Some(match self.variable("CNI_CONTAINERID=") {
            Some(id) => format!("{verb} of container {id}"),
            None => verb,
        })
    }

    pub(crate) fn is_call_for(&self, container: &str) -> bool {
        self.variable("CNI_CONTAINERID=").is_some_and(|id| id == container)
    }

    /// `name` has its equals sign.
    fn variable(&self, name: &str) -> Option<String> {
        let environment = fs::read(self.path("environ")).ok()?;
        let mut all = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        all.find_map(|one| one.strip_prefix(name).map(str::to_owned))
    }
}

/// `PID 7 (portmap, ADD of container c1)`.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PID {} ({}", self.pid, self.command())?;
        if let Some(call) = self.call() {
            write!(f, ", {call}")?;
        }
        f.write_str(")")
    }
}

/// Reads `lock:  1: OFDLCK ADVISORY  WRITE -1 00:2a:1234 5 5`.
fn has_lock(line: &str, kind: Kind) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["lock:", _, found, _, _, _, _, first, last] = words[..] else { return false };
    match kind {
        Kind::Whole => found == "FLOCK",
        Kind::Bytes(from, to) => {
            let first: u64 = first.parse().unwrap_or_default();
            let last: u64 = last.parse().unwrap_or(u64::MAX);
            found == "OFDLCK" && first <= to && from <= last
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_recognised_in_fdinfo() {
        let bytes = "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:2a:1234 5 9";
        assert!(has_lock(bytes, Kind::Bytes(9, 20)) && has_lock(bytes, Kind::Bytes(0, 5)));
        assert!(!has_lock(bytes, Kind::Bytes(10, 20)) && !has_lock(bytes, Kind::Whole));
        let whole = "lock:\t1: FLOCK  ADVISORY  WRITE 77 00:2a:1234 0 EOF";
        assert!(has_lock(whole, Kind::Whole) && !has_lock(whole, Kind::Bytes(0, 1)));
        assert!(!has_lock("pos:\t0", Kind::Whole));
    }

    #[test]
    fn a_child_is_in_the_tree_and_named() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tree = Process::tree(std::process::id());
        let found = Process::new(child.id());
        assert!(tree.contains(&found));
        assert!(found.to_string().contains(&format!("PID {} (sleep 60", child.id())), "{found}");
        found.kill_if(|_| true);
        assert!(!child.wait().unwrap().success());
    }
}
