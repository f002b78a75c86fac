//! The reach matrix: from where a published port answers, and whom the container sees. docs/portmap.md has it as a table.

use cni_tests::conf::{self, Backend, V4_GATEWAY, V6_GATEWAY};
use cni_tests::packets::{Outside, Proto, ask, at, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel};
use serde_json::{Value, json};

use crate::case::{Basis, Case, common, improved};
use crate::story::{CHAIN, Container, Story};

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        for v6 in [false, true] {
            let name = |what: &str| format!("reach::{}_v{}_{what}", backend.name(), if v6 { 6 } else { 4 });
            for proto in [Proto::Tcp, Proto::Udp] {
                let named = |what: &str| name(&format!("{}_{what}", proto.name()));
                cases.push(common(named("any"), move |sb| any(sb, backend, v6, proto)).based_on(basis));
                cases.push(common(named("host_ip"), move |sb| host_ip(sb, backend, v6, proto)).based_on(basis));
                cases.push(common(named("snat_off"), move |sb| snat_off(sb, backend, v6, proto)).based_on(basis));
                cases
                    .push(common(named("masq_all"), move |sb| masq_all(sb, backend, v6, proto)).based_on(Basis::Newer));
                cases.push(improved(named("firewall"), move |sb| firewall(sb, backend, v6, proto)));
            }
            cases.push(common(name("sctp"), move |sb| sctp(sb, backend, v6)).based_on(basis));
        }
        let name = format!("reach::{}_host_ip_loopback", backend.name());
        cases.push(improved(name, move |sb| loopback(sb, backend)));
    }
    cases
}

const PORT: u16 = 8080;

/// Addresses of one family.
struct Family {
    node: &'static str,
    outside: &'static str,
    gateway: &'static str,
    other_gateway: &'static str,
    loopback: &'static str,
}

fn family(v6: bool) -> Family {
    if v6 {
        let (node, outside) = (Outside::NODE_V6, Outside::V6);
        Family { node, outside, gateway: V6_GATEWAY, other_gateway: "fd00:78::1", loopback: "::1" }
    } else {
        let (node, outside) = (Outside::NODE_V4, Outside::V4);
        Family { node, outside, gateway: V4_GATEWAY, other_gateway: "10.78.0.1", loopback: "127.0.0.1" }
    }
}

/// A node with `web` published, a neighbour on its bridge, and a container of another network.
struct Scene<'a> {
    story: Story<'a>,
    web: Container,
    neighbour: Container,
    stranger: (Netns, Attachment),
}

impl<'a> Scene<'a> {
    fn new(sb: &'a Sandbox, backend: Backend, mapping: &Value, edit: impl Fn(&mut Value), more: &[Value]) -> Self {
        let mut story = Story::start(sb, backend);
        let mut portmap = conf::portmap(backend);
        edit(&mut portmap);
        let plugins = [&[conf::masquerading(backend), portmap], more].concat();
        story.chain = Chain::new("story", sb.newest(&CHAIN), &plugins);
        let web = story.attach_with("web", |at| at.with("portMappings", json!([mapping])));
        let neighbour = story.attach("neighbour", &[]);
        // Without masquerading, so that its own address is seen.
        let ranges = json!([[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd00:78::/64"}]]);
        let bridge = json!({"type": "bridge", "bridge": "br-other", "isDefaultGateway": true,
            "ipam": {"type": "host-local", "ranges": ranges}});
        let ns = sb.container("stranger");
        let mut at = Attachment::new("stranger", &ns);
        Chain::new("other", sb.newest(&CHAIN), &[&[bridge], more].concat()).add(sb, &mut at);
        Self { story, web, neighbour, stranger: (ns, at) }
    }
}

fn mapping(proto: Proto, host_ip: &str) -> Value {
    json!({"hostPort": PORT, "containerPort": 80, "protocol": proto.name(), "hostIP": host_ip})
}

#[track_caller]
fn sees(from: &Netns, proto: Proto, to: &str, source: &str) {
    let answer = ask(from, proto, at(to, PORT)).unwrap_or_else(|e| panic!("{proto:?} {to} from {}: {e}", from.name));
    assert_eq!(answer, format!("web {source}"), "{proto:?} {to} from {}", from.name);
}

#[track_caller]
fn nobody(from: &Netns, proto: Proto, to: &str) {
    assert!(silent(from, proto, at(to, PORT)), "{proto:?} {to} answers from {}", from.name);
}

/// The seven places.
fn everywhere(scene: &Scene<'_>, v6: bool, proto: Proto) {
    let Family { node, outside, gateway, other_gateway, loopback } = family(v6);
    let Scene { story, web, neighbour, stranger } = scene;
    sees(&story.outside.ns, proto, node, outside);
    sees(&neighbour.ns, proto, node, gateway);
    sees(&web.ns, proto, node, gateway);
    sees(&stranger.0, proto, node, &stranger.1.ip(v6));
    sees(&story.node, proto, node, node);
    sees(&story.node, proto, gateway, gateway);
    sees(&story.node, proto, other_gateway, other_gateway);
    // The kernel never lets ::1 leave the node, whatever the rules say (RFC 4291, 2.5.3).
    if v6 { nobody(&story.node, proto, loopback) } else { sees(&story.node, proto, loopback, gateway) }
}

fn any(sb: &Sandbox, backend: Backend, v6: bool, proto: Proto) {
    let scene = Scene::new(sb, backend, &mapping(proto, ""), |_| {}, &[]);
    scene.story.backend_was_used();
    everywhere(&scene, v6, proto);
    let other = if proto == Proto::Tcp { Proto::Udp } else { Proto::Tcp };
    nobody(&scene.story.outside.ns, other, family(v6).node);
    let container = scene.web.ip(v6);
    sees(&scene.story.node, proto, family(v6).node, family(v6).node);
    assert!(silent(&scene.neighbour.ns, proto, at(&container, PORT)), "the host's port isn't the container's");
}

fn host_ip(sb: &Sandbox, backend: Backend, v6: bool, proto: Proto) {
    let Family { node, outside, gateway, other_gateway, loopback } = family(v6);
    let Scene { story, web, neighbour, stranger } = &Scene::new(sb, backend, &mapping(proto, node), |_| {}, &[]);
    sees(&story.outside.ns, proto, node, outside);
    sees(&neighbour.ns, proto, node, gateway);
    sees(&web.ns, proto, node, gateway);
    sees(&stranger.0, proto, node, &stranger.1.ip(v6));
    sees(&story.node, proto, node, node);
    for (from, to) in
        [(&story.node, gateway), (&story.node, loopback), (&neighbour.ns, gateway), (&stranger.0, other_gateway)]
    {
        nobody(from, proto, to);
    }
    nobody(&story.outside.ns, proto, family(!v6).node);
}

/// Then the container sees everybody's own address, and those whose answers wouldn't come back get none.
fn snat_off(sb: &Sandbox, backend: Backend, v6: bool, proto: Proto) {
    let off = |portmap: &mut Value| portmap["snat"] = false.into();
    let scene = Scene::new(sb, backend, &mapping(proto, ""), off, &[]);
    let Family { node, outside, gateway, loopback, .. } = family(v6);
    let Scene { story, web, stranger, .. } = &scene;
    sees(&story.outside.ns, proto, node, outside);
    sees(&stranger.0, proto, node, &stranger.1.ip(v6));
    sees(&story.node, proto, node, node);
    sees(&story.node, proto, gateway, gateway);
    nobody(&story.node, proto, loopback);
    nobody(&web.ns, proto, node);
    let local = kernel::sysctl(&story.node, "ipv4/conf/br-test/route_localnet");
    assert_eq!(local.as_deref(), Some("0"), "nothing of 127.0.0.0/8 is routed if it isn't needed");
}

fn masq_all(sb: &Sandbox, backend: Backend, v6: bool, proto: Proto) {
    let all = |portmap: &mut Value| portmap["masqAll"] = true.into();
    let scene = Scene::new(sb, backend, &mapping(proto, ""), all, &[]);
    let Family { node, gateway, .. } = family(v6);
    for from in [&scene.story.outside.ns, &scene.neighbour.ns, &scene.web.ns, &scene.stranger.0] {
        sees(from, proto, node, gateway);
    }
    sees(&scene.story.node, proto, gateway, gateway);
}

/// A node that forwards nothing unasked, with the firewall plugin in the chain.
fn firewall(sb: &Sandbox, backend: Backend, v6: bool, proto: Proto) {
    if !sb.has("firewall") {
        cni_tests::verdict::skip("no firewall in the directory under test");
    }
    sb.node().sh(&["iptables", "-P", "FORWARD", "DROP"]);
    sb.node().sh(&["ip6tables", "-P", "FORWARD", "DROP"]);
    let plugin = json!({"type": "firewall", "backend": backend.name()});
    let scene = Scene::new(sb, backend, &mapping(proto, ""), |_| {}, &[plugin]);
    everywhere(&scene, v6, proto);
}

/// Only the node itself can mean 127.0.0.1.
fn loopback(sb: &Sandbox, backend: Backend) {
    let Scene { story, web, neighbour, .. } = &Scene::new(sb, backend, &mapping(Proto::Tcp, "127.0.0.1"), |_| {}, &[]);
    sees(&story.node, Proto::Tcp, "127.0.0.1", V4_GATEWAY);
    nobody(&story.node, Proto::Tcp, Outside::NODE_V4);
    for from in [&story.outside.ns, &neighbour.ns, &web.ns] {
        nobody(from, Proto::Tcp, Outside::NODE_V4);
    }
}

/// An SCTP association's first packet, for this kernel may have no SCTP sockets: it arrives at the container's port.
fn sctp(sb: &Sandbox, backend: Backend, v6: bool) {
    let sctp = json!({"hostPort": PORT, "containerPort": 80, "protocol": "SCTP"});
    let Scene { story, web, neighbour, .. } = &Scene::new(sb, backend, &sctp, |_| {}, &[]);
    let (bytes, ip) = (init(33_333, PORT), if v6 { "6" } else { "4" });
    let octets: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let to = if v6 { format!("[{}]", Outside::NODE_V6) } else { Outside::NODE_V4.to_owned() };
    for from in [&story.outside.ns, &neighbour.ns, &story.node] {
        let heard = std::thread::scope(|scope| {
            let listen = format!("timeout 3 socat -u -T 3 IP{ip}-RECV:132 - | head -c 12 | od -An -tu1 -w12");
            let heard = scope.spawn(move || web.ns.sh(&["sh", "-c", &listen]));
            std::thread::sleep(std::time::Duration::from_millis(300));
            let send = format!("printf '{octets}' | socat -u - IP{ip}-SENDTO:{to}:132");
            from.sh(&["sh", "-c", &send]);
            heard.join().unwrap()
        });
        let heard: Vec<u16> = heard.split_whitespace().filter_map(|byte| byte.parse().ok()).collect();
        assert_eq!(
            heard.get(2..4),
            Some(&[0, 80][..]),
            "the destination port of what came from {}: {heard:?}",
            from.name
        );
    }
}

/// A common header and an INIT chunk (RFC 9260, 3.1 and 3.3.2). Conntrack looks at the checksum.
fn init(from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0x12, 0x34, 0x56, 0x78, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
