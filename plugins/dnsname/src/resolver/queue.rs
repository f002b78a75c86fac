//! The questions that wait at a gateway's socket: all its clients share one queue of the kernel's, and what doesn't fit in is lost. A
//! client that keeps it full is shut out for a second, by a filter that the kernel runs before it queues (socket(7),
//! `SO_ATTACH_FILTER`), so that others find room.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{SockFilter, SockRef};

/// Questions of a turn in which all that wait are taken. Others come to their turn too.
const TURN: usize = 64;
/// Between two such turns where nothing waited: each costs a system call more.
const LOOK: u32 = 16;
/// So many full turns in a row are more than the queue holds (`net.core.rmem_default`, about 280 questions): it is filled as fast as it
/// is emptied.
const FULL_TURNS: u32 = 16;
/// Who sent more than this part of them fills it.
const PART: u32 = 8;
const SHUT: Duration = Duration::from_secs(1);
/// A filter has a limited length (`BPF_MAXINSNS`, 4096 instructions; a client takes nine).
const MOST_SHUT: usize = 256;

/// What is known of a socket's queue.
#[derive(Debug, Default)]
pub struct Queue {
    turns: u32,
    /// Questions waited in the last turn.
    is_busy: bool,
    /// Full turns in a row, and who sent what was taken in them.
    full: u32,
    senders: HashMap<IpAddr, u32>,
    shut: Vec<(IpAddr, Instant)>,
}

impl Queue {
    /// How many questions may be taken in the turn that begins.
    pub fn begin(&mut self) -> usize {
        self.turns = self.turns.wrapping_add(1);
        if self.is_busy || self.turns.is_multiple_of(LOOK) { TURN } else { 1 }
    }

    /// One was taken.
    pub fn count(&mut self, client: IpAddr) {
        if self.is_busy {
            *self.senders.entry(client).or_default() += 1;
        }
    }

    /// The turn ends: `taken` of the `most` were there.
    pub fn end(&mut self, taken: usize, most: usize, socket: &UdpSocket) {
        if most == 1 {
            return;
        }
        self.is_busy = taken > 1;
        if taken < most {
            self.full = 0;
            self.senders.clear();
            return;
        }
        self.full += 1;
        if self.full == FULL_TURNS {
            self.shut_out(socket);
        }
    }

    /// When the first client is let in again.
    pub fn deadline(&self) -> Option<Instant> {
        self.shut.iter().map(|(_, end)| *end).min()
    }

    /// Lets in those whose time is over.
    pub fn expire(&mut self, now: Instant, socket: &UdpSocket) {
        if self.deadline().is_some_and(|end| end <= now) {
            self.shut.retain(|(_, end)| *end > now);
            self.filter(socket);
        }
    }

    fn shut_out(&mut self, socket: &UdpSocket) {
        let all: u32 = self.senders.values().sum();
        let end = Instant::now() + SHUT;
        let fill = self.senders.drain().filter(|(_, sent)| *sent > all / PART).map(|(client, _)| (client, end));
        self.shut.extend(fill.take(MOST_SHUT - self.shut.len().min(MOST_SHUT)));
        self.full = 0;
        self.filter(socket);
    }

    /// A kernel without room for a filter has none: then all share what there is.
    fn filter(&self, socket: &UdpSocket) {
        let socket = SockRef::from(socket);
        if self.shut.is_empty() {
            let _ = socket.detach_filter();
        } else {
            let program: Vec<SockFilter> = program(self.shut.iter().map(|(client, _)| *client));
            let _ = socket.attach_filter(&program);
        }
    }
}

/// Classic BPF (the kernel's Documentation/networking/filter.rst): drops what comes from these addresses.
fn program(clients: impl Iterator<Item = IpAddr>) -> Vec<SockFilter> {
    let load = |offset| SockFilter::new(BPF_LD_W_ABS, 0, 0, NETWORK_HEADER + offset);
    let skip_unless = |word, count| SockFilter::new(BPF_JEQ_K, 0, count, word);
    let finish = |length| SockFilter::new(BPF_RET_K, 0, 0, length);
    let mut program = Vec::new();
    for client in clients {
        // Where the source address begins (RFC 791, 3.1; RFC 8200, 3).
        let (start, bytes) = match client {
            IpAddr::V4(v4) => (12, v4.octets().to_vec()),
            IpAddr::V6(v6) => (8, v6.octets().to_vec()),
        };
        let words: Vec<u32> =
            bytes.chunks_exact(4).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))).collect();
        // What is left of this client after a word: two instructions for each that follows, and the end.
        let mut left = u8::try_from(words.len() * 2).unwrap_or(u8::MAX) - 1;
        for (offset, word) in (start..).step_by(4).zip(&words) {
            program.extend([load(offset), skip_unless(*word, left)]);
            left = left.saturating_sub(2);
        }
        program.push(finish(0));
    }
    program.push(finish(u32::MAX));
    program
}

/// Instructions (linux/bpf_common.h), and the place from which the network header is counted (`SKF_NET_OFF`, linux/filter.h).
const BPF_LD_W_ABS: u16 = 0x20;
const BPF_JEQ_K: u16 = 0x15;
const BPF_RET_K: u16 = 0x06;
const NETWORK_HEADER: u32 = 0xfff0_0000;

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// Where a turn takes what waits.
    fn turn(queue: &mut Queue, server: &UdpSocket) -> Vec<IpAddr> {
        let most = queue.begin();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Ok((_, peer)) = server.recv_from(&mut [0; 16])
        {
            queue.count(peer.ip());
            taken.push(peer.ip());
        }
        queue.end(taken.len(), most, server);
        taken
    }

    fn who_fills_it_is_shut_out(server: &str, flooder: &str, other: &str) {
        let server = socket(server);
        let to = server.local_addr().unwrap();
        let (flooder, other) = (socket(flooder), socket(other));
        let mut queue = Queue::default();
        let full = LOOK + FULL_TURNS + 1;
        for _ in 0..full {
            (0..TURN + 8).for_each(|_| drop(flooder.send_to(b"x", to)));
            turn(&mut queue, &server);
        }
        assert_eq!(queue.shut.len(), 1);
        while queue.is_busy {
            turn(&mut queue, &server);
        }
        flooder.send_to(b"x", to).unwrap();
        other.send_to(b"x", to).unwrap();
        assert_eq!(turn(&mut queue, &server), [other.local_addr().unwrap().ip()]);
        queue.expire(Instant::now() + 2 * SHUT, &server);
        flooder.send_to(b"x", to).unwrap();
        assert_eq!(turn(&mut queue, &server), [flooder.local_addr().unwrap().ip()]);
    }

    #[test]
    fn who_fills_it_is_shut_out_v4() {
        who_fills_it_is_shut_out("127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0");
    }

    #[test]
    fn a_client_that_asks_one_after_the_other_never_is() {
        let (server, client) = (socket("127.0.0.1:0"), socket("127.0.0.2:0"));
        let mut queue = Queue::default();
        for _ in 0..10_000 {
            client.send_to(b"x", server.local_addr().unwrap()).unwrap();
            assert_eq!(turn(&mut queue, &server).len(), 1);
        }
        assert!(queue.shut.is_empty());
    }

    #[test]
    fn all_words_of_an_address_count() {
        let of = |address: &str| format!("{:?}", program([address.parse().unwrap()].into_iter()).len());
        assert_eq!((of("10.0.0.1"), of("fd00::1")), ("4".to_owned(), "10".to_owned()));
    }
}
