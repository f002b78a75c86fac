//! Clients' connections: messages with their length before them (RFC 1035, 4.2.2). Nobody waits for a client that is slow, and
//! none may have many.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use super::listen::Listener;
use super::wait::{Kind, Poller, Token};

/// Connections at once, of all clients and of one.
const MOST: usize = 512;
const MOST_OF_CLIENT: usize = 32;
/// How long a connection may be without a whole question, and until its answer is taken.
const IDLE: Duration = Duration::from_secs(10);
/// Answers that a client doesn't take, in bytes.
const UNSENT: usize = 256 << 10;
/// Questions that are read at once.
const AT_ONCE: usize = 16;

struct Connection {
    stream: TcpStream,
    server: IpAddr,
    peer: IpAddr,
    read: Vec<u8>,
    unsent: Vec<u8>,
    end: Instant,
}

/// All of them.
#[derive(Default)]
pub struct Connections {
    open: HashMap<u64, Connection>,
    of_client: HashMap<IpAddr, usize>,
    next: u64,
}

impl Connections {
    /// Accepts what waits. A client that has too many connections loses the new one; where all together have too many, the one that
    /// has been idle longest ends.
    pub fn accept(&mut self, listener: &Listener, poller: &Poller) {
        for _ in 0..AT_ONCE {
            let (stream, peer) = match listener.connections.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // No descriptors are left, or the client has given up.
                Err(_) => return self.close_oldest(),
            };
            if self.of_client.get(&peer.ip()).is_some_and(|count| *count >= MOST_OF_CLIENT) {
                continue;
            }
            if self.open.len() >= MOST {
                self.close_oldest();
            }
            self.next += 1;
            let token = Token { kind: Kind::Connection, id: self.next };
            if stream.set_nonblocking(true).is_err() || poller.add(&stream, token, false).is_err() {
                continue;
            }
            let _ = stream.set_nodelay(true);
            *self.of_client.entry(peer.ip()).or_default() += 1;
            let (read, unsent, end) = (Vec::new(), Vec::new(), Instant::now() + IDLE);
            let connection = Connection { stream, server: listener.server, peer: peer.ip(), read, unsent, end };
            self.open.insert(self.next, connection);
        }
    }

    fn close_oldest(&mut self) {
        let oldest = self.open.iter().min_by_key(|(_, connection)| connection.end).map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        let Some(connection) = self.open.remove(&id) else { return };
        if let Some(count) = self.of_client.get_mut(&connection.peer) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&connection.peer);
            }
        }
    }

    /// Reads and writes what is possible: the server that is asked, the client, and its whole questions.
    pub fn progress(&mut self, id: u64, poller: &Poller) -> Option<(IpAddr, IpAddr, Vec<Vec<u8>>)> {
        self.write(id, poller);
        let connection = self.open.get_mut(&id)?;
        let mut buffer = [0; 4096];
        let is_open = match connection.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                connection.read.extend_from_slice(&buffer[..length]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        let mut questions = Vec::new();
        while questions.len() < AT_ONCE
            && let Some(question) = take_message(&mut connection.read)
        {
            connection.end = Instant::now() + IDLE;
            questions.push(question);
        }
        let (server, peer) = (connection.server, connection.peer);
        if !is_open {
            self.close(id);
            return None;
        }
        Some((server, peer, questions))
    }

    /// Sends an answer, or keeps it until the client takes it.
    pub fn send(&mut self, id: u64, message: &[u8], poller: &Poller) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        let Ok(length) = u16::try_from(message.len()) else { return };
        connection.unsent.extend_from_slice(&length.to_be_bytes());
        connection.unsent.extend_from_slice(message);
        self.write(id, poller);
    }

    fn write(&mut self, id: u64, poller: &Poller) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        if connection.unsent.is_empty() {
            return;
        }
        let is_open = match connection.stream.write(&connection.unsent) {
            Ok(length) => {
                connection.unsent.drain(..length);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        let to_write = !connection.unsent.is_empty();
        let token = Token { kind: Kind::Connection, id };
        let is_waited_for = poller.change(&connection.stream, token, to_write).is_ok();
        if !is_open || !is_waited_for || connection.unsent.len() > UNSENT {
            self.close(id);
        }
    }

    /// When the next connection ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.open.values().map(|connection| connection.end).min()
    }

    /// Ends those whose time is over.
    pub fn expire(&mut self, now: Instant) {
        let over: Vec<u64> = self.open.iter().filter(|(_, one)| one.end <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.close(id));
    }
}

/// The first whole message.
pub fn take_message(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [high, low, ..] = read.as_slice() else { return None };
    let end = 2 + usize::from(u16::from_be_bytes([*high, *low]));
    if read.len() < end {
        return None;
    }
    let rest = read.split_off(end);
    let mut message = std::mem::replace(read, rest);
    message.drain(..2);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::take_message;

    #[test]
    fn messages_are_taken_whole() {
        let mut read = vec![0, 2, 7, 8, 0, 0, 0, 3, 9];
        assert_eq!(take_message(&mut read), Some(vec![7, 8]));
        assert_eq!(take_message(&mut read), Some(vec![]));
        assert_eq!(take_message(&mut read), None);
        assert_eq!(read, [0, 3, 9]);
    }
}
