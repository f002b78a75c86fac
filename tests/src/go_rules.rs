//! Packet rules as later Go plugins make them, for nodes on which those have been.

use crate::netns::Netns;

/// A port of each family with its masquerading, as the Go plugin has them.
pub fn publish(node: &Netns, id: &str, port: u16, v4: &str, v6: &str) {
    let table = |family: &str, ip: &str, to: &str, loopback: &str| {
        format!(
            "table {family} cni_hostport {{
                chain hostports {{
                    tcp dport {port} dnat to {to}:80 comment \"{id}\"
                    {ip} daddr {loopback} udp dport {port} dnat to {to}:53 comment \"{id}\"
                }}
                chain hostports_all {{ jump hostports; }}
                chain prerouting {{
                    type nat hook prerouting priority dstnat
                    fib daddr type local jump hostports_all
                }}
                chain output {{
                    type nat hook output priority -100
                    fib daddr type local jump hostports_all
                }}
                chain masquerading {{
                    type nat hook postrouting priority srcnat
                    {ip} saddr {loopback} {ip} daddr {bare} masquerade comment \"{id}\"
                    {ip} saddr {bare} {ip} daddr {bare} masquerade comment \"{id}\"
                }}
            }}\n",
            bare = to.trim_matches(['[', ']'])
        )
    };
    let text = table("ip", "ip", v4, "127.0.0.1") + &table("ip6", "ip6", &format!("[{v6}]"), "::1");
    std::fs::write("/run/go.nft", text).unwrap();
    node.sh(&["nft", "-f", "/run/go.nft"]);
}
