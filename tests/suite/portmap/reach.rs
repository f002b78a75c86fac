//! The reach matrix: from where a published port answers, and whom the container sees. docs/portmap.md has it as a table.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use cni_tests::conf::{self, Backend, V4_GATEWAY, V6_GATEWAY};
use cni_tests::packets::{Outside, Proto, ask, at, silent};
use cni_tests::{Attachment, Chain, Netns, Sandbox, kernel};
use serde_json::{Value, json};

use super::route_loopback;
use crate::case::{Basis, Case, common};
use cni_tests::sctp::Listener;
use cni_tests::story::{CHAIN, Container, Story};

pub(crate) const PORT: u16 = 8080;

/// What is published; each case connects from every place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) backend: Backend,
    pub(crate) v6: bool,
    /// `None` is SCTP, of which only the first packet is looked at.
    pub(crate) proto: Option<Proto>,
    pub(crate) on: On,
    pub(crate) snat: Snat,
    /// With policy DROP and the firewall plugin.
    pub(crate) firewall: bool,
    /// The kernel hands bridged packets to the rules (`br_netfilter`).
    pub(crate) bridged: bool,
    /// As the only member of a share, which must answer as if it was none.
    pub(crate) shared: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum On {
    Everything,
    /// The node's address on the uplink.
    Node,
    Loopback,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Snat {
    On,
    Off,
    All,
}

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        for v6 in [false, true] {
            let plain = |proto, on, snat| Published {
                backend,
                v6,
                proto,
                on,
                snat,
                firewall: false,
                bridged: true,
                shared: false,
            };
            for proto in [Some(Proto::Tcp), Some(Proto::Udp), None] {
                for snat in [Snat::On, Snat::Off, Snat::All] {
                    cases.extend([On::Everything, On::Node, On::Loopback].map(|on| plain(proto, on, snat)));
                }
                for (on, snat) in
                    [On::Everything, On::Node].into_iter().flat_map(|on| [(on, Snat::On), (on, Snat::Off)])
                {
                    cases.push(Published { firewall: true, ..plain(proto, on, snat) });
                }
            }
            if backend == Backend::Nftables {
                for proto in [Some(Proto::Tcp), Some(Proto::Udp), None] {
                    let on = [On::Everything, On::Node, On::Loopback];
                    cases.extend(on.map(|on| Published { shared: true, ..plain(proto, on, Snat::On) }));
                }
                let tcp = plain(Some(Proto::Tcp), On::Everything, Snat::On);
                cases.push(Published { shared: true, firewall: true, ..tcp });
                cases.push(Published { shared: true, snat: Snat::All, ..tcp });
            }
            let tcp = |snat| plain(Some(Proto::Tcp), On::Everything, snat);
            cases.extend([Snat::On, Snat::Off].map(|snat| Published { bridged: false, ..tcp(snat) }));
        }
    }
    cases.into_iter().map(Published::case).collect()
}

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
pub(crate) struct Scene<'a> {
    story: Story<'a>,
    web: Container,
    neighbour: Container,
    stranger: (Netns, Attachment),
}

/// Who asks, which address, and as whom the container sees it if it gets the question.
pub(crate) type Cell<'a> = (&'a Netns, &'static str, Option<String>);

impl Published {
    fn case(self) -> Case {
        let Self { backend, on, snat, firewall, .. } = self;
        let basis = match backend {
            _ if firewall || on == On::Loopback || self.shared => Basis::Improved,
            Backend::Iptables if snat != Snat::All => Basis::Common,
            _ => Basis::Newer,
        };
        common(self.name(), move |sb| self.holds(sb)).based_on(basis)
    }

    pub(crate) fn name(self) -> String {
        let Self { backend, v6, proto, on, snat, firewall, bridged, shared } = self;
        format!(
            "{}::v{}_{}_{}{}{}{}{}",
            backend.name(),
            if v6 { 6 } else { 4 },
            proto.map_or("sctp", Proto::name),
            match on {
                On::Everything => "any",
                On::Node => "host_ip",
                On::Loopback => "host_ip_loopback",
            },
            match snat {
                Snat::On => "",
                Snat::Off => "_snat_off",
                Snat::All => "_masq_all",
            },
            if firewall { "_firewall" } else { "" },
            if bridged { "" } else { "_without_br_netfilter" },
            if shared { "_shared" } else { "" },
        )
    }

    fn holds(self, sb: &Sandbox) {
        let scene = self.scene(sb);
        let cells = self.cells(&scene);
        let wrong = match self.proto {
            Some(proto) => asked(proto, &cells),
            None => sent(&Listener::start(&scene.web.ns, self.v6), &cells),
        };
        assert!(wrong.is_empty(), "{self:?}: {wrong:#?}");
        self.holds_besides(&scene);
    }

    pub(crate) fn scene(self, sb: &Sandbox) -> Scene<'_> {
        let mut more = Vec::new();
        if self.firewall {
            if !sb.has("firewall") {
                cni_tests::verdict::skip("no firewall in the directory under test");
            }
            for tool in ["iptables", "ip6tables"] {
                sb.node().sh(&[tool, "-P", "FORWARD", "DROP"]);
            }
            more.push(json!({"type": "firewall", "backend": self.backend.name()}));
        }
        let mut story = Story::start(sb, self.backend);
        for key in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            if kernel::sysctl(&story.node, key).is_some() {
                kernel::set_sysctl(&story.node, key, if self.bridged { "1" } else { "0" });
            } else if self.bridged {
                cni_tests::verdict::skip("no br_netfilter in this kernel");
            }
        }
        let mut portmap = conf::portmap(self.backend);
        if self.shared {
            portmap["share"] = "web".into();
        }
        match self.snat {
            Snat::On => {}
            Snat::Off => portmap["snat"] = false.into(),
            Snat::All => portmap["masqAll"] = true.into(),
        }
        let plugins = [&[conf::masquerading(self.backend), portmap], more.as_slice()].concat();
        story.chain = Chain::new("story", sb.newest(&CHAIN), &plugins);
        let web = story.attach_with("web", |at| at.with("portMappings", json!([self.mapping()])));
        let neighbour = story.attach("neighbour", &[]);
        // Without masquerading, so that its own address is seen.
        let ranges = json!([[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd00:78::/64"}]]);
        let bridge = json!({"type": "bridge", "bridge": "br-other", "isDefaultGateway": true,
            "ipam": {"type": "host-local", "ranges": ranges}});
        let ns = sb.container("stranger");
        let mut at = Attachment::new("stranger", &ns);
        Chain::new("other", sb.newest(&CHAIN), &[&[bridge], more.as_slice()].concat()).add(sb, &mut at);
        if self.v6 {
            wait_for_addresses(&story.node);
        }
        Scene { story, web, neighbour, stranger: (ns, at) }
    }

    fn mapping(self) -> Value {
        let Family { node, loopback, .. } = family(self.v6);
        let host_ip = match self.on {
            On::Everything => "",
            On::Node => node,
            On::Loopback => loopback,
        };
        let protocol = self.proto.map_or("SCTP", Proto::name);
        json!({"hostPort": PORT, "containerPort": 80, "protocol": protocol, "hostIP": host_ip})
    }

    /// The matrix.
    pub(crate) fn cells<'a>(self, scene: &'a Scene<'_>) -> Vec<Cell<'a>> {
        let Family { node, outside, gateway, other_gateway, loopback } = family(self.v6);
        let Scene { story, web, neighbour, stranger } = scene;
        let (near, far) = (neighbour.ip(self.v6), stranger.1.ip(self.v6));
        let as_is = |source: &str| Some(if self.snat == Snat::All { gateway } else { source }.to_owned());
        // From the container's own subnet and from 127.0.0.1.
        let local = || (self.snat != Snat::Off).then(|| gateway.to_owned());
        // Without, its answer goes to the neighbour past the node, unless that sees bridged packets.
        let near = local().or_else(|| (self.bridged || self.proto.is_none()).then_some(near));
        let is = |on: On, cell: Option<String>| cell.filter(|_| self.on == on || self.on == On::Everything);
        // A packet to oneself has oneself as its source, which only IPv4 finds wrong at once; no program could answer it.
        let itself = local().or_else(|| (self.v6 && self.proto.is_none()).then(|| web.ip(true)));
        // The kernel takes no packet from or for ::1 that has left a node (RFC 4291, 2.5.3), whatever the rules say; one whose
        // source was translated arrives, but not its answer.
        let own = local().filter(|_| !self.v6 || (self.snat == Snat::All && self.proto.is_none()));
        let mut cells = vec![
            (&story.outside.ns, node, is(On::Node, as_is(outside))),
            (&neighbour.ns, node, is(On::Node, near.clone())),
            (&neighbour.ns, gateway, is(On::Everything, near)),
            (&web.ns, node, is(On::Node, itself.clone())),
            (&web.ns, gateway, is(On::Everything, itself)),
            (&stranger.0, node, is(On::Node, as_is(&far))),
            (&stranger.0, other_gateway, is(On::Everything, as_is(&far))),
            (&story.node, node, is(On::Node, as_is(node))),
            (&story.node, gateway, is(On::Everything, as_is(gateway))),
            (&story.node, other_gateway, is(On::Everything, as_is(other_gateway))),
            (&story.node, loopback, is(On::Loopback, own)),
        ];
        // Neighbours that send what is for 127.0.0.1 to the node. No packet for ::1 leaves a host (RFC 4291, 2.5.3).
        if !self.v6 {
            for (ns, via) in [(&story.outside.ns, node), (&neighbour.ns, gateway), (&stranger.0, other_gateway)] {
                route_loopback(ns, "eth0", via);
                cells.push((ns, loopback, None));
            }
        }
        cells
    }

    /// What is beside the matrix.
    fn holds_besides(self, scene: &Scene<'_>) {
        let Scene { story, web, neighbour, .. } = scene;
        if !self.firewall {
            story.backend_was_used();
        }
        if self.snat == Snat::Off {
            let local = kernel::sysctl(&story.node, "ipv4/conf/br-test/route_localnet");
            assert_eq!(local.as_deref(), Some("0"), "nothing of 127.0.0.0/8 is routed if it isn't needed");
        }
        let Some(proto) = self.proto else { return };
        let other = if proto == Proto::Tcp { Proto::Udp } else { Proto::Tcp };
        assert!(silent(&story.outside.ns, other, at(family(self.v6).node, PORT)), "the other protocol");
        assert!(silent(&neighbour.ns, proto, at(&web.ip(self.v6), PORT)), "the host's port isn't the container's");
        if self.on != On::Everything {
            assert!(silent(&story.outside.ns, proto, at(family(!self.v6).node, PORT)), "the other family");
        }
    }
}

/// Until the bridges' addresses are the node's: the kernel sees in its own time that a bridge has got its first port.
fn wait_for_addresses(node: &Netns) {
    let is_local = |address: &str| {
        node.holds(&["sh", "-c", &format!("ip -6 route show table local | grep -q '^local {address} '")])
    };
    for _ in 0..400 {
        if is_local(V6_GATEWAY) && is_local(family(true).other_gateway) {
            return;
        }
        thread::sleep(Duration::from_millis(25));
    }
    panic!("a bridge's address does not become the node's");
}

/// Asks all at once; the cells that are not as they should be.
fn asked(proto: Proto, cells: &[Cell<'_>]) -> Vec<String> {
    let one = |(from, to, expected): &Cell<'_>| {
        let to = at(to, PORT);
        let Some(source) = expected else {
            return (!silent(from, proto, to)).then(|| format!("{to} answers from {}", from.name));
        };
        let answer = ask(from, proto, to).unwrap_or_else(|error| error.to_string());
        (answer != format!("web {source}")).then(|| format!("{to} from {}: {answer:?}, not from {source}", from.name))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = cells.iter().map(|cell| scope.spawn(move || one(cell))).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("a cell")).collect()
    })
}

/// The same with an SCTP association's first packet.
fn sent(listener: &Listener, cells: &[Cell<'_>]) -> Vec<String> {
    let asked: Vec<_> = cells.iter().map(|(from, to, seen)| (*from, to.parse().unwrap(), seen.is_some())).collect();
    let heard = listener.hears(PORT, &asked);
    let one = |((from, to, expected), heard): (&Cell<'_>, Option<(IpAddr, u16)>)| {
        let expected = expected.as_ref().map(|source| (source.parse().unwrap(), 80));
        (heard != expected).then(|| format!("{to} from {}: {heard:?}, not {expected:?}", from.name))
    };
    cells.iter().zip(heard).filter_map(one).collect()
}
