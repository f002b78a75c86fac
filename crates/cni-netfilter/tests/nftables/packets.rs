//! Real packets: a node with a bridge and two containers, a host outside of it, and another behind it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cni_netfilter::conntrack::{Flush, forget_flows};
use cni_netfilter::{Nftables, Snat};

use crate::inside::{forwards, inside, masquerade, output, owner, run};

/// The test's own namespace is the node: `cni0` 10.1.0.1, fd00:1::1; `ext0` 192.0.2.1, 2001:db8::1; `far0` 203.0.113.1.
/// No host outside the node has a route to the containers.
struct Node {
    servers: Vec<Child>,
}

impl Node {
    fn new() -> Self {
        run("
            echo 1 > /proc/sys/net/ipv4/ip_forward
            echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            # Neighbour discovery does not work before an address has been tested.
            echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
            join() { # name, link, v4, gateway, v6, gateway
                ip netns add $1
                ip netns exec $1 sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'
                ip link add $2 type veth peer name eth0 netns $1
                ip link set $2 up
                ip -n $1 link set lo up
                ip -n $1 link set eth0 up
                ip -n $1 addr add $3/24 dev eth0
                ip -n $1 addr add $5/64 dev eth0 nodad
            }
            ip link add cni0 type bridge
            ip link set cni0 up
            ip addr add 10.1.0.1/24 dev cni0
            ip addr add fd00:1::1/64 dev cni0 nodad
            join c1 veth1 10.1.0.2 10.1.0.1 fd00:1::2
            join c2 veth2 10.1.0.3 10.1.0.1 fd00:1::3
            for n in 1 2; do
                # With br_netfilter the bridge itself sends a hairpin connection back to the port that it came from.
                ip link set veth$n master cni0
                ip link set veth$n type bridge_slave hairpin on
                ip -n c$n route add default via 10.1.0.1
                ip -n c$n route add default via fd00:1::1
            done
            join out ext0 192.0.2.2 192.0.2.1 2001:db8::2
            ip addr add 192.0.2.1/24 dev ext0
            ip addr add 192.0.2.9/24 dev ext0
            ip addr add 2001:db8::1/64 dev ext0 nodad
            join far far0 203.0.113.2 203.0.113.1 2001:db8:f::2
            ip addr add 203.0.113.1/24 dev far0
            ip addr add 2001:db8:f::1/64 dev far0 nodad
            ip -n far route add default via 203.0.113.1
            ip -n out route add 203.0.113.0/24 via 192.0.2.1
        ");
        Self { servers: Vec::new() }
    }

    /// A server that tells each client its name and the client's address. `listen` is socat's: `TCP-LISTEN:80`.
    fn serve(&mut self, namespace: &str, listen: &str) {
        let inner = format!("SYSTEM:read line; echo {namespace} $SOCAT_PEERADDR");
        let mut command = if namespace == "node" {
            Command::new("socat")
        } else {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, "socat"]);
            command
        };
        let child = command.args([&format!("{listen},fork,reuseaddr"), &inner]).stdin(Stdio::null()).spawn().unwrap();
        self.servers.push(child);
        // Until its socket is there: it would answer with a refusal, which the tests could not tell from a rule's effect.
        let (port, flags) =
            (listen.split([':', ',']).nth(1).unwrap(), if listen.starts_with("TCP") { "-tln" } else { "-uan" });
        let deadline = Instant::now() + Duration::from_secs(10);
        let look =
            if namespace == "node" { format!("ss {flags}") } else { format!("ip netns exec {namespace} ss {flags}") };
        while !output(&look).contains(&format!(":{port} ")) {
            assert!(Instant::now() < deadline, "{listen} in {namespace} does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// What a client in `namespace` hears from `target` (socat's: `TCP:192.0.2.1:80`); nothing if there is no answer.
fn ask(namespace: &str, target: &str) -> String {
    let enter = if namespace == "node" { String::new() } else { format!("ip netns exec {namespace} ") };
    let target = if target.starts_with("TCP") { format!("{target},connect-timeout=1") } else { target.to_owned() };
    output(&format!("echo | {enter}timeout 3 socat -t1 -T1 - {target} 2>/dev/null")).trim().to_owned()
}

#[test]
fn masquerading_leaves_with_the_nodes_address() {
    inside("packets::masquerading_leaves_with_the_nodes_address", || {
        let mut node = Node::new();
        node.serve("out", "TCP-LISTEN:80");
        node.serve("out", "TCP6-LISTEN:81");
        node.serve("c2", "TCP-LISTEN:80");
        node.serve("far", "TCP-LISTEN:80");
        let nft = Nftables::open().unwrap();
        let intents = [masquerade("c1", "10.1.0.2", "10.1.0.0/24"), masquerade("c1", "fd00:1::2", "fd00:1::/64")];
        assert_eq!(ask("c1", "TCP:192.0.2.2:80"), "");
        nft.add_masquerade(&intents).unwrap();
        assert_eq!(ask("c1", "TCP:192.0.2.2:80"), "out 192.0.2.1");
        assert_eq!(ask("c1", "TCP:[2001:db8::2]:81"), "out [2001:0db8:0000:0000:0000:0000:0000:0001]");
        // Inside of the subnet, the other container, and a host that knows the way back.
        assert_eq!(ask("c1", "TCP:10.1.0.3:80"), "c2 10.1.0.2");
        assert_eq!(ask("c2", "TCP:192.0.2.2:80"), "");
        assert_eq!(ask("c2", "TCP:203.0.113.2:80"), "far 10.1.0.3");
        assert_eq!(ask("c1", "TCP:203.0.113.2:80"), "far 203.0.113.1");
        nft.remove_masquerade(&owner("c1"), &[]).unwrap();
        assert_eq!(ask("c1", "TCP:203.0.113.2:80"), "far 10.1.0.2");
    });
}

#[test]
fn routed_traffic_inside_the_subnet_and_multicast_keep_their_source() {
    inside("packets::routed_traffic_inside_the_subnet_and_multicast_keep_their_source", || {
        let _node = Node::new();
        let nft = Nftables::open().unwrap();
        // The node sends as the container would, through postrouting, and tcpdump tells with which source.
        run("ip addr add 10.1.0.77/24 dev cni0; ip route add 224.0.0.0/4 dev cni0");
        nft.add_masquerade(&[masquerade("c1", "10.1.0.77", "10.1.0.0/24")]).unwrap();
        run("ip addr add 10.9.0.1/24 dev cni0; ip -n c1 addr add 10.9.0.2/24 dev eth0");
        let source = |target: &str| {
            let script = format!(
                "ip netns exec c1 timeout 5 tcpdump -lni eth0 -c1 udp dst port 9 > /run/seen 2>/run/ready & \
                 for i in $(seq 100); do grep -q listening /run/ready 2>/dev/null && break; sleep 0.02; done; \
                 echo x | socat - UDP4-DATAGRAM:{target}:9,bind=10.1.0.77; wait; rm /run/ready; cat /run/seen"
            );
            let seen = output(&script);
            seen.split("IP ")
                .nth(1)
                .and_then(|rest| rest.rsplit_once(" > "))
                .map_or(seen.as_str(), |(from, _)| from)
                .to_owned()
        };
        assert!(source("10.1.0.2").starts_with("10.1.0.77."));
        assert!(source("224.1.2.3").starts_with("10.1.0.77."));
        assert!(source("10.9.0.2").starts_with("10.9.0.1.") || source("10.9.0.2").starts_with("10.1.0.1."));
    });
}

#[test]
fn published_ports_are_reached_from_all_clients() {
    inside("packets::published_ports_are_reached_from_all_clients", || {
        let mut node = Node::new();
        node.serve("c1", "TCP-LISTEN:80");
        node.serve("far", "TCP-LISTEN:8080");
        run("echo 1 > /proc/sys/net/ipv4/conf/cni0/route_localnet");
        let nft = Nftables::open().unwrap();
        let mut ports = [forwards("c1", "10.1.0.2/24", &["tcp 8080 80"])];
        let from_all_clients = || {
            [
                ("out", "192.0.2.1"),
                ("node", "192.0.2.1"),
                ("node", "127.0.0.1"),
                ("c1", "10.1.0.1"),
                ("c2", "192.0.2.1"),
            ]
            .map(|(client, address)| ask(client, &format!("TCP:{address}:8080")))
        };
        assert_eq!(from_all_clients(), [""; 5]);
        nft.add_ports(&ports).unwrap();
        assert_eq!(from_all_clients(), ["c1 192.0.2.2", "c1 192.0.2.1", "c1 10.1.0.1", "c1 10.1.0.1", "c1 10.1.0.1"]);
        // What only passes through is not ours, although the port is the same (CVE-2025-67499).
        assert_eq!(ask("out", "TCP:203.0.113.2:8080"), "far 192.0.2.2");
        // A direct connection to the container's port is not translated.
        assert_eq!(ask("node", "TCP:10.1.0.2:80"), "c1 10.1.0.1");
        assert_eq!(ask("c2", "TCP:10.1.0.2:80"), "c1 10.1.0.3");
        nft.remove_ports(&owner("c1"), &ports).unwrap();
        assert_eq!(from_all_clients(), [""; 5]);
        ports[0].snat = Snat::All;
        nft.add_ports(&ports).unwrap();
        assert_eq!(ask("out", "TCP:192.0.2.1:8080"), "c1 10.1.0.1");
        assert_eq!(ask("far", "TCP:192.0.2.1:8080"), "c1 10.1.0.1");
        nft.remove_ports(&owner("c1"), &ports).unwrap();
        ports[0].snat = Snat::Off;
        nft.add_ports(&ports).unwrap();
        // The neighbour's answer depends on br_netfilter, which lets the bridge translate it back.
        assert_eq!(from_all_clients()[..4], ["c1 192.0.2.2", "c1 192.0.2.1", "", ""]);
    });
}

#[test]
fn ports_are_published_on_one_address_over_udp_and_ipv6() {
    inside("packets::ports_are_published_on_one_address_over_udp_and_ipv6", || {
        let mut node = Node::new();
        node.serve("c1", "UDP4-RECVFROM:53");
        node.serve("c1", "TCP-LISTEN:80");
        node.serve("c2", "TCP-LISTEN:80");
        node.serve("c2", "TCP6-LISTEN:81");
        let nft = Nftables::open().unwrap();
        let four = forwards("c1", "10.1.0.2/24", &["udp 5353 53", "tcp 192.0.2.9:8080 80"]);
        let all = forwards("c2", "10.1.0.3/24", &["tcp 8080 80"]);
        let six = forwards("c2", "fd00:1::3/64", &["tcp 8080 81"]);
        nft.add_ports(std::slice::from_ref(&four)).unwrap();
        assert_eq!(ask("out", "UDP:192.0.2.1:5353"), "c1 192.0.2.2");
        assert_eq!(ask("out", "TCP:192.0.2.9:8080"), "c1 192.0.2.2");
        assert_eq!(ask("out", "TCP:192.0.2.1:8080"), "");
        // The same port on all addresses: the one address stays with its owner.
        nft.add_ports(&[all, six]).unwrap();
        assert_eq!(ask("out", "TCP:192.0.2.9:8080"), "c1 192.0.2.2");
        assert_eq!(ask("out", "TCP:192.0.2.1:8080"), "c2 192.0.2.2");
        let client = |address: &str| format!("c2 [{address}]");
        assert_eq!(ask("out", "TCP:[2001:db8::1]:8080"), client("2001:0db8:0000:0000:0000:0000:0000:0002"));
        assert_eq!(ask("c2", "TCP:[2001:db8::1]:8080"), client("fd00:0001:0000:0000:0000:0000:0000:0001"));
        nft.remove_ports(&owner("c1"), &[]).unwrap();
        assert_eq!(ask("out", "TCP:192.0.2.9:8080"), "c2 192.0.2.2");
        assert_eq!(ask("out", "UDP:192.0.2.1:5353"), "");
    });
}

#[test]
fn neighbours_do_not_get_at_the_loopback_address() {
    inside("packets::neighbours_do_not_get_at_the_loopback_address", || {
        let mut node = Node::new();
        node.serve("node", "TCP-LISTEN:9000,bind=127.0.0.1");
        node.serve("c1", "TCP-LISTEN:80");
        run("
            echo 1 > /proc/sys/net/ipv4/conf/cni0/route_localnet
            ip netns exec c2 sh -c 'echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet'
            ip -n c2 addr del 127.0.0.1/8 dev lo
            ip -n c2 route add 127.0.0.0/8 via 10.1.0.1
        ");
        // So open is a node with route_localnet.
        assert_eq!(ask("c2", "TCP:127.0.0.1:9000"), "node 10.1.0.3");
        let nft = Nftables::open().unwrap();
        let mut ports = forwards("c1", "10.1.0.2/24", &["tcp 8080 80"]);
        ports.guard_localnet = true;
        nft.add_ports(&[ports]).unwrap();
        assert_eq!(ask("c2", "TCP:127.0.0.1:9000"), "");
        assert_eq!(ask("c2", "TCP:127.0.0.1:8080"), "");
        // The node itself is not disturbed.
        assert_eq!(ask("node", "TCP:127.0.0.1:9000"), "node 127.0.0.1");
        assert_eq!(ask("node", "TCP:127.0.0.1:8080"), "c1 10.1.0.1");
    });
}

#[test]
fn connections_of_a_published_port_are_forgotten_and_no_others() {
    inside("packets::connections_of_a_published_port_are_forgotten_and_no_others", || {
        let mut node = Node::new();
        node.serve("c1", "UDP4-RECVFROM:53");
        node.serve("far", "UDP4-RECVFROM:5353");
        let nft = Nftables::open().unwrap();
        // Connection tracking is on once a table needs it.
        nft.add_ports(&[forwards("c9", "10.1.0.9/24", &["tcp 1 1"])]).unwrap();
        let client = "UDP:192.0.2.1:5353,sourceport=4444,reuseaddr";
        assert_eq!(ask("out", client), "");
        assert_eq!(ask("out", "UDP:192.0.2.9:5353,sourceport=4445,reuseaddr"), "");
        assert_eq!(ask("out", "UDP:192.0.2.1:5354,sourceport=4446,reuseaddr"), "");
        assert_eq!(ask("out", "UDP:203.0.113.2:5353,sourceport=4447,reuseaddr"), "far 192.0.2.2");
        let tracked = || {
            let list = output("conntrack -L -p udp 2>/dev/null");
            ["4444", "4445", "4446", "4447"].map(|port| list.contains(&format!("sport={port} ")))
        };
        assert_eq!(tracked(), [true; 4]);
        let is_local = |address: std::net::IpAddr| ["192.0.2.1", "192.0.2.9"].contains(&address.to_string().as_str());
        let partners = &std::collections::HashSet::new();
        let stale = Flush::Stale { is_local: &is_local, partners };
        let on_one = forwards("c1", "10.1.0.2/24", &["udp 192.0.2.1:5353 53"]);
        let on_all = forwards("c1", "10.1.0.2/24", &["udp 5353 53"]);
        nft.add_ports(std::slice::from_ref(&on_all)).unwrap();
        // A client that goes on sending would never reach the container.
        assert_eq!(ask("out", client), "");
        assert_eq!(forget_flows(&on_one.ports, Flush::Ours).unwrap(), 0);
        assert_eq!(forget_flows(&on_one.ports, stale).unwrap(), 1);
        assert_eq!(tracked(), [false, true, true, true]);
        assert_eq!(ask("out", client), "c1 192.0.2.2");
        // Its own connection is not stale; the one that was to another address of the node is.
        assert_eq!(forget_flows(&on_all.ports, stale).unwrap(), 1);
        assert_eq!(tracked(), [true, false, true, true]);
        assert_eq!(forget_flows(&on_all.ports, stale).unwrap(), 0);
        nft.remove_ports(&owner("c1"), std::slice::from_ref(&on_all)).unwrap();
        let mut others = forwards("c1", "10.1.0.2/24", &["tcp 5353 53", "udp 5355 53"]);
        others.ports.extend(forwards("c1", "fd00::2/64", &["udp 5353 53"]).ports);
        assert_eq!(forget_flows(&others.ports, Flush::Ours).unwrap(), 0);
        others.ports.extend(on_all.ports);
        assert_eq!(forget_flows(&others.ports, Flush::Ours).unwrap(), 1, "both families and protocols");
        assert_eq!(tracked(), [false, false, true, true]);
    });
}
