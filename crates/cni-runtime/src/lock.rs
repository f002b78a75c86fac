//! Turns: two calls for one attachment, by programs on this library, run one after the other.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use cni_plugin::{Owner, sha512_hex};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// One file, in which each attachment has a byte: its name is short, and no file has to be removed.
const PATH: &str = "/run/cni-runtime.lock";
/// A chain may take as long.
const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(5);

/// The turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _file: Option<File>,
}

impl Turn {
    /// Waits for the attachment's turn. Where the file can't be used, as without privileges, there are no turns.
    ///
    /// # Errors
    /// In words, if another call doesn't end.
    pub(crate) fn of(owner: &Owner) -> Result<Self, String> {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(PATH);
        let own = rustix::process::geteuid().as_raw();
        let Some(file) = options.ok().filter(|file| file.metadata().is_ok_and(|found| found.uid() == own)) else {
            return Ok(Self { _file: None });
        };
        let begin = Instant::now();
        while !lock(&file, byte(owner)).map_err(|error| format!("cannot lock {PATH}: {error}"))? {
            if begin.elapsed() > LIMIT {
                return Err(format!("{owner}: another call for it holds {PATH} since {} s", LIMIT.as_secs()));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(Self { _file: Some(file) })
    }
}

fn byte(owner: &Owner) -> libc::off_t {
    libc::off_t::from(i32::from_str_radix(&sha512_hex(&[&owner.key()], 7), 16).unwrap_or_default())
}

/// False if another process has the byte.
fn lock(file: &File, byte: libc::off_t) -> nix::Result<bool> {
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES | nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}
