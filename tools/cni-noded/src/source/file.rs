//! A file with a line for each node, which any program may write.
//!
//! ```text
//! # name   addresses               subnets
//! alpha    192.0.2.1 2001:db8::1   10.42.1.0/24 fd00:42:0:1::/64
//! ```

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use cni_net::unusable_host;
use cni_plugin::state;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Reporter;
use crate::node::{self, Node};

/// The longest file, in bytes: some 20 000 nodes.
const MAX: u64 = 1 << 21;
/// An event needs its header and a name (`NAME_MAX`).
const BUFFER: usize = 16 << 10;
/// It is read this often also without an event: not every filesystem has them.
const UNASKED: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Between two attempts to watch.
const RETRY: Duration = Duration::from_secs(1);
/// What may change the file, or what a symbolic link on the way to it means.
const EVENTS: WatchFlags = WatchFlags::MOVED_TO
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM);

/// Follows the file for ever.
pub fn follow(path: &Path, reporter: &Reporter) {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let (mut last, mut watch) = (None, None);
    loop {
        // Watched first, then read: what is written in between is an event.
        watch = watch.or_else(|| open_watch(directory).ok());
        look(path, &mut last, reporter);
        let is_alive = match &watch {
            Some(fd) => wait(fd).unwrap_or(false),
            None => {
                std::thread::sleep(RETRY);
                false
            }
        };
        if !is_alive {
            watch = None;
        }
    }
}

fn open_watch(directory: &Path) -> Result<OwnedFd, Errno> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, directory, EVENTS | WatchFlags::ONLYDIR | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF)?;
    Ok(fd)
}

/// Returns when something may have changed; false if there may be another directory by now, which has to be watched anew.
fn wait(fd: &OwnedFd) -> Result<bool, Errno> {
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&UNASKED)) {
        Ok(0) => return Ok(false),
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(true),
        Err(errno) => return Err(errno),
    }
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(fd, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(inotify::ReadFlags::IGNORED) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads the file, and reports what is new.
fn look(path: &Path, last: &mut Option<Vec<u8>>, reporter: &Reporter) {
    let content = match state::read_config(path, MAX) {
        Ok(content) => content,
        Err(error) => return reporter.away(&format!("cannot read {}: {error}", path.display())),
    };
    match parse(&content) {
        Ok(_) if last.as_ref() == Some(&content) => reporter.alive(),
        Ok(nodes) => {
            reporter.nodes(nodes);
            *last = Some(content);
        }
        Err((line, what)) => reporter.away(&format!("{}, line {line}: {what}", path.display())),
    }
}

/// The nodes in a file's content; else the line that is wrong, and what is wrong with it.
pub fn parse(content: &[u8]) -> Result<Vec<Node>, (usize, String)> {
    let mut nodes: Vec<Node> = Vec::new();
    let (mut names, mut addresses) = (HashMap::new(), HashMap::<IpAddr, usize>::new());
    for (index, bytes) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(bytes).map_err(|_| (line, "it is not UTF-8".to_owned()))?;
        let Some(node) = node(text.split('#').next().unwrap_or_default()).map_err(|what| (line, what))? else {
            continue;
        };
        if let Some(earlier) = names.insert(node.name.clone(), line) {
            return Err((line, format!("node {} is on line {earlier} already", node.name)));
        }
        for address in &node.addresses {
            if let Some(earlier) = addresses.insert(*address, line) {
                return Err((line, format!("{address} is on line {earlier} already")));
            }
        }
        nodes.push(node);
    }
    Ok(nodes)
}

fn node(text: &str) -> Result<Option<Node>, String> {
    let mut words = text.split_whitespace();
    let Some(name) = words.next() else { return Ok(None) };
    if name.contains('/') || name.parse::<IpAddr>().is_ok() {
        return Err(format!("{name:?} is no name: a node's name comes first, then its addresses and subnets"));
    }
    let mut node = Node { name: name.to_owned(), addresses: Vec::new(), subnets: Vec::new() };
    for word in words {
        if word.contains('/') {
            node.subnets.push(node::subnet(word)?);
            continue;
        }
        let address = word.parse().map_err(|_| {
            format!("{word:?} is neither an address (192.0.2.1) nor a subnet (10.42.1.0/24), which are what follows the name")
        })?;
        if let Some(why) = unusable_host(address) {
            return Err(format!("{address} is no address of a node: {why}"));
        }
        node.addresses.push(address);
    }
    if node.addresses.is_empty() {
        return Err(format!("node {name} has no address"));
    }
    Ok(Some(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_addresses_and_subnets() {
        let file =
            b"# nodes\n\nalpha\t192.0.2.1 2001:db8::1 10.42.1.0/24 fd00::/64 # one\r\nbeta 10.42.2.0/24 192.0.2.2";
        let nodes = parse(file).unwrap();
        let shown: Vec<_> =
            nodes.iter().map(|node| (node.name.as_str(), node.addresses.len(), node.subnets.len())).collect();
        assert_eq!(shown, [("alpha", 2, 2), ("beta", 1, 1)]);
        assert_eq!(parse(b"\n").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (file, line, part) in [
            (&b"a 192.0.2.1\n192.0.2.2 10.0.0.0/24"[..], 2, "name comes first"),
            (b"a 192.0.2.1 b", 1, "\"b\" is neither"),
            (b"a", 1, "no address"),
            (b"a 127.0.0.1", 1, "loopback"),
            (b"a 192.0.2.1 10.0.0.1/24", 1, "10.0.0.0/24 is the subnet"),
            (b"a 192.0.2.1 10.0.0.0/33", 1, "10.0.0.0/33"),
            (b"a 192.0.2.1\na 192.0.2.2", 2, "line 1"),
            (b"a 192.0.2.1\nb 192.0.2.1", 2, "line 1"),
            (b"a 192.0.2.1\n\xff", 2, "UTF-8"),
        ] {
            let (found, what) = parse(file).unwrap_err();
            assert!(found == line && what.contains(part), "{found}: {what}");
        }
    }
}
