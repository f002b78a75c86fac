//! portmap's `share`: several containers behind one port of the node. From where such a port answers is in the matrix of `reach`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cni_tests::conf::{self, Backend};
use cni_tests::faults::{Fault, SHARED, at_every_call, wait_for_the_rest};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::parallel::at_once;
use cni_tests::sctp::Listener;
use cni_tests::story::{Container, Story};
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, Snapshot, netns, rules};
use serde_json::{Value, json};

use super::PORT;
use crate::case::{Case, improved};

const BOTH: [(u16, u16, &str); 2] = [(PORT, 80, "tcp"), (PORT, 80, "udp")];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let fault = |name: &str, verb: &'static str, call: &'static str, what: &'static str| {
        improved(name, move |sb| faults(sb, verb, Fault { call, what }))
    };
    vec![
        improved("each_of_three_gets_a_third", |sb| spread(sb, 3)),
        improved("each_of_five_gets_a_fifth", |sb| spread(sb, 5)),
        improved("each_of_twenty_gets_a_twentieth", |sb| spread(sb, 20)),
        improved("no_connection_fails_after_a_del", under_load),
        improved("connections_of_others_go_on::udp", established),
        improved("connections_of_others_go_on::tcp", streams),
        improved("members_have_ports_of_their_own", own_ports),
        improved("members_of_several_networks", several_networks),
        improved("sctp_and_an_address_of_the_node", on_address),
        improved("behind_closed_doors_and_policies", closed_doors),
        improved("who_does_not_share_is_refused", refused),
        improved("a_taken_port_names_its_holder_in_iptables", other_backend),
        improved("check_names_what_is_gone", noticed),
        improved("a_flushed_rule_set", flushed),
        improved("del_and_gc_by_the_owner_alone", by_owner),
        improved("adds_and_dels_at_once", at_the_same_time),
        improved("a_mapping_has_a_share_of_its_own", of_mapping),
        fault("killed_at_any_instant::add", "ADD", "sendto", "signal=KILL"),
        fault("killed_at_any_instant::del", "DEL", "sendto", "signal=KILL"),
        fault("failing_at_any_instant::add", "ADD", "sendto", "error=ENOBUFS"),
    ]
}

/// bridge and portmap, with the ports shared.
fn start(sb: &Sandbox) -> Story<'_> {
    start_with(sb, |_, _| {})
}

fn start_with(sb: &Sandbox, edit: impl Fn(&mut Value, &mut Value)) -> Story<'_> {
    Story::with(sb, Backend::Nftables, |bridge, portmap| {
        portmap["share"] = "web".into();
        edit(bridge, portmap);
    })
}

/// Who answers so many questions.
fn answers(from: &Netns, proto: Proto, to: &str, port: u16, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let answer = ask(from, proto, at(to, port)).unwrap_or_else(|error| panic!("{proto:?} {to}:{port}: {error}"));
        *answers.entry(answer.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    answers
}

/// So many that not to meet one of three has a chance below one in a million.
const MANY: usize = 40;

/// Fails unless these and no others answer.
#[track_caller]
fn all_answer(from: &Netns, to: &str, expected: &[&str]) {
    for proto in [Proto::Tcp, Proto::Udp] {
        let found = answers(from, proto, to, PORT, MANY);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected, "{proto:?} {to}");
    }
}

/// Counts the first packets that each gets: 2500 for each, so that 10 % is five times the standard deviation.
fn spread(sb: &Sandbox, count: u16) {
    let story = start(sb);
    let members: Vec<Container> =
        (0..count).map(|n| story.attach_bare(&format!("c{n}"), &[(PORT, 80, "udp")])).collect();
    let listen = |member: &Container| {
        let socket = member.ns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 80))).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, 0)
    };
    let mut sockets: Vec<(UdpSocket, u32)> = members.iter().map(listen).collect();
    let total = 2500 * count;
    let targets = [Outside::NODE_V4, Outside::NODE_V6];
    for (batch, to) in (0..total / 100).zip(targets.into_iter().cycle()) {
        story.outside.ns.run(|| {
            let to = at(to, PORT);
            for n in 0..100 {
                // Each from another port: another connection.
                let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let client = UdpSocket::bind(SocketAddr::new(any, 10_000 + batch * 100 + n)).unwrap();
                let sent = client.send_to(b"?", to);
                sent.unwrap();
            }
        });
        for (socket, heard) in &mut sockets {
            let mut buffer = [0; 8];
            while socket.recv(&mut buffer).is_ok() {
                *heard += 1;
            }
        }
    }
    let heard: Vec<u32> = sockets.iter().map(|(_, heard)| *heard).collect();
    let sum: u32 = heard.iter().sum();
    assert!(sum + 20 >= u32::from(total), "nearly all arrive (neighbours are looked up first): {heard:?}");
    assert!(heard.iter().all(|heard| (2250..=2750).contains(heard)), "{heard:?}");
    members.iter().for_each(|member| story.chain.check(sb, &member.at).silent());
}

/// When a connection was begun, and whether it got an answer.
type Attempt = (Instant, Result<(), String>);

/// Connects again and again from several threads, about 1000 times a second, until `action` has returned and 500 ms more: when it
/// had returned, and the attempts.
fn load(from: &Netns, to: SocketAddr, action: impl FnOnce() + Send) -> (Instant, Vec<Attempt>) {
    const THREADS: u32 = 4;
    let (attempts, done) = (Mutex::new(Vec::new()), Mutex::new(None));
    let connect = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        if text.is_empty() { Err(std::io::Error::other("no answer")) } else { Ok(()) }
    };
    let over = || done.lock().unwrap().is_some_and(|done: Instant| done.elapsed() > Duration::from_millis(500));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                from.run(|| {
                    while !over() {
                        let begin = Instant::now();
                        let outcome = connect().map_err(|error: std::io::Error| error.to_string());
                        attempts.lock().unwrap().push((begin, outcome));
                        std::thread::sleep((Duration::from_secs(1) / 1000 * THREADS).saturating_sub(begin.elapsed()));
                    }
                });
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        action();
        *done.lock().unwrap() = Some(Instant::now());
    });
    (done.into_inner().unwrap().unwrap(), attempts.into_inner().unwrap())
}

/// A server that answers at once, whatever the load.
fn serve(ns: &Netns, label: &'static str) {
    let listener = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(label.as_bytes());
        }
    });
}

fn under_load(sb: &Sandbox) {
    let story = start(sb);
    let names = ["a", "b", "c", "d", "e"];
    let members: Vec<Container> = names.iter().map(|id| story.attach_bare(id, &BOTH)).collect();
    members.iter().zip(names).for_each(|(member, name)| serve(&member.ns, name));
    // The holder of the port itself, one in the middle, and the last one.
    for (gone, to) in [(0, Outside::NODE_V4), (2, Outside::NODE_V6), (4, Outside::NODE_V4)] {
        let (done, attempts) = load(&story.outside.ns, at(to, PORT), || story.chain.del(sb, &members[gone].at));
        let after: Vec<_> = attempts.iter().filter(|(begin, _)| *begin > done).collect();
        let failed: Vec<_> = after.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {} new connections failed: {failed:?}", failed.len(), after.len());
        assert!(after.len() > 20 && attempts.len() > after.len(), "{} and {}", attempts.len(), after.len());
    }
    let left = answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, PORT, MANY);
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["b", "d"]);
}

/// A client that keeps its connection, by TCP or UDP, and the member that it has.
fn client(story: &Story<'_>) -> (UdpSocket, String) {
    let socket = story.outside.ns.run(|| UdpSocket::bind((Outside::V4, 0))).unwrap();
    socket.connect((Outside::NODE_V4, PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let member = hears(&socket);
    (socket, member)
}

fn hears(client: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let answered = (0..10).find_map(|_| client.send(b"?").and_then(|_| client.recv(&mut buffer)).ok());
    let answer = String::from_utf8_lossy(&buffer[..answered.expect("an answer")]).into_owned();
    answer.split(' ').next().unwrap().to_owned()
}

fn established(sb: &Sandbox) {
    let story = start(sb);
    let [one, two] = ["one", "two"].map(|id| story.attach(id, &BOTH));
    let flows: Vec<(UdpSocket, String)> = (0..12).map(|_| client(&story)).collect();
    let of = |name: &str| flows.iter().filter(|(_, member)| member == name).count();
    assert!(of("one") > 0 && of("two") > 0, "{} {}", of("one"), of("two"));
    // Who joins takes none of the others' flows.
    let three = story.attach("three", &BOTH);
    flows.iter().for_each(|(socket, member)| assert_eq!(hears(socket), *member, "after a third has joined"));
    story.chain.del(sb, &one.at);
    for (socket, member) in &flows {
        let now = hears(socket);
        let expected = if member == "one" { now == "two" || now == "three" } else { now == *member };
        assert!(expected, "{member} before, {now} after one has left");
    }
    [&two, &three].into_iter().for_each(|member| story.chain.check(sb, &member.at).silent());
}

/// Answers each byte with its name.
fn echo(ns: &Netns, name: &'static str) {
    let listener = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.read_exact(&mut [0]).is_ok() && stream.write_all(name.as_bytes()).is_ok() {}
            });
        }
    });
}

/// The member at the other end of a connection, or why there is none.
fn other_end(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut name = [0];
    stream.write_all(b"?").and_then(|()| stream.read_exact(&mut name))?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

fn streams(sb: &Sandbox) {
    let story = start(sb);
    let [one, two] = ["a", "b"].map(|id| story.attach_bare(id, &BOTH));
    [("a", &one), ("b", &two)].into_iter().for_each(|(name, member)| echo(&member.ns, name));
    let connect = |to| {
        let stream =
            story.outside.ns.run(|| TcpStream::connect_timeout(&at(to, PORT), Duration::from_secs(3))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let member = other_end(&stream).unwrap();
        (stream, member)
    };
    let both = [Outside::NODE_V4, Outside::NODE_V6].into_iter();
    let connections: Vec<(TcpStream, String)> = both.flat_map(|to| (0..12).map(move |_| to)).map(connect).collect();
    assert!(["a", "b"].iter().all(|name| connections.iter().any(|(_, member)| member == name)));
    let _three = story.attach_bare("c", &BOTH);
    let go_on = |stays: &dyn Fn(&str) -> bool| {
        for (stream, member) in connections.iter().filter(|(_, member)| stays(member)) {
            assert_eq!(other_end(stream).unwrap_or_else(|error| error.to_string()), *member);
        }
    };
    go_on(&|_| true);
    story.chain.del(sb, &one.at);
    go_on(&|member| member == "b");
}

/// The same port of the node, and another one of each container.
fn own_ports(sb: &Sandbox) {
    let story = start(sb);
    let _one = story.attach("one", &BOTH);
    let ns = sb.container("two");
    let mut two = Attachment::new("two", &ns).publish(&[(PORT, 8000, "tcp"), (PORT, 8000, "udp"), (9000, 80, "tcp")]);
    story.chain.add(sb, &mut two);
    let _servers = [("two", 8000), ("other", 80)].map(|(label, port)| Server::start(&ns, label, port));
    all_answer(&story.outside.ns, Outside::NODE_V4, &["one", "two"]);
    assert!(ask(&story.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 9000)).unwrap().starts_with("other "));
    story.chain.check(sb, &two).silent();
}

fn second(sb: &Sandbox, story: &Story<'_>) -> Chain {
    let bridge = json!({"type": "bridge", "bridge": "br-second", "isDefaultGateway": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.79.0.0/24"}], [{"subnet": "fd00:79::/64"}]]}});
    let mut portmap = conf::portmap(Backend::Nftables);
    portmap["share"] = "web".into();
    sb.needs("bridge", "1.1.0");
    Chain::new("second", story.chain.version(), &[bridge, portmap])
}

/// Members on two networks; from outside, from the node and 127.0.0.1, and from the members themselves, each of which also gets
/// itself (hairpin).
fn several_networks(sb: &Sandbox) {
    let story = start(sb);
    let one = story.attach("one", &BOTH);
    let second = second(sb, &story);
    let ns = sb.container("two");
    let mut two = Attachment::new("two", &ns).publish(&BOTH);
    second.add(sb, &mut two);
    let _server = Server::start(&ns, "two", 80);
    for (from, to) in [
        (&story.outside.ns, Outside::NODE_V4),
        (&story.outside.ns, Outside::NODE_V6),
        (&story.node, Outside::NODE_V4),
        (&story.node, Outside::NODE_V6),
        (&story.node, "127.0.0.1"),
        (&one.ns, conf::V4_GATEWAY),
        (&one.ns, conf::V6_GATEWAY),
        (&ns, "10.79.0.1"),
    ] {
        all_answer(from, to, &["one", "two"]);
    }
    story.chain.check(sb, &one.at).silent();
    second.check(sb, &two).silent();
    // A container on both networks is a member once, and stays one when it leaves the first.
    let mut also = Attachment::new("one", &one.ns).on("eth1").publish(&BOTH);
    second.add(sb, &mut also);
    let members = || rules::naming(&story.node, "ip cni_ports members");
    assert_eq!(members().iter().filter(|line| line.contains("id: one,")).count(), 2, "TCP and UDP: {:?}", members());
    second.check(sb, &also).silent();
    story.chain.del(sb, &one.at);
    second.check(sb, &also).silent();
    assert_eq!(members().iter().filter(|line| line.contains("id: one,")).count(), 2, "{:?}", members());
    all_answer(&story.node, Outside::NODE_V4, &["one", "two"]);
    second.del(sb, &also);
    second.del(sb, &two);
    assert!(members().iter().all(|line| !line.contains("id: ")), "{:?}", members());
}

fn on_address(sb: &Sandbox) {
    let story = start(sb);
    for (v6, node) in [(false, Outside::NODE_V4), (true, Outside::NODE_V6)] {
        let mapping = json!([{"hostPort": PORT, "containerPort": 80, "protocol": "sctp", "hostIP": node},
            {"hostPort": PORT, "containerPort": 80, "protocol": "tcp", "hostIP": node}]);
        let ids = if v6 { ["one6", "two6"] } else { ["one4", "two4"] };
        let [one, two] = ids.map(|id| story.attach_with(id, |at| at.with("portMappings", mapping.clone())));
        // The same packet from both, which is one connection: it reaches one of the members.
        let heard = std::thread::scope(|scope| {
            let listen = |member: &Container| {
                let listener = Listener::start(&member.ns, v6);
                let asked = [(&story.outside.ns, node.parse().unwrap(), false)];
                scope.spawn(move || listener.hears(PORT, &asked).into_iter().flatten().count())
            };
            [&one, &two].map(listen).map(|heard| heard.join().unwrap())
        });
        assert!(heard == [0, 1] || heard == [1, 0], "{heard:?}");
        let found = answers(&story.outside.ns, Proto::Tcp, node, PORT, MANY);
        assert_eq!(found.keys().collect::<Vec<_>>(), ids);
        assert!(silent(&story.node, Proto::Tcp, at(conf::V4_GATEWAY, PORT)), "on one address only");
        story.chain.check(sb, &one.at).silent();
        story.chain.del(sb, &one.at);
        let found = answers(&story.outside.ns, Proto::Tcp, node, PORT, MANY);
        assert_eq!(found.keys().collect::<Vec<_>>(), ids[1..].to_vec());
        story.chain.check(sb, &two.at).silent();
        story.chain.del(sb, &two.at);
    }
}

/// Closed doors, isolated networks, and a node that drops what is forwarded.
fn closed_doors(sb: &Sandbox) {
    for tool in ["iptables", "ip6tables"] {
        netns::sh(&[tool, "-P", "FORWARD", "DROP"]);
    }
    let mut story = start(sb);
    let firewall = conf::firewall(Backend::Nftables, "publishedOnly, isolated");
    let with = |chain: &Chain| {
        Chain::new(chain.name(), chain.version(), &[chain.plugins(), std::slice::from_ref(&firewall)].concat())
    };
    story.chain = with(&story.chain);
    let far = with(&second(sb, &story));
    let [one, two] = ["one", "two"].map(|id| story.attach(id, &BOTH));
    let ns = sb.container("stranger");
    let mut stranger = Attachment::new("stranger", &ns);
    far.add(sb, &mut stranger);
    story.outside.ns.sh(&["ip", "route", "add", "10.77.0.0/24", "via", Outside::NODE_V4]);
    for (from, to) in [
        (&story.outside.ns, Outside::NODE_V4),
        (&story.outside.ns, Outside::NODE_V6),
        (&ns, Outside::NODE_V4),
        (&story.node, "127.0.0.1"),
    ] {
        all_answer(from, to, &["one", "two"]);
    }
    for from in [&story.outside.ns, &ns] {
        assert!(silent(from, Proto::Tcp, at(&one.ip(false), 80)), "nobody gets around the published port");
    }
    [&one, &two].into_iter().for_each(|member| story.chain.check(sb, &member.at).silent());
    story.chain.del(sb, &one.at);
    all_answer(&story.outside.ns, Outside::NODE_V4, &["two"]);
}

fn refused(sb: &Sandbox) {
    let story = start(sb);
    let one = story.attach("one", &BOTH);
    let other = |share: Value| {
        let mut plugins = story.chain.plugins().to_vec();
        plugins[1]["share"] = share;
        Chain::new("story", story.chain.version(), &plugins)
    };
    let [ns, alone_ns] = ["two", "alone"].map(|id| sb.container(id));
    let before = Snapshot::of(&[&story.node]);
    for chain in [other(Value::Null), other("api".into())] {
        let mut two = Attachment::new("two", &ns).publish(&BOTH);
        chain.try_add(sb, &mut two).expect_err("it does not share").error().names(&["8080", "tcp", "one"]);
        chain.del(sb, &two);
    }
    Snapshot::of(&[&story.node]).same_but(&before, &SHARED);
    story.chain.check(sb, &one.at).silent();
    story.chain.del(sb, &one.at);
    let mut alone = Attachment::new("alone", &alone_ns).publish(&BOTH);
    other(Value::Null).add(sb, &mut alone);
    let mut two = Attachment::new("two", &ns).publish(&BOTH);
    story.chain.try_add(sb, &mut two).expect_err("the port is one container's").error().names(&["alone"]);
    // What can't be kept is refused by name.
    let mut at_none = two.clone();
    at_none.result = None;
    for (key, value, names) in [
        ("backend", json!("iptables"), ["share", "iptables"]),
        ("conditionsV4", json!(["ip saddr 10.0.0.0/8"]), ["share", "conditionsV4"]),
        ("nat", json!(false), ["share", "nat"]),
        ("share", json!("a b"), ["share", "a b"]),
    ] {
        let mut portmap = story.chain.plugins()[1].clone();
        portmap[key] = value;
        for verb in ["ADD", "STATUS"] {
            story.chain.call(sb, verb, &portmap, &at_none, one.at.result.as_ref()).run().error().names(&names);
        }
    }
}

/// The backends know of each other.
fn other_backend(sb: &Sandbox) {
    let story = start(sb);
    let _one = story.attach("one", &BOTH);
    let mut plugins = story.chain.plugins().to_vec();
    plugins[1] = conf::portmap(Backend::Iptables);
    let mut two = Attachment::new("two", &sb.container("two")).publish(&BOTH);
    let chain = Chain::new("story", story.chain.version(), &plugins);
    chain.try_add(sb, &mut two).expect_err("it is shared by nftables").error().names(&["one"]);
}

fn portmap(story: &Story<'_>, verb: &str, to: &Attachment) -> Outcome {
    story.chain.call(story.sb, verb, &story.chain.plugins()[1], to, to.result.as_ref()).run()
}

fn noticed(sb: &Sandbox) {
    let story = start(sb);
    let members = ["one", "two", "three"].map(|id| story.attach(id, &BOTH));
    for (deed, named) in [
        ("delete element ip cni_ports members { tcp . 8080 . 1 }", "member 1 of host port 8080 tcp"),
        ("delete element ip6 cni_ports members { udp . 8080 . 1 }", "member 1 of host port 8080 udp"),
        ("flush chain ip cni_ports any-of-3", "any-of-3"),
        ("insert rule ip cni_ports any-of-3 accept", "1 more"),
        ("delete element ip cni_ports shares { tcp . 8080 }", "choice of a member of host port 8080 tcp"),
        ("flush chain ip cni_ports forwards", "vmap @shares"),
    ] {
        story.node.sh(&["nft", deed]);
        portmap(&story, "CHECK", &members[1].at).error().names(&[named]);
        if deed.contains("insert") {
            story.node.sh(&["nft", "flush chain ip cni_ports any-of-3"]);
        }
        portmap(&story, "ADD", &members[1].at).result();
        members.iter().for_each(|member| portmap(&story, "CHECK", &member.at).silent());
        all_answer(&story.outside.ns, Outside::NODE_V4, &["one", "three", "two"]);
    }
}

/// Until each is attached again, those who are share the port.
fn flushed(sb: &Sandbox) {
    let story = start(sb);
    let [one, two] = ["one", "two"].map(|id| story.attach(id, &BOTH));
    story.node.sh(&["nft", "flush", "ruleset"]);
    for member in [&two, &one] {
        portmap(&story, "CHECK", &member.at).error().names(&["cni_ports"]);
    }
    portmap(&story, "ADD", &two.at).result();
    all_answer(&story.outside.ns, Outside::NODE_V4, &["two"]);
    portmap(&story, "ADD", &one.at).result();
    all_answer(&story.outside.ns, Outside::NODE_V4, &["one", "two"]);
    [&one, &two].into_iter().for_each(|member| portmap(&story, "CHECK", &member.at).silent());
}

fn by_owner(sb: &Sandbox) {
    let story = start(sb);
    let before = Snapshot::of(&[&story.node]);
    let [stays, bare, stale] = ["stays", "bare", "stale"].map(|id| story.attach(id, &BOTH));
    let forgotten = Attachment { result: None, capabilities: serde_json::Map::new(), ..bare.at.clone() };
    let mut conf = story.chain.plugins()[1].clone();
    conf["share"] = "not a name".into();
    story.chain.call(sb, "DEL", &conf, &forgotten, None).run().silent();
    portmap(&story, "CHECK", &stays.at).silent();
    all_answer(&story.outside.ns, Outside::NODE_V4, &["stale", "stays"]);
    let mut conf = conf::named(story.chain.version(), story.chain.plugins()[1].clone());
    (conf["name"], conf["cni.dev/valid-attachments"]) =
        (story.chain.name().into(), json!([{"containerID": "stays", "ifname": "eth0"}]));
    sb.plugin("portmap", "GC").conf(&conf).run().silent();
    portmap(&story, "CHECK", &stays.at).silent();
    all_answer(&story.outside.ns, Outside::NODE_V6, &["stays"]);
    for gone in [&stays, &bare, &stale] {
        story.chain.del(sb, &gone.at);
    }
    let left = rules::naming(&story.node, "cni_ports");
    assert!(left.iter().all(|line| !line.contains("id: ") && !line.contains("any-of-")), "{left:?}");
    drop(before);
}

fn at_the_same_time(sb: &Sandbox) {
    let story = start(sb);
    let members: Vec<Container> = (0..8).map(|n| story.attach_bare(&format!("c{n}"), &[])).collect();
    let attachments: Vec<Attachment> = members.iter().map(|member| member.at.clone().publish(&BOTH)).collect();
    for _ in 0..3 {
        at_once(attachments.len(), |n| portmap(&story, "ADD", &attachments[n]).result());
        attachments.iter().for_each(|at| portmap(&story, "CHECK", at).silent());
        let listed = rules::naming(&story.node, "ip cni_ports members");
        assert_eq!(listed.iter().filter(|line| line.contains("id: c")).count(), 16, "{listed:?}");
        // Half of them leave while the others are added again.
        at_once(attachments.len(), |n| {
            if n % 2 == 0 {
                portmap(&story, "DEL", &attachments[n]).silent();
            } else {
                portmap(&story, "ADD", &attachments[n]).result();
            }
        });
        let stay = attachments.iter().skip(1).step_by(2);
        stay.clone().for_each(|at| portmap(&story, "CHECK", at).silent());
        let listed = rules::naming(&story.node, "ip cni_ports shares");
        assert!(listed.iter().any(|line| line.contains("any-of-4")), "{listed:?}");
        at_once(attachments.len(), |n| portmap(&story, "DEL", &attachments[n]).silent());
        let left = rules::naming(&story.node, "cni_ports");
        assert!(left.iter().all(|line| !line.contains("id: c") && !line.contains("any-of-")), "{left:?}");
    }
}

fn of_mapping(sb: &Sandbox) {
    let story = start_with(sb, |_, portmap| portmap["share"] = Value::Null);
    let mapping = json!([{"hostPort": PORT, "containerPort": 80, "protocol": "tcp", "share": "web"},
        {"hostPort": PORT, "containerPort": 80, "protocol": "udp", "share": "web"}]);
    let [one, two] = ["one", "two"].map(|id| story.attach_with(id, |at| at.with("portMappings", mapping.clone())));
    all_answer(&story.outside.ns, Outside::NODE_V4, &["one", "two"]);
    [&one, &two].into_iter().for_each(|member| story.chain.check(sb, &member.at).silent());
}

/// One of two members comes or goes, and the other one must serve throughout. A killed call leaves nothing that the next one doesn't mend.
fn faults(sb: &Sandbox, verb: &'static str, fault: Fault<'_>) {
    let story = start(sb);
    let stays = story.attach("stays", &BOTH);
    let comes = story.attach("comes", &[]);
    let at_both = comes.at.clone().publish(&BOTH);
    let call = |verb: &str| story.chain.call(sb, verb, &story.chain.plugins()[1], &at_both, at_both.result.as_ref());
    call("ADD").run().result();
    if verb == "ADD" {
        call("DEL").run().silent();
    }
    let places = at_every_call(sb, &comes.ns, ("portmap", &call(verb)), fault, |outcome, before| {
        wait_for_the_rest();
        answers(&story.outside.ns, Proto::Tcp, Outside::NODE_V4, PORT, 6);
        portmap(&story, "CHECK", &stays.at).silent();
        let died = outcome.code.is_none_or(|code| code > 1);
        match verb {
            "ADD" if outcome.ok() || died => call("DEL").run().silent(),
            "ADD" => assert!(!outcome.error().msg.is_empty(), "{outcome}"),
            // And the next ADD mends what is left of it.
            _ => {
                call("ADD").run().result();
                call("CHECK").run().silent();
            }
        }
        Snapshot::of(&[&story.node, &comes.ns]).same_but(before, &SHARED);
    });
    assert!(places > 1, "{places}");
}
