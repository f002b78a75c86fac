//! `/healthz` and `/metrics`, over HTTP/1.0 on loopback.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::status::Shared;

/// A client's time limit, for reading and for writing.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any request's first line needs.
const REQUEST: u64 = 4096;

/// Binds the address.
///
/// # Errors
/// The system's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// Answers one request after the other; never returns.
pub fn serve(listener: &TcpListener, status: &Shared) {
    for stream in listener.incoming() {
        match stream {
            // A client that disconnects is no error.
            Ok(stream) => drop(answer(stream, status)),
            // Out of descriptors, say: others may become free.
            Err(_) => std::thread::sleep(PATIENCE),
        }
    }
}

fn answer(mut stream: TcpStream, status: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let path = requested(&mut stream)?;
    let (code, body) = match path.as_deref() {
        Some("/healthz") => match status.lock().troubles() {
            troubles if troubles.is_empty() => ("200 OK", "ok\n".to_owned()),
            troubles => ("503 Service Unavailable", troubles),
        },
        Some("/metrics") => ("200 OK", status.lock().metrics()),
        Some(_) => ("404 Not Found", "there are /healthz and /metrics\n".to_owned()),
        None => ("400 Bad Request", "GET is expected\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.0 {code}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// The path that a GET asks for, without its query. Reads the whole head: what is left unread would reset the connection.
fn requested(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut limited = Read::take(stream, REQUEST);
    let mut buffer = [0; 512];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = limited.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        head.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    let is_get = words.next() == Some("GET");
    Ok(words.next().filter(|_| is_get).and_then(|target| target.split('?').next()).map(str::to_owned))
}
