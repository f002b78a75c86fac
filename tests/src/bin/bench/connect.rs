//! The time of a new TCP connection.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::Netns;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, accept, bind, listen, setsockopt, socket, sockopt,
};

/// Accepts connections on port 80 of a namespace and closes them, until the program ends.
pub(crate) fn serve(ns: &Netns) {
    let server = ns.run(|| {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 80)).expect("bind");
        listen(&fd, Backlog::new(1024).expect("a backlog")).expect("listen");
        fd
    });
    thread::spawn(move || {
        while let Ok(connection) = accept(server.as_raw_fd()) {
            let _ = nix::unistd::close(connection);
        }
    });
}

/// Connects `count` times from a namespace, one after the other.
pub(crate) fn times(from: &Netns, to: SocketAddrV4, count: usize) -> Vec<Duration> {
    from.run(|| {
        let connect = |_| {
            let start = Instant::now();
            let stream = TcpStream::connect_timeout(&SocketAddr::V4(to), Duration::from_secs(60));
            let stream = stream.unwrap_or_else(|e| panic!("{to}: {e}"));
            let time = start.elapsed();
            // Closed by a reset, so that no port stays in TIME_WAIT.
            setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).expect("SO_LINGER");
            time
        };
        (0..count).map(connect).collect()
    })
}
