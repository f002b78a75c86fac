//! portmap: connections that were there before a port was published, and those that outlive the container.

use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use cni_tests::conf::{self, Backend};
use cni_tests::kernel::set_sysctl;
use cni_tests::packets::{Outside, Server, at};
use cni_tests::{Attachment, Chain, Netns, Sandbox};

use super::{PORT, start, with_each_backend, with_legacy_tools, with_tools};
use crate::case::Case;
use cni_tests::story::{Container, Story};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = with_each_backend(&[
        ("move_to_the_container_and_back", flows),
        ("leave_a_container_that_is_gone", flow_of_the_dead),
        ("of_all_ports_of_the_dead_are_free", flow_of_another_port),
        ("a_connection_does_not_wait_for_the_dead", connection),
        ("through_the_node_stay", passing_flow),
    ]);
    cases.push(with_legacy_tools("move_to_the_container_and_back", flows));
    cases
}

/// A client outside that keeps its socket, and sends until the `wanted` server answers.
pub(super) struct Client(UdpSocket);

impl Client {
    pub(super) fn new(story: &Story<'_>) -> Self {
        Self::of(story, Outside::NODE_V4, PORT)
    }

    fn of(story: &Story<'_>, to: &str, port: u16) -> Self {
        let socket = story.outside.ns.run(|| UdpSocket::bind((Outside::V4, 5555))).unwrap();
        socket.connect((to, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self(socket)
    }

    #[track_caller]
    pub(super) fn reaches(&self, wanted: &str) {
        let end = Instant::now() + Duration::from_secs(5);
        let mut last = String::new();
        while Instant::now() < end {
            let mut buffer = [0; 64];
            let _ = self.0.send(b"?");
            if let Ok(size) = self.0.recv(&mut buffer) {
                last = String::from_utf8_lossy(&buffer[..size]).into_owned();
                if last.starts_with(wanted) {
                    return;
                }
            }
        }
        panic!("the client hears {last:?}, not {wanted}");
    }
}

fn flows(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let _host = Server::start(&story.node, "host", PORT);
    let client = Client::new(&story);
    client.reaches("host ");
    let web = story.attach("web", &[(PORT, 80, "udp")]);
    client.reaches("web ");
    story.chain.del(sb, &web.at);
    client.reaches("host ");
    let again = story.attach("again", &[(PORT, 80, "udp")]);
    client.reaches("again ");
    let forgotten = Attachment { result: None, capabilities: serde_json::Map::new(), ..again.at.clone() };
    story.chain.del(sb, &forgotten);
    client.reaches("host ");
}

fn flow_of_the_dead(sb: &Sandbox, backend: Backend) {
    sb.needs("portmap", "1.1.0");
    let story = start(sb, backend);
    let client = Client::new(&story);
    let first = story.attach_bare("first", &[(PORT, 80, "udp")]);
    let server = Server::start(&first.ns, "first", 80);
    client.reaches("first ");
    drop(server);
    first.ns.delete();
    first.wait_for_its_link_to_go();
    let _second = story.attach("second", &[(PORT, 80, "udp")]);
    client.reaches("second ");
    let _host = Server::start(&story.node, "host", PORT);
    story.chain.gc(sb, &[]).silent();
    client.reaches("host ");
}

/// When another container takes one of its ports, the dead container is noticed, and its other ports are free from then on.
fn flow_of_another_port(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let client = Client::of(&story, Outside::NODE_V4, 9000);
    let dead = story.attach_bare("dead", &[(PORT, 80, "tcp"), (9000, 80, "udp")]);
    let server = Server::start(&dead.ns, "dead", 80);
    client.reaches("dead ");
    drop(server);
    dead.ns.delete();
    dead.wait_for_its_link_to_go();
    let _host = Server::start(&story.node, "host", 9000);
    let ns = sb.container("new");
    let mut new = Attachment::new("new", &ns).publish(&[(PORT, 80, "tcp")]);
    // Not the whole chain: the bridge gives the address again, which has nothing to do with this.
    with_tools(Chain::new("story", story.chain.version(), &[conf::masquerading(backend)])).add(sb, &mut new);
    story.chain.call(sb, "ADD", &conf::portmap(backend), &new, new.result.as_ref()).run().result();
    client.reaches("host ");
}

/// How many connections to the port are tracked, whether answered or not.
fn tracked(node: &Netns, port: u16) -> usize {
    node.sh(&["conntrack", "-L", "-p", "tcp", "--orig-port-dst", &port.to_string()]).lines().count()
}

/// Dead for the world: it neither answers nor refuses.
fn hang(container: &Container, story: &Story<'_>) {
    container.ns.sh(&["ip", "link", "set", "eth0", "down"]);
    let bridge = container.at.result.as_ref().and_then(|result| result["interfaces"][0]["name"].as_str()).unwrap();
    let neighbour = ["ip", "neigh", "replace", &container.ip(false), "lladdr", "02:00:00:00:00:01", "dev", bridge];
    story.node.sh(&[&neighbour[..], &["nud", "permanent"]].concat());
}

/// A client connects to the port of a removed container and retransmits after 1 s, 2 s, 4 s and so on. The container that has the
/// port by then answers.
fn connection(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    let other = story.attach("other", &[(9000, 80, "tcp")]);
    let kept = story.outside.ns.run(|| TcpStream::connect(at(Outside::NODE_V4, 9000)).unwrap());
    let dead = story.attach_bare("dead", &[(PORT, 80, "tcp")]);
    hang(&dead, &story);
    let outside = story.outside.ns.clone();
    let client = std::thread::spawn(move || {
        outside.run(|| TcpStream::connect_timeout(&at(Outside::NODE_V4, PORT), Duration::from_secs(60)))
    });
    while tracked(&story.node, PORT) == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    story.chain.del(sb, &dead.at);
    assert_eq!(tracked(&story.node, PORT), 0);
    assert_eq!(tracked(&story.node, 9000), 1, "another container's stays");
    let _new = story.attach("new", &[(PORT, 80, "tcp")]);
    // The port may have been free for a moment: then the node has refused.
    if let Err(error) = client.join().unwrap() {
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "it needn't wait for the dead");
    }
    drop((kept, other));
}

/// A query for a name server elsewhere, on a node where any address can be bound.
fn passing_flow(sb: &Sandbox, backend: Backend) {
    let story = start(sb, backend);
    set_sysctl(&story.node, "ipv4/ip_nonlocal_bind", "1");
    set_sysctl(&story.node, "ipv4/ip_forward", "1");
    let far = story.attach("far", &[(1, 1, "tcp")]);
    let _server = Server::start(&far.ns, "far", PORT);
    story.outside.ns.sh(&["ip", "route", "add", &far.ip(false), "via", Outside::NODE_V4]);
    let client = Client::of(&story, &far.ip(false), PORT);
    client.reaches("far ");
    let passing = || story.node.sh(&["conntrack", "-L", "-p", "udp", "--orig-port-dst", &PORT.to_string()]);
    let before = passing().lines().count();
    assert_eq!(before, 1, "{}", passing());
    let _web = story.attach("web", &[(PORT, 80, "udp")]);
    assert_eq!(passing().lines().count(), before, "it is not for this node");
}
