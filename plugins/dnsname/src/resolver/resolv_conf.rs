//! The servers of the node: `/etc/resolv.conf`, which may change at any time.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use cni_plugin::state::read_config;

const PATH: &str = "/etc/resolv.conf";
const LONGEST: u64 = 64 << 10;
/// The C library looks for three at most (`MAXNS`).
const MOST: usize = 3;
/// How long what was read counts.
const FRESH: Duration = Duration::from_secs(1);

/// The node's servers.
#[derive(Debug)]
pub struct NodeServers {
    servers: Vec<SocketAddr>,
    read: Option<Instant>,
}

impl NodeServers {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self { servers: Vec::new(), read: None }
    }

    /// The servers, but for the resolver itself: it would ask itself for ever.
    pub fn servers(&mut self, is_own: impl Fn(SocketAddr) -> bool) -> Vec<SocketAddr> {
        if self.read.is_none_or(|read| read.elapsed() >= FRESH) {
            // A file that can't be read for a moment says nothing about its servers.
            if let Ok(content) = read_config(Path::new(PATH), LONGEST) {
                self.servers = parse(&String::from_utf8_lossy(&content));
            }
            self.read = Some(Instant::now());
        }
        self.servers.iter().copied().filter(|server| !is_own(*server)).collect()
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    };
    text.lines().filter_map(server).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn servers_are_addresses() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 1.1.1.1\n nameserver 2001:db8::1 # x\nnameserver x\nnameserver 2.2.2.2\nnameserver 3.3.3.3";
        let servers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["1.1.1.1:53", "[2001:db8::1]:53", "2.2.2.2:53"]);
    }
}
