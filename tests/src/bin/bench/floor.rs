//! The floor: the least that the kernel takes for the same end state as the chain of [`crate::attach`], asked for by this process
//! itself, without a plugin, a question or a check.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use cni_net::{AddressOptions, LinkChange, NetNs, Netlink, Route, VethEnd, VethSpec, sysctl};
use cni_tests::Sandbox;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// What all attachments share, as the plugins make it once: not timed.
const SHARED: &str = "table inet floor {
    map ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
    set sources { type ipv4_addr; }
    chain prerouting {
        type nat hook prerouting priority dstnat;
        dnat ip to meta l4proto . th dport map @ports
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr @sources masquerade
    }
}";
/// Where addresses are reserved.
const RESERVATIONS: &str = "/run/floor";
const MARK: &str = "floor-0123456789abcdef-0123456789abcdef";
const CONTAINER: [u8; 4] = [10, 88, 0, 2];

/// A node that containers can be attached to, and one attachment at a time.
pub(crate) struct Floor {
    bridge: u32,
    netns: String,
}

impl Floor {
    /// Makes what all attachments share.
    pub(crate) fn start(sandbox: &Sandbox, netns: &str) -> Self {
        let node = sandbox.node();
        node.sh(&["ip", "link", "add", "cni0", "up", "type", "bridge"]);
        node.sh(&["ip", "addr", "add", "10.88.0.1/16", "dev", "cni0"]);
        node.sh(&["nft", SHARED]);
        fs::create_dir_all(RESERVATIONS).unwrap();
        let bridge = Netlink::open().unwrap().link_by_name("cni0").unwrap().unwrap().index;
        Self { bridge, netns: netns.to_owned() }
    }

    /// Attaches and detaches.
    pub(crate) fn round(&self) -> (Duration, Duration) {
        let start = Instant::now();
        let host = self.add();
        let added = start.elapsed();
        let start = Instant::now();
        self.del(host);
        (added, start.elapsed())
    }

    fn add(&self) -> u32 {
        let (node, namespace) = (Netlink::open().unwrap(), NetNs::open(self.netns.as_ref()).unwrap());
        let inside = Netlink::open_in(&namespace).unwrap();
        fs::write(format!("{RESERVATIONS}/10.88.0.2"), "guest\r\neth0").unwrap();

        let end = |name: &str| VethEnd::named(name.parse().unwrap());
        let mut pair = VethSpec::new(end("veth0"), end("eth0"), &namespace);
        pair.master = Some(self.bridge);
        let made = node.create_veth(&pair).unwrap();
        node.add_altname(made.host, MARK).unwrap();
        sysctl::write("net/ipv6/conf/veth0/accept_ra", "0").unwrap();
        namespace
            .run(|| {
                sysctl::write("net/ipv4/conf/eth0/arp_notify", "1").unwrap();
                sysctl::write("net/ipv6/conf/eth0/accept_ra", "0").unwrap();
            })
            .unwrap();

        let address = "10.88.0.2/16".parse().unwrap();
        inside.add_address(made.peer, address, &AddressOptions::default()).unwrap();
        inside.change_link(made.peer, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        let gateway = "10.88.0.1".parse().ok();
        inside.add_route(&Route::new("0.0.0.0/0".parse().unwrap(), gateway, made.peer)).unwrap();
        Transaction::open().commit(&[
            element("sources", true, &CONTAINER, None),
            element("ports", true, &PORT_8080, Some(&[&CONTAINER[..], &[0, 80, 0, 0]].concat())),
        ]);
        made.host
    }

    /// As the plugins do: the rules, the link, and then the socket of the rules, which waits for the kernel.
    fn del(&self, host: u32) {
        let (node, rules) = (Netlink::open().unwrap(), Transaction::open());
        rules.commit(&[element("sources", false, &CONTAINER, None), element("ports", false, &PORT_8080, None)]);
        node.delete_link(host).unwrap();
        fs::remove_file(format!("{RESERVATIONS}/10.88.0.2")).unwrap();
    }
}

/// TCP (6), port 8080, each padded to four bytes.
const PORT_8080: [u8; 8] = [6, 0, 0, 0, 0x1f, 0x90, 0, 0];

/// A message that adds an element to a set, or deletes it, with its flags.
fn element(set: &str, add: bool, key: &[u8], value: Option<&[u8]>) -> (NfTablesMessage, u16) {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key.to_vec()))];
    attributes.extend(value.map(|value| SetElementAttribute::Data(DataAttribute::Value(value.to_vec()))));
    let attributes = vec![
        SetElementList::Table("floor".to_owned()),
        SetElementList::Set(set.to_owned()),
        SetElementList::Elements(vec![ListAttribute::Element(attributes)]),
    ];
    let message = SetElementMessage { attributes };
    match add {
        true => (NfTablesMessage::NewSetElement(message), NLM_F_CREATE | NLM_F_EXCL),
        false => (NfTablesMessage::DeleteSetElement(message), 0),
    }
}

/// A socket for one transaction.
struct Transaction(Socket);

impl Transaction {
    fn open() -> Self {
        Self(Socket::new(NETLINK_NETFILTER).unwrap())
    }

    fn commit(&self, changes: &[(NfTablesMessage, u16)]) {
        let control = |message: ControlMessage| {
            let subsystem = u8::from(NetfilterSubsystem::NfTables).into();
            NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem), message)
        };
        let mut bytes = Vec::new();
        append(&mut bytes, control(ControlMessage::BatchBegin), 0);
        for (message, flags) in changes {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
            append(&mut bytes, NetfilterMessage::new(header, message.clone()), flags | NLM_F_ACK);
        }
        append(&mut bytes, control(ControlMessage::BatchEnd), 0);
        self.0.send_to(&bytes, &SocketAddr::new(0, 0), 0).unwrap();
        self.0.set_non_blocking(true).unwrap();
        let mut acknowledged = 0;
        loop {
            let mut buffer = Vec::with_capacity(4096);
            match self.0.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                received => received.unwrap(),
            };
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(&buffer).unwrap();
            let NetlinkPayload::Error(answer) = answer.payload else { panic!("{answer:?}") };
            assert_eq!(answer.code, None, "the floor's transaction");
            acknowledged += 1;
        }
        assert_eq!(acknowledged, changes.len());
    }
}

fn append(bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
    let mut message: NetlinkMessage<NetfilterMessage> = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len(), 0);
    message.serialize(&mut bytes[start..]);
}
