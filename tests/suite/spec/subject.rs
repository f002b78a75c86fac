//! One plugin at one version, in the smallest network in which it does its work.

use cni_tests::plugins::{MASTER, prepare};
use cni_tests::{Attachment, Call, Chain, Outcome, Sandbox, dhcp, kernel, verdict};
use serde_json::{Value, json};

use super::requirement::CHAINED;

/// The network's subnet and its gateway.
pub(super) const SUBNET: &str = "10.77.0.0/24";

/// What a proof is given.
pub(super) struct Subject<'a> {
    /// The node.
    pub(super) sb: &'a Sandbox,
    /// The plugin's name.
    pub(super) plugin: &'static str,
    /// The configuration's version.
    pub(super) version: &'static str,
}

/// A container that has been attached, and the network that it is on.
pub(super) struct Attached {
    pub(super) chain: Chain,
    pub(super) at: Attachment,
}

impl Subject<'_> {
    /// The plugin's network: itself, and before a chained plugin the bridge whose result it works on.
    pub(super) fn chain(&self) -> Chain {
        self.chain_with(&json!({}))
    }

    /// The same with keys of the plugin's configuration replaced.
    pub(super) fn chain_with(&self, keys: &Value) -> Chain {
        let mut own = own(self.plugin);
        for (key, value) in keys.as_object().into_iter().flatten() {
            own[key] = value.clone();
        }
        let before = CHAINED.contains(&self.plugin).then(|| {
            // What is asked of a chained plugin can't be asked where nothing comes before it.
            if !self.sb.has("bridge") || !self.sb.has("host-local") {
                verdict::skip("no bridge or host-local in the directory under test");
            }
            self::own("bridge")
        });
        Chain::new("testnet", self.version, &before.into_iter().chain([own]).collect::<Vec<_>>())
    }

    /// Makes what the plugin needs of the node to attach a container. Idempotent.
    fn prepare(&self, id: &str) {
        prepare(self.sb, self.plugin);
        if self.plugin == "host-device" {
            let (device, wire) = (device_of(id), wire_of(id));
            self.sb.node().holds(&["ip", "link", "add", &device, "type", "veth", "peer", "name", &wire]);
        }
    }

    /// A container, ready to be attached; `c1` publishes port 8001, and so on.
    pub(super) fn container(&self, id: &str) -> Attachment {
        let port = 8000 + id.trim_start_matches('c').parse::<u16>().unwrap_or(0);
        self.prepare(id);
        let ns = self.sb.container(id);
        if self.plugin == "dhcp" {
            self.sb.dhcp_link(&ns);
        }
        Attachment::new(id, &ns).publish(&[(port, 80, "tcp")])
    }

    /// ADD of the plugin, ready to run: what comes before it in the chain has been done, and its result is `at.result`.
    pub(super) fn ready(&self, chain: &Chain, at: &mut Attachment) -> Call {
        let (own, before) = chain.plugins().split_last().unwrap();
        at.result = None;
        for plugin in before {
            let outcome = chain.call(self.sb, "ADD", plugin, at, at.result.as_ref()).run();
            at.result = Some(outcome.result());
        }
        chain.call(self.sb, "ADD", &self.own_for(own, at), at, at.result.as_ref())
    }

    /// The plugin's object for this attachment: a device, and a VLAN of a link, can be in one container only. That of `c1` is
    /// the chain's own.
    fn own_for(&self, own: &Value, at: &Attachment) -> Value {
        let mut own = own.clone();
        let id = at.netns.rsplit('/').next().unwrap_or_default();
        match self.plugin {
            "host-device" if !id.is_empty() => own["device"] = device_of(id).into(),
            "vlan" => own["vlanId"] = id.trim_start_matches('c').parse::<u16>().unwrap_or(1).into(),
            _ => {}
        }
        own
    }

    /// The plugin's network with an IPAM plugin that notes its verb and its stdin, and then does as the script says.
    pub(super) fn chain_with_fake(&self, script: &str) -> Chain {
        self.sb.fake("fake", &format!("cat >/run/stdin-$CNI_COMMAND; echo $CNI_COMMAND >>/run/verbs\n{script}"));
        self.chain_with(&json!({"ipam": {"type": "fake"}}))
    }

    /// Another verb of the plugin about an attachment. DEL gets no `prevResult` before 0.4.0, as from a runtime.
    pub(super) fn call(&self, verb: &str, chain: &Chain, at: &Attachment) -> Call {
        let own = self.own_for(chain.plugins().last().unwrap(), at);
        let result = at.result.as_ref().filter(|_| verb != "DEL" || self.version >= "0.4.0");
        chain.call(self.sb, verb, &own, at, result)
    }

    /// A verb that has no attachment (GC, STATUS), with more keys.
    pub(super) fn unattached(&self, verb: &str, chain: &Chain, keys: &Value) -> Call {
        if verb == "STATUS" {
            self.prepare("c1");
        }
        let mut conf = chain.plugins().last().unwrap().clone();
        conf["name"] = chain.name().into();
        conf["cniVersion"] = self.version.into();
        for (key, value) in keys.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        self.sb.plugin(self.plugin, verb).conf(&conf)
    }

    /// A container that has been attached with success.
    pub(super) fn attached(&self, id: &str) -> Attached {
        self.attached_to(self.chain(), id)
    }

    /// The same on a given network.
    pub(super) fn attached_to(&self, chain: Chain, id: &str) -> Attached {
        self.attach(chain, self.container(id))
    }

    /// The same with a given attachment.
    pub(super) fn attach(&self, chain: Chain, mut at: Attachment) -> Attached {
        let result = self.ready(&chain, &mut at).run().result();
        at.result = Some(result);
        Attached { chain, at }
    }

    /// CHECK of what was attached.
    pub(super) fn check(&self, of: &Attached) -> Outcome {
        self.call("CHECK", &of.chain, &of.at).run()
    }

    /// DEL of what was attached.
    pub(super) fn del(&self, of: &Attached) -> Outcome {
        self.call("DEL", &of.chain, &of.at).run()
    }

    /// Removes a container's namespace and waits until the kernel has taken its links down.
    pub(super) fn drop_namespace(&self, of: &Attached) {
        cni_tests::netns::sh(&["ip", "netns", "del", &of.at.id]);
        dhcp::unlink(&of.at.id);
        let interfaces = of.at.result.as_ref().and_then(|r| r["interfaces"].as_array()).cloned().unwrap_or_default();
        let wire = wire_of(&of.at.id);
        let reported = interfaces.iter().filter_map(|i| i["name"].as_str()).filter(|n| n.starts_with("veth"));
        let hosts: Vec<&str> = reported.chain([wire.as_str()]).collect();
        for _ in 0..200 {
            if !kernel::link_names(&self.sb.node()).iter().any(|n| hosts.contains(&n.as_str())) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("a link of {} is still there", of.at.id);
    }
}

/// host-local's section, with a route. It names its gateway, because CHECK of older Go plugins finds no route without one, and a
/// proof should fail for what it is about only.
pub(super) fn ipam() -> Value {
    json!({"type": "host-local", "subnet": SUBNET, "routes": [{"dst": "10.6.0.0/16", "gw": "10.77.0.1"}]})
}

/// The device of the node that host-device moves into a container.
fn device_of(id: &str) -> String {
    format!("dev{id}")
}

/// Its other end.
fn wire_of(id: &str) -> String {
    format!("wire{id}")
}

/// The plugin's own object in a list.
fn own(plugin: &str) -> Value {
    match plugin {
        "bridge" => json!({"type": "bridge", "bridge": "br-test", "isGateway": true, "ipam": ipam()}),
        "ptp" => json!({"type": "ptp", "ipam": ipam()}),
        "host-local" => json!({"type": "host-local", "ipam": ipam()}),
        "static" => json!({"type": "static", "ipam": {
            "type": "static", "addresses": [{"address": "10.77.0.9/24", "gateway": "10.77.0.1"}], "routes": [{"dst": "10.6.0.0/16"}]
        }}),
        "dhcp" => json!({"type": "dhcp", "ipam": {"type": "dhcp", "request": [{"option": "121"}]}}),
        "portmap" => json!({"type": "portmap", "capabilities": {"portMappings": true}}),
        "tuning" => json!({"type": "tuning", "mtu": 1400, "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}),
        "bandwidth" => json!({
            "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000,
            "egressBurst": 800_000
        }),
        "macvlan" | "ipvlan" => json!({"type": plugin, "master": MASTER, "ipam": ipam()}),
        "vlan" => json!({"type": "vlan", "master": MASTER, "vlanId": 1, "ipam": ipam()}),
        "host-device" => json!({"type": "host-device", "device": device_of("c1"), "ipam": ipam()}),
        "dummy" | "tap" => json!({"type": plugin, "ipam": ipam()}),
        "vrf" => json!({"type": "vrf", "vrfname": "red"}),
        other => json!({"type": other}),
    }
}
