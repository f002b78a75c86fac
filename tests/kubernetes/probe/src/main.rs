//! What runs in the pods of `hack/test-kubernetes.sh` and asks them: servers and clients in one static executable, so that an
//! image needs nothing else.
//!
//! ```text
//! probe serve PORT                     TCP and UDP, both families: the answer is "HOSTNAME CLIENT-ADDRESS"; TCP then echoes lines
//! probe pause                          waits until it is killed
//! probe sleep SECONDS
//! probe get tcp|udp SECONDS TARGET...  asks each target once; a line "TARGET ANSWER" for each
//! probe hold TARGET SECONDS            one TCP session with ten lines a second; fails if it breaks
//! probe load TARGET SECONDS RATE       RATE new connections a second; says how many got no answer
//! ```
//!
//! Under any other name than `probe` it is a stopwatch: it runs the plugin of that name in `/opt/cni/timed` with its own
//! environment and standard streams, and appends "NAME COMMAND MICROSECONDS" to `/var/log/cni-times`.

#![allow(clippy::print_stdout, reason = "answers and results are what its callers read")]

use std::env;
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: probe serve PORT | pause | sleep SECONDS | get tcp|udp SECONDS TARGET... | hold TARGET SECONDS | load TARGET SECONDS RATE";
/// How long a client of `hold` and `load` waits for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let name =
        words.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str()).unwrap_or("probe");
    let outcome = if name == "probe" { act(words.get(1..).unwrap_or_default()) } else { time(name) };
    outcome.unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        ExitCode::FAILURE
    })
}

fn act(words: &[&str]) -> Outcome<ExitCode> {
    match words {
        ["serve", port] => serve(port.parse()?),
        ["pause"] => loop {
            thread::park();
        },
        ["sleep", seconds] => {
            thread::sleep(duration(seconds)?);
            Ok(ExitCode::SUCCESS)
        }
        ["get", protocol, seconds, targets @ ..] => get(protocol, duration(seconds)?, targets),
        ["hold", target, seconds] => hold(target, duration(seconds)?),
        ["load", target, seconds, rate] => load(target, duration(seconds)?, rate.parse()?),
        _ => Err(USAGE.into()),
    }
}

fn duration(seconds: &str) -> Outcome<Duration> {
    Ok(Duration::try_from_secs_f64(seconds.parse()?)?)
}

// --- server ----------------------------------------------------------------------------------------------------------

/// Both families on one socket each: std leaves IPV6_V6ONLY as the kernel's default, which is off.
fn serve(port: u16) -> Outcome<ExitCode> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let (datagrams, listener) = (UdpSocket::bind(any)?, TcpListener::bind(any)?);
    let answer = move |client: SocketAddr| format!("{name} {}\n", client.ip().to_canonical());
    let answer_udp = answer.clone();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            if let Ok((_, client)) = datagrams.recv_from(&mut buffer) {
                // A client that is gone isn't this server's trouble.
                let _ = datagrams.send_to(answer_udp(client).as_bytes(), client);
            }
        }
    });
    loop {
        if let Ok((connection, client)) = listener.accept() {
            let greeting = answer(client);
            thread::spawn(move || greet_and_echo(connection, &greeting));
        }
    }
}

fn greet_and_echo(mut connection: TcpStream, greeting: &str) -> io::Result<()> {
    connection.write_all(greeting.as_bytes())?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        connection.write_all(line.as_bytes())?;
        line.clear();
    }
    Ok(())
}

// --- clients ---------------------------------------------------------------------------------------------------------

fn address(target: &str) -> Outcome<SocketAddr> {
    target.to_socket_addrs()?.next().ok_or_else(|| format!("{target} has no address").into())
}

fn line_of(reader: &mut impl BufRead) -> Outcome<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err("closed without an answer".into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// Connects and reads the greeting.
fn connect(target: &str, patience: Duration) -> Outcome<(BufReader<TcpStream>, String)> {
    let connection = TcpStream::connect_timeout(&address(target)?, patience)?;
    connection.set_read_timeout(Some(patience))?;
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    let greeting = line_of(&mut reader)?;
    Ok((reader, greeting))
}

fn ask_udp(target: &str, patience: Duration) -> Outcome<String> {
    let to = address(target)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"?")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).trim_end().to_owned())
}

fn get(protocol: &str, patience: Duration, targets: &[&str]) -> Outcome<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for target in targets {
        let answer = match protocol {
            "tcp" => connect(target, patience).map(|(_, greeting)| greeting),
            "udp" => ask_udp(target, patience),
            _ => return Err(format!("protocol {protocol:?} is neither tcp nor udp").into()),
        };
        match answer {
            Ok(answer) => println!("{target} {answer}"),
            Err(error) => {
                println!("{target} - {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn hold(target: &str, length: Duration) -> Outcome<ExitCode> {
    let (mut reader, _) = connect(target, PATIENCE)?;
    // A retransmission may take its time; a session that is gone is reset or never answers.
    reader.get_ref().set_read_timeout(Some(Duration::from_secs(30)))?;
    let (begun, mut lines, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while begun.elapsed() < length {
        let asked = Instant::now();
        reader.get_ref().write_all(format!("{lines}\n").as_bytes())?;
        line_of(&mut reader).map_err(|error| format!("after {lines} lines: {error}"))?;
        longest = longest.max(asked.elapsed());
        lines += 1;
        thread::sleep(Duration::from_millis(100));
    }
    println!("{lines} lines, longest wait {} ms", longest.as_millis());
    Ok(ExitCode::SUCCESS)
}

fn load(target: &str, length: Duration, rate: u32) -> Outcome<ExitCode> {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let pause = Duration::from_secs(1).checked_div(rate).ok_or("a rate of 0 asks nothing")?;
    let (begun, mut clients) = (Instant::now(), Vec::new());
    while begun.elapsed() < length {
        let (lost, target) = (Arc::clone(&lost), target.to_owned());
        clients.push(thread::spawn(move || {
            if let Err(error) = connect(&target, PATIENCE)
                && let Ok(mut lost) = lost.lock()
            {
                lost.push(error.to_string());
            }
        }));
        thread::sleep(pause);
    }
    let asked = clients.len();
    for client in clients {
        client.join().map_err(|_| "a client broke")?;
    }
    let mut lost = lost.lock().map_err(|_| "a client broke")?.clone();
    println!("{} of {asked} lost", lost.len());
    let code = if lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    lost.sort();
    lost.dedup();
    for error in lost {
        println!("{error}");
    }
    Ok(code)
}

// --- stopwatch -------------------------------------------------------------------------------------------------------

fn time(name: &str) -> Outcome<ExitCode> {
    let begun = Instant::now();
    let status = Command::new(Path::new("/opt/cni/timed").join(name)).status()?;
    let took = begun.elapsed().as_micros();
    let command = env::var("CNI_COMMAND").unwrap_or_default();
    let mut times = OpenOptions::new().create(true).append(true).open("/var/log/cni-times")?;
    // One write: calls run at the same time.
    times.write_all(format!("{name} {command} {took}\n").as_bytes())?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
