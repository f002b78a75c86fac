//! The process: its privileges, its end, and clients that mean no good.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cni_tests::packets::at;
use cni_tests::{Sandbox, conf};
use serde_json::json;

use super::*;
use crate::case::{Case, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        improved("has_no_privileges", privileges),
        improved("killed_it_is_started_by_the_next_call", killed),
        improved("killed_under_queries_one_that_stays_takes_over", takes_over),
        improved("one_only", one_only),
        improved("malformed_messages", malformed),
        improved("silent_and_slow_connections", slow),
        improved("a_thousand_connections", thousand),
        improved("a_flood_v4", |sb| flood(sb, conf::V4_GATEWAY, "0.0.0.0:0")),
        improved("a_flood_v6", |sb| flood(sb, conf::V6_GATEWAY, "[::]:0")),
        improved("ten_thousand_names", ten_thousand),
        improved("another_nodes_resolver", other_node),
        improved("files_of_others_are_passed_over", other_files),
    ]
}

fn privileges(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let _web = run(sb, &net, "web");
    let status = fs::read_to_string(format!("/proc/{}/status", resolvers()[0])).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((field("Uid"), field("Gid")), (vec!["65534".to_owned(); 4], vec!["65534".to_owned(); 4]));
    assert!(field("Groups").is_empty());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(
        (field("NoNewPrivs")[0].as_str(), field("Seccomp")[0].as_str(), field("Threads")[0].as_str()),
        ("1", "2", "1")
    );
}

fn killed(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    let kill = || {
        let pid = resolvers()[0];
        signal(pid, "KILL");
        eventually("it is gone", || !resolvers().contains(&pid));
    };
    kill();
    net.check(sb, &client.at).silent();
    assert_eq!(found(&client.ns, "web"), [web.at.ip(false)]);
    kill();
    let third = run(sb, &net, "third");
    assert_eq!(found(&client.ns, "third"), [third.at.ip(false)]);
    kill();
    net.del(sb, &third.at);
    assert_eq!(found(&client.ns, "web"), [web.at.ip(false)]);
    assert_eq!(resolvers().len(), 1);
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// As the packaged unit starts it: one that stays waits for the other's end.
fn takes_over(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (_web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    let first = resolvers()[0];
    let mut stays = std::process::Command::new(sb.dir().join("dnsname")).args(["resolver", "-stay"]).spawn().unwrap();
    eventually("two are there", || resolvers().len() == 2);
    let (ended, lost) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !ended.load(Ordering::Relaxed) {
                let answer = try_ask(&client.ns, at(conf::V4_GATEWAY, 53), "web", A, Duration::from_millis(200));
                lost.fetch_add(usize::from(answer.is_none()), Ordering::Relaxed);
                asked += 1;
            }
            asked
        });
        // Also if an expectation doesn't hold: the scope waits for the thread.
        let asks_no_more = Ends(&ended);
        sleep(Duration::from_millis(300));
        signal(first, "KILL");
        eventually("the other one answers", || {
            resolvers() == [stays.id()]
                && try_ask(&client.ns, at(conf::V4_GATEWAY, 53), "web", A, Duration::from_millis(200)).is_some()
        });
        drop(asks_no_more);
        assert!(asking.join().unwrap() > 10);
    });
    assert!(lost.load(Ordering::Relaxed) < 50, "{lost:?} questions without an answer");
    stays.kill().unwrap();
    stays.wait().unwrap();
}

fn one_only(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let _web = run(sb, &net, "web");
    let other = std::process::Command::new(sb.dir().join("dnsname")).arg("resolver").output().unwrap();
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("another one"));
    assert_eq!(resolvers().len(), 1);
}

/// Changed and cut questions, over both transports; afterwards it answers as before.
fn malformed(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({"upstream": []})));
    let (_web, client) = (run(sb, &net, "web"), run(sb, &net, "client"));
    let good = question(7, "web.dns.test", A);
    let mut messages: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    for at in 0..good.len() {
        for value in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff] {
            let mut changed = good.clone();
            changed[at] = value;
            messages.push(changed);
        }
    }
    // A name that points at itself, one that is too long, and numbers of records that aren't there.
    messages.push([&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat());
    messages.push([&good[..12], &[&[63; 64][..]; 6].concat(), &[0, 0, 1, 0, 1]].concat());
    messages.push([&good[..4], &[0xff; 8], &good[12..]].concat());
    messages.push(vec![0xff; 4096]);
    client.ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((conf::V4_GATEWAY, 53)).unwrap();
        for message in &messages {
            let _ = socket.send(message);
            if let Ok(length) = u16::try_from(message.len())
                && let Ok(mut stream) = TcpStream::connect((conf::V4_GATEWAY, 53))
            {
                let _ = stream.write_all(&[&length.to_be_bytes()[..], message].concat());
            }
        }
    });
    assert_eq!((found(&client.ns, "web").len(), resolvers().len()), (1, 1));
    let spoiled = client.ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((conf::V4_GATEWAY, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send(&[&good[..4], &[0, 9], &good[6..]].concat()).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        read_answer(&buffer[..length]).code
    });
    assert_eq!(spoiled, FORMAT_ERROR);
}

/// CVE-2024-8418: one client that sends nothing must not keep others waiting, nor one that sends a byte at a time.
fn slow(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (_web, client, other) = (run(sb, &net, "web"), run(sb, &net, "client"), run(sb, &net, "other"));
    let mut streams: Vec<TcpStream> =
        client.ns.run(|| (0..8).map(|_| TcpStream::connect((conf::V4_GATEWAY, 53)).unwrap()).collect());
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&question(1, "web", A)[..at]).unwrap();
    }
    assert_eq!(found(&other.ns, "web").len(), 1);
    assert_eq!(ask_tcp(&other.ns, conf::V4_GATEWAY, "web", A).addresses.len(), 1);
    assert_eq!(ask_tcp(&client.ns, conf::V4_GATEWAY, "web", A).addresses.len(), 1);
    // They end by themselves, however long the client waits.
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
    }
}

fn thousand(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let (_web, client, other) = (run(sb, &net, "web"), run(sb, &net, "client"), run(sb, &net, "other"));
    let streams: Vec<TcpStream> = client.ns.run(|| {
        let connect = |_| TcpStream::connect_timeout(&at(conf::V4_GATEWAY, 53), Duration::from_millis(500)).ok();
        (0..1000).filter_map(connect).collect()
    });
    assert!(streams.len() > 32, "{}", streams.len());
    assert_eq!(ask_tcp(&other.ns, conf::V4_GATEWAY, "web", A).addresses.len(), 1);
    assert_eq!(found(&other.ns, "web").len(), 1);
    assert_eq!(found(&client.ns, "web").len(), 1);
    let descriptors = fs::read_dir(format!("/proc/{}/fd", resolvers()[0])).unwrap().count();
    assert!(descriptors < 80, "{descriptors} descriptors for one client");
}

/// Another client asks five times at most, as a resolver library would.
fn flood(sb: &Sandbox, server: &str, any: &str) {
    let (_end, net) = (Reaper, chain(sb, &json!({"upstream": ["192.0.2.99"]})));
    let (_web, client, other) = (run(sb, &net, "web"), run(sb, &net, "client"), run(sb, &net, "other"));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for name in ["web", "far.example"] {
            let (ended, ns) = (&ended, &client.ns);
            scope.spawn(move || {
                ns.run(|| {
                    let socket = UdpSocket::bind(any).unwrap();
                    socket.connect(at(server, 53)).unwrap();
                    while !ended.load(Ordering::Relaxed) {
                        let _ = socket.send(&question(1, name, A));
                    }
                });
            });
        }
        let answered = (0..20).all(|_| {
            let ask = |_| try_ask(&other.ns, at(server, 53), "web", A, Duration::from_secs(1));
            (0..5).find_map(ask).is_some_and(|answer| answer.addresses.len() == 1)
        });
        ended.store(true, Ordering::Relaxed);
        assert!(answered, "another client is not answered");
    });
    let descriptors = fs::read_dir(format!("/proc/{}/fd", resolvers()[0])).unwrap().count();
    assert!(descriptors < 200, "{descriptors} descriptors");
}

/// Files as the plugin writes them, beside those of two containers.
fn ten_thousand(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let client = run(sb, &net, "client");
    let path = fs::read_dir(format!("{STATE}/net")).unwrap().next().unwrap().unwrap().path();
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let prefix = path.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
    for n in 0..10_000u32 {
        let id = format!("{n:064}");
        record["containerId"] = json!(id);
        record["names"] = json!([format!("web-{n}"), format!("{n:012}x")]);
        record["addresses"] = json!([format!("10.78.{}.{}/16", n / 250, n % 250 + 1)]);
        // The key's second part is a hash of `IFNAME:ID`, of 16 digits.
        let key = format!("{prefix}-{}", key_of(&format!("eth0:{id}")));
        let (new, file) = (format!("{STATE}/net/.{key}.new"), format!("{STATE}/net/{key}"));
        fs::write(&new, record.to_string()).unwrap();
        std::os::unix::fs::chown(&new, None, Some(65534)).unwrap();
        fs::rename(&new, &file).unwrap();
    }
    for n in [0, 1, 4_999, 9_999] {
        assert_eq!(found(&client.ns, &format!("web-{n}")).len(), 1, "{n}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", resolvers()[0])).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 30 << 10, "{kib} KiB");
    // It finds them again when it starts.
    signal(resolvers()[0], "KILL");
    net.check(sb, &client.at).silent();
    assert_eq!(found(&client.ns, "web-9999").len(), 1);
}

fn key_of(text: &str) -> String {
    use sha2::Digest;
    let hash = sha2::Sha512::digest(text.as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Two nodes in namespaces that share /run would ask each other's resolver.
fn other_node(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let _web = run(sb, &net, "web");
    let second = sb.container("second-node");
    let ns = sb.container("c2");
    second.run(|| net.try_add(sb, &mut named("c2", &ns))).unwrap_err().error().names(&["network namespace", STATE]);
}

fn other_files(sb: &Sandbox) {
    let (_end, net) = (Reaper, chain(sb, &json!({})));
    let web = run(sb, &net, "web");
    fs::write(format!("{STATE}/net/strange"), "{").unwrap();
    fs::create_dir(format!("{STATE}/net/folder")).unwrap();
    fs::create_dir(format!("{STATE}/empty")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", format!("{STATE}/net/link")).unwrap();
    assert_eq!(found(&web.ns, "web").len(), 1);
    let second = run(sb, &net, "second");
    assert_eq!(found(&web.ns, "second"), [second.at.ip(false)]);
}
