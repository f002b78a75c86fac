//! Questions that other servers answer. Each goes out from a socket of its own, with a random port and a random number, and with
//! random capitals in its name (draft-vixie-dnsext-dns0x20): an answer that wasn't asked for must guess all three, and come from the
//! server's address.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::Reply;
use super::answer::{HEADER, end_of_question, failure};
use super::tcp::take_message;
use super::wait::{Kind, Poller, Token};

/// Questions at once, of all clients and of one: each has a socket.
const MOST: usize = 512;
const MOST_OF_CLIENT: usize = 128;
/// How long a server may take, and all together: a client's own limit is 5 s (resolv.conf(5)).
const ATTEMPT: Duration = Duration::from_millis(1500);
const ALL: Duration = Duration::from_millis(4800);
/// Codes by which a server says that it can't or doesn't want to.
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// An answer, or that there is none, and to whom it goes.
#[derive(Debug)]
pub struct Finished {
    /// To whom.
    pub reply: Reply,
    /// The message.
    pub answer: Vec<u8>,
}

/// Random numbers.
#[derive(Debug)]
pub struct Random {
    bytes: [u8; 256],
    used: usize,
}

impl Random {
    /// From the kernel, in portions.
    pub fn new() -> Self {
        Self { bytes: [0; 256], used: 256 }
    }

    fn byte(&mut self) -> u8 {
        if self.used == self.bytes.len() {
            // Never interrupted for so few bytes (getrandom(2)).
            let _ = rustix::rand::getrandom(&mut self.bytes, rustix::rand::GetRandomFlags::empty());
            self.used = 0;
        }
        self.used += 1;
        std::mem::take(&mut self.bytes[self.used - 1])
    }

    /// Puts the items in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let number = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
            items.swap(last, number % (last + 1));
        }
    }
}

enum Socket {
    Datagram(UdpSocket),
    Stream { stream: TcpStream, unsent: Vec<u8>, read: Vec<u8> },
}

struct Pending {
    /// As the client sent it.
    question: Vec<u8>,
    reply: Reply,
    client: IpAddr,
    /// Which servers are still to be asked, and whether with random capitals: a few servers don't keep them.
    left: VecDeque<(SocketAddr, bool)>,
    server: SocketAddr,
    /// As it was sent to the server.
    sent: Vec<u8>,
    socket: Option<Socket>,
    attempt_ends: Instant,
    ends: Instant,
}

/// The questions that wait for an answer.
pub struct Upstream {
    pending: HashMap<u64, Pending>,
    of_client: HashMap<IpAddr, usize>,
    next: u64,
    /// Random numbers.
    pub random: Random,
}

impl Upstream {
    /// No questions yet.
    pub fn new() -> Self {
        Self { pending: HashMap::new(), of_client: HashMap::new(), next: 0, random: Random::new() }
    }

    /// Asks the servers one after the other, over the client's own transport.
    ///
    /// # Errors
    /// If the client, or all together, have too many questions, or there is no server.
    pub fn ask(
        &mut self,
        question: &[u8],
        servers: &[SocketAddr],
        reply: Reply,
        client: IpAddr,
        poller: &Poller,
    ) -> Result<Vec<Finished>, ()> {
        let of_client = self.of_client.get(&client).copied().unwrap_or(0);
        if self.pending.len() >= MOST || of_client >= MOST_OF_CLIENT || end_of_question(question).is_none() {
            return Err(());
        }
        let all = |mixed: bool| servers.iter().map(move |server| (*server, mixed));
        let left: VecDeque<_> = all(true).chain(all(false)).collect();
        let Some(first) = servers.first() else { return Err(()) };
        let now = Instant::now();
        self.next += 1;
        *self.of_client.entry(client).or_default() += 1;
        let (server, ends) = (*first, now + ALL);
        let question = question.to_vec();
        let (sent, socket) = (Vec::new(), None);
        let pending = Pending { question, reply, client, left, server, sent, socket, attempt_ends: now, ends };
        self.pending.insert(self.next, pending);
        Ok(self.try_next(self.next, poller).into_iter().collect())
    }

    /// Asks the next server, until one could be asked.
    fn try_next(&mut self, id: u64, poller: &Poller) -> Option<Finished> {
        let now = Instant::now();
        loop {
            let pending = self.pending.get_mut(&id)?;
            let next = pending.left.pop_front().filter(|_| now < pending.ends);
            let Some((server, mixed)) = next else { return self.finish(id, None) };
            pending.socket = None;
            pending.server = server;
            pending.sent = disguised(&pending.question, mixed, &mut self.random);
            pending.attempt_ends = (now + ATTEMPT).min(pending.ends);
            let is_datagram = matches!(pending.reply, Reply::Datagram(..));
            let token = Token { kind: Kind::Upstream, id };
            let opened = if is_datagram { datagram(server, &pending.sent) } else { stream(server, &pending.sent) };
            let Ok(socket) = opened else { continue };
            let added = match &socket {
                Socket::Datagram(socket) => poller.add(socket, token, false),
                Socket::Stream { stream, .. } => poller.add(stream, token, true),
            };
            if added.is_ok() {
                pending.socket = Some(socket);
                return None;
            }
        }
    }

    fn finish(&mut self, id: u64, answer: Option<Vec<u8>>) -> Option<Finished> {
        let pending = self.pending.remove(&id)?;
        if let Some(count) = self.of_client.get_mut(&pending.client) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&pending.client);
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => failure(&pending.question)?,
        };
        Some(Finished { reply: pending.reply, answer })
    }

    /// A server's socket has something to read, or can be written.
    pub fn progress(&mut self, id: u64, poller: &Poller) -> Vec<Finished> {
        let Some(pending) = self.pending.get_mut(&id) else { return Vec::new() };
        let finished = match pending.receive(id, poller) {
            Received::Nothing => None,
            Received::Failed => self.try_next(id, poller),
            Received::Answer(answer) => {
                let code = answer[3] & 0x0f;
                let is_refusal = code == SERVER_FAILURE || code == REFUSED;
                let asked = pending.server;
                if is_refusal && pending.left.iter().any(|(server, mixed)| *server != asked && *mixed) {
                    self.try_next(id, poller)
                } else {
                    self.finish(id, Some(answer))
                }
            }
        };
        finished.into_iter().collect()
    }

    /// When the next server's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.attempt_ends).min()
    }

    /// Asks the next server where one took too long.
    pub fn expire(&mut self, now: Instant, poller: &Poller) -> Vec<Finished> {
        let is_over = |pending: &Pending| pending.attempt_ends <= now;
        let over: Vec<u64> = self.pending.iter().filter(|(_, one)| is_over(one)).map(|(id, _)| *id).collect();
        over.into_iter().filter_map(|id| self.try_next(id, poller)).collect()
    }
}

enum Received {
    Nothing,
    Failed,
    Answer(Vec<u8>),
}

impl Pending {
    fn receive(&mut self, id: u64, poller: &Poller) -> Received {
        let received = match &mut self.socket {
            None => return Received::Nothing,
            Some(Socket::Datagram(socket)) => {
                let mut buffer = [0; 4096];
                match socket.recv(&mut buffer) {
                    Ok(length) => buffer[..length].to_vec(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Nothing,
                    // Nobody listens there (ICMP).
                    Err(_) => return Received::Failed,
                }
            }
            Some(Socket::Stream { stream, unsent, read }) => {
                match exchange(stream, unsent, read, Token { kind: Kind::Upstream, id }, poller) {
                    Ok(Some(message)) => message,
                    Ok(None) => return Received::Nothing,
                    Err(()) => return Received::Failed,
                }
            }
        };
        // What doesn't fit is not the answer: that may still come.
        restored(&received, &self.sent, &self.question).map_or(Received::Nothing, Received::Answer)
    }
}

/// Writes what is left, and reads: the first whole message.
fn exchange(
    stream: &mut TcpStream,
    unsent: &mut Vec<u8>,
    read: &mut Vec<u8>,
    token: Token,
    poller: &Poller,
) -> Result<Option<Vec<u8>>, ()> {
    let is_pause =
        |kind: ErrorKind| matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected);
    if !unsent.is_empty() {
        match stream.write(unsent) {
            Ok(length) => drop(unsent.drain(..length)),
            Err(error) if is_pause(error.kind()) => {}
            Err(_) => return Err(()),
        }
        if unsent.is_empty() {
            poller.change(&*stream, token, false).map_err(drop)?;
        }
    }
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => return Err(()),
        Ok(length) => read.extend_from_slice(&buffer[..length]),
        Err(error) if is_pause(error.kind()) => {}
        Err(_) => return Err(()),
    }
    Ok(take_message(read))
}

/// The kernel chooses the port at random, and lets nothing in but from the server.
fn datagram(server: SocketAddr, message: &[u8]) -> std::io::Result<Socket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(message)?;
    Ok(Socket::Datagram(socket))
}

fn stream(server: SocketAddr, message: &[u8]) -> std::io::Result<Socket> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let length = u16::try_from(message.len()).map_err(|_| std::io::Error::from(ErrorKind::InvalidInput))?;
    let unsent = [&length.to_be_bytes()[..], message].concat();
    Ok(Socket::Stream { stream: TcpStream::from(socket), unsent, read: Vec::new() })
}

/// The question with a number of its own and, if `mixed`, random capitals.
fn disguised(question: &[u8], mixed: bool, random: &mut Random) -> Vec<u8> {
    let mut message = question.to_vec();
    let name = HEADER..end_of_question(question).map_or(HEADER, |end| end - 4);
    (message[0], message[1]) = (random.byte(), random.byte());
    if mixed {
        for byte in message[name].iter_mut().filter(|byte| byte.is_ascii_alphabetic()) {
            *byte = (*byte & !0x20) | random.byte() & 0x20;
        }
    }
    message
}

/// The answer with the client's own number and name; `None` if it is not one to what was sent.
fn restored(answer: &[u8], sent: &[u8], question: &[u8]) -> Option<Vec<u8>> {
    let end = end_of_question(sent)?;
    let is_answer = answer.len() >= end && answer[2] & 0x80 != 0 && answer[..2] == sent[..2];
    let is_same = is_answer && answer[4..6] == [0, 1] && answer[HEADER..end] == sent[HEADER..end];
    if !is_same {
        return None;
    }
    let mut answer = answer.to_vec();
    answer[..2].copy_from_slice(&question[..2]);
    answer[HEADER..end].copy_from_slice(&question[HEADER..end]);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x07eXample\x03com\0\0\x01\0\x01";

    #[test]
    fn an_answer_must_repeat_what_was_sent() {
        let mut random = Random::new();
        let sent = disguised(QUESTION, true, &mut random);
        assert!(sent[HEADER..].eq_ignore_ascii_case(&QUESTION[HEADER..]));
        let mut answer = sent.clone();
        answer[2] |= 0x80;
        let restored_answer = restored(&answer, &sent, QUESTION).unwrap();
        assert_eq!((&restored_answer[..2], &restored_answer[HEADER..]), (&QUESTION[..2], &QUESTION[HEADER..]));
        for at in [0, 1, 2, 5, 13, 21, 26] {
            let mut spoofed = answer.clone();
            spoofed[at] ^= if at == 2 { 0x80 } else { 0x20 };
            assert_eq!(restored(&spoofed, &sent, QUESTION), None, "{at}");
        }
        assert_eq!(restored(&answer[..HEADER], &sent, QUESTION), None);
    }

    #[test]
    fn numbers_and_capitals_change() {
        let mut random = Random::new();
        let all: std::collections::BTreeSet<_> = (0..64).map(|_| disguised(QUESTION, true, &mut random)).collect();
        assert!(all.len() > 60);
        assert!(all.iter().map(|sent| sent[HEADER..].to_vec()).collect::<std::collections::BTreeSet<_>>().len() > 30);
    }
}
