//! The daemon's arguments: those of the Go plugins' daemon, written as Go's `flag` takes them (`-name value`, `--name=value`).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};

use super::Pace;
use crate::settings::SOCKET;

const USAGE: &str = "usage: dhcp daemon [-socketpath PATH] [-pidfile PATH] [-hostprefix DIRECTORY] [-broadcast] \
    [-timeout 10s] [-resendmax 62s] [-resendtimeout 208s] [-idle SECONDS]";
/// The longest pause between two messages, as with the Go plugins' daemon.
const LONGEST: Duration = Duration::from_secs(62);

/// What the daemon is started with.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// Where it listens.
    pub socket: PathBuf,
    /// Where its process number goes.
    pub pid_file: Option<PathBuf>,
    /// What the paths of namespaces begin with, where it runs in a container of its own.
    pub host_prefix: PathBuf,
    /// Answers are to be broadcast.
    pub broadcast: bool,
    /// The longest pause between two messages.
    pub longest: Duration,
    /// It ends after this time without a lease.
    pub idle: Option<Duration>,
}

impl Arguments {
    /// Those of this process.
    pub fn parse() -> io::Result<Self> {
        let words = std::env::args_os().skip(2).map(two_dashes);
        Self::read(Parser::from_args(words)).map_err(|error| io::Error::other(format!("{error}; {USAGE}")))
    }

    fn read(mut parser: Parser) -> Result<Self, lexopt::Error> {
        let mut read = Self {
            socket: PathBuf::from(SOCKET),
            pid_file: None,
            host_prefix: PathBuf::new(),
            broadcast: false,
            longest: LONGEST,
            idle: None,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("socketpath") => read.socket = parser.value()?.into(),
                Arg::Long("pidfile") => {
                    read.pid_file = Some(parser.value()?.into()).filter(|path| *path != PathBuf::new());
                }
                Arg::Long("hostprefix") => read.host_prefix = parser.value()?.into(),
                Arg::Long("broadcast") => read.broadcast = parser.optional_value().is_none_or(|value| value == "true"),
                Arg::Long("resendmax") => read.longest = duration(&parser.value()?.string()?)?,
                // The caller says how long it waits.
                Arg::Long("timeout" | "resendtimeout") => drop(duration(&parser.value()?.string()?)?),
                Arg::Long("idle") => read.idle = Some(Duration::from_secs(parser.value()?.parse()?)),
                other => return Err(other.unexpected()),
            }
        }
        Ok(read)
    }

    /// Where the daemon finds what is at `path` on the node.
    pub fn on_node(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(below) if self.host_prefix != PathBuf::new() => self.host_prefix.join(below),
            _ => path.to_owned(),
        }
    }

    /// How servers are asked.
    pub fn pace(&self) -> Pace {
        Pace { longest: self.longest, broadcast: self.broadcast }
    }
}

fn two_dashes(word: OsString) -> OsString {
    match word.to_str() {
        Some(text) if text.starts_with('-') && !text.starts_with("--") && text.len() > 1 => format!("-{text}").into(),
        _ => word,
    }
}

/// As Go writes durations: `1m30s`, `208s`, `500ms`.
fn duration(text: &str) -> Result<Duration, lexopt::Error> {
    let bad = || lexopt::Error::from(format!("{text:?} is no duration such as 62s or 500ms"));
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.').ok_or_else(bad)?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.find(|character: char| character.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, left) = behind.split_at(unit);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = left;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Arguments, String> {
        let words = words.iter().map(|word| two_dashes(OsString::from(word)));
        Arguments::read(Parser::from_args(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn go_s_ways_of_writing_are_taken() {
        let read =
            read(&["-socketpath", "/x/y.sock", "--pidfile=/p", "-broadcast", "-resendmax=1m2.5s", "-timeout", "10s"]);
        let read = read.unwrap();
        assert_eq!((read.socket, read.pid_file), ("/x/y.sock".into(), Some("/p".into())));
        assert!(read.broadcast && read.idle.is_none());
        assert_eq!(read.longest, Duration::from_millis(62_500));
    }

    #[test]
    fn bad_arguments_are_named() {
        assert!(read(&["-resendmax", "5"]).unwrap_err().contains("\"5\""));
        assert!(read(&["-what"]).unwrap_err().contains("what"));
    }
}
