//! The rates hold, measured with datagrams in both directions and both families, and so does the length of the queue.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use cni_tests::packets::ping;
use cni_tests::{Netns, Sandbox, conf};
use serde_json::{Value, json};

use super::attached;
use crate::case::{Case, common, improved};

/// Bits a second.
const RATE: u32 = 20_000_000;
/// The bucket is empty, and the queue full.
const WARM: Duration = Duration::from_millis(700);
const MEASURED: Duration = Duration::from_millis(1500);
/// Of a datagram, without headers.
const PAYLOAD: usize = 1400;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (family, v6) in [("ipv4", false), ("ipv6", true)] {
        for (direction, ingress) in [("ingress", true), ("egress", false)] {
            let name = format!("{direction}_rate_holds_over_{family}");
            cases.push(common(name, move |sb| holds(sb, v6, ingress, &limits(RATE / 50))));
            let name = format!("{direction}_rate_holds_over_{family}_with_the_burst_of_containerd");
            cases.push(improved(name, move |sb| holds(sb, v6, ingress, &limits(u32::MAX))));
        }
        cases.push(improved(format!("rate_on_the_containers_interface_holds_over_{family}"), move |sb| {
            let mut keys = limits(RATE / 50);
            keys["egressDevice"] = "container".into();
            holds(sb, v6, false, &keys);
        }));
    }
    for ingress in [true, false] {
        let direction = if ingress { "ingress" } else { "egress" };
        // Half a second's worth at once, and yet nothing waits for half a second.
        let name = format!("{direction}_burst_does_not_lengthen_the_queue");
        cases.push(improved(name, move |sb| {
            let seen = measure(sb, false, ingress, &limits(RATE / 2));
            assert!(seen.longest < Duration::from_millis(200), "{seen:?}");
        }));
    }
    cases
}

fn limits(burst: u32) -> Value {
    json!({"ingressRate": RATE, "ingressBurst": burst, "egressRate": RATE, "egressBurst": burst})
}

/// Within 10 %.
fn holds(sb: &Sandbox, v6: bool, ingress: bool, keys: &Value) {
    let seen = measure(sb, v6, ingress, keys);
    assert!((0.9..1.1).contains(&(seen.rate / f64::from(RATE))), "{seen:?} at {RATE}");
}

/// What came through.
#[derive(Debug)]
struct Seen {
    /// Bits a second, with all headers.
    rate: f64,
    /// The longest time on the way.
    longest: Duration,
}

fn measure(sb: &Sandbox, v6: bool, ingress: bool, keys: &Value) -> Seen {
    let (ns, at, _) = attached(sb, keys);
    let (node, gateway) = (sb.node(), if v6 { conf::V6_GATEWAY } else { conf::V4_GATEWAY });
    match ingress {
        true => through(&node, &ns, &at.ip(v6)),
        false => through(&ns, &node, gateway),
    }
}

/// Sends twice as much as may pass.
fn through(from: &Netns, to: &Netns, address: &str) -> Seen {
    // An IPv6 address can't be used at once.
    assert!(ping(from, address));
    let at = |port| SocketAddr::new(address.parse().unwrap(), port);
    let receiver = to.run(|| UdpSocket::bind(at(0)).unwrap());
    let any = if at(0).is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let sender = from.run(|| UdpSocket::bind(any).unwrap());
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    // Where the queue is longer than the socket's buffer, sending would wait.
    sender.set_nonblocking(true).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // Ethernet, IP and UDP.
    let size = PAYLOAD + 14 + 8 + if at(0).is_ipv6() { 40 } else { 20 };
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| flood(&sender, start, size));
        received(&receiver, start, size)
    })
}

fn flood(sender: &UdpSocket, start: Instant, size: usize) {
    let mut sent = 0.0;
    let mut datagram = [0; PAYLOAD];
    while start.elapsed() < WARM + MEASURED {
        while sent * size as f64 * 8.0 < start.elapsed().as_secs_f64() * f64::from(RATE) * 2.0 {
            datagram[..16].copy_from_slice(&start.elapsed().as_nanos().to_ne_bytes());
            // What doesn't fit is lost here and not in the queue.
            let _ = sender.send(&datagram);
            sent += 1.0;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn received(receiver: &UdpSocket, start: Instant, size: usize) -> Seen {
    let (mut bytes, mut longest) = (0, Duration::ZERO);
    let mut datagram = [0; PAYLOAD];
    loop {
        let got = receiver.recv(&mut datagram).is_ok();
        let now = start.elapsed();
        if now > WARM + MEASURED {
            break;
        }
        if got && now > WARM {
            bytes += size;
            let sent = u128::from_ne_bytes(datagram[..16].try_into().unwrap());
            let way = now.saturating_sub(Duration::from_nanos(u64::try_from(sent).unwrap()));
            longest = longest.max(way);
        }
    }
    Seen { rate: bytes as f64 * 8.0 / MEASURED.as_secs_f64(), longest }
}
