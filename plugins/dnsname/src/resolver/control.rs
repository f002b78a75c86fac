//! The plugin's connections: a question and an answer each.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};
use std::{fs, io};

use cni_plugin::companion::write_line;

use super::wait::{Kind, Poller, Token};
use crate::place::SOCKET;
use crate::wire::{Answer, Ask};

/// How long a caller may take, and how long its question may be.
const CALLER: Duration = Duration::from_secs(10);
const LONGEST: usize = 64 << 10;
/// Callers at once: calls of the plugin take turns, but for CHECK and STATUS.
const MOST: usize = 128;

struct Caller {
    stream: UnixStream,
    read: Vec<u8>,
    end: Instant,
}

/// The socket, and who is connected.
pub struct Control {
    listener: UnixListener,
    callers: HashMap<u64, Caller>,
    next: u64,
}

impl Control {
    /// Listens on a socket that only root can connect to, in the place of one that a killed resolver left.
    pub fn listen(poller: &Poller) -> io::Result<Self> {
        match fs::remove_file(SOCKET) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(SOCKET)?;
        fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        poller.add(&listener, Token::single(Kind::Control), false)?;
        Ok(Self { listener, callers: HashMap::new(), next: 0 })
    }

    /// Accepts a caller.
    pub fn accept(&mut self, poller: &Poller) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        self.next += 1;
        let token = Token { kind: Kind::Caller, id: self.next };
        let is_ready = stream.set_nonblocking(true).is_ok() && poller.add(&stream, token, false).is_ok();
        if is_ready && self.callers.len() < MOST {
            self.callers.insert(self.next, Caller { stream, read: Vec::new(), end: Instant::now() + CALLER });
        }
    }

    /// The caller's question, once it is whole.
    pub fn read(&mut self, id: u64) -> Option<Ask> {
        let caller = self.callers.get_mut(&id)?;
        let mut buffer = [0; 4096];
        match caller.stream.read(&mut buffer) {
            Ok(length @ 1..) => caller.read.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
            _ => {
                self.close(id);
                return None;
            }
        }
        let is_whole = caller.read.last() == Some(&b'\n');
        let question = is_whole.then(|| serde_json::from_slice(&caller.read).ok()).flatten();
        if question.is_none() && (is_whole || caller.read.len() > LONGEST) {
            self.close(id);
        }
        question
    }

    /// Answers, and ends the connection. A socket takes more than an answer has.
    pub fn answer(&mut self, id: u64, answer: &Answer) {
        if let Some(mut caller) = self.callers.remove(&id) {
            let mut line = Vec::new();
            // A caller that is gone needs no answer.
            let _ = write_line(&mut line, answer).and_then(|()| caller.stream.write_all(&line));
        }
    }

    /// Ends a connection.
    pub fn close(&mut self, id: u64) {
        self.callers.remove(&id);
    }

    /// When the next caller's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.callers.values().map(|caller| caller.end).min()
    }

    /// Ends the connections whose time is over.
    pub fn expire(&mut self, now: Instant) {
        self.callers.retain(|_, caller| caller.end > now);
    }
}
