//! cni-noded: one network on three hosts by etcd, with names, as Docker's overlay networks have it.

use std::fs;
use std::process::{Child, Command, Stdio};

use cni_tests::Sandbox;
use cni_tests::parallel::until;
use serde_json::{Value, json};

use super::etcd::Etcd;
use super::{Agent, Node, nodes};
use crate::case::{Case, improved};
use crate::dnsname::Reaper;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![improved("containers_of_three_hosts_by_name", by_name)]
}

/// A node with state directories of its own, which a process holds.
struct Host {
    node: Node,
    holder: Child,
    dir: String,
    agent: Option<Agent>,
}

impl Drop for Host {
    fn drop(&mut self) {
        // Without the agent the names of other nodes stay, and the resolver with them.
        self.node.ns.run(|| drop(Reaper));
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Host {
    fn new(sb: &Sandbox, node: Node) -> Self {
        let script = "mkdir -p /run/cni && mount -t tmpfs tmpfs /run/cni && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /etc/cni && \
                      touch /run/cni/here && exec sleep 600";
        let holder = node.ns.run(|| {
            Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-c", script])
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        });
        let host = Self { node, holder, dir: sb.dir().display().to_string(), agent: None };
        until("the host's directories", || host.holds("test -e /run/cni/here"));
        host
    }

    fn script(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-m", "-n", "--", "sh", "-c", script]);
        command.env("CNI_PATH", &self.dir).env("NETCONFPATH", "/etc/cni/net.d");
        command
    }

    fn holds(&self, script: &str) -> bool {
        self.script(script).output().unwrap().status.success()
    }

    #[track_caller]
    fn run(&self, script: &str) -> String {
        let out = self.script(script).output().unwrap();
        assert!(
            out.status.success(),
            "{script}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn start(&mut self) {
        let config = json!({
            "node": format!("n{}", self.node.number),
            "source": {"etcd": {"endpoints": ["http://192.0.2.200:2379"], "ttl": 5, "names": "shop",
                "subnets": [{"subnet": "10.42.0.0/16", "part": 24}]}},
            "backend": {"bridge": {}},
            "network": {"file": "/etc/cni/net.d/shop.conflist", "template": {
                "cniVersion": "1.0.0", "name": "shop", "plugins": [
                    {"type": "bridge", "bridge": "br-shop", "isDefaultGateway": true, "ipam": {"type": "host-local", "ranges": "{ranges}"}},
                    {"type": "vxlan", "vni": 42, "dev": "eth0"},
                    {"type": "dnsname", "domainName": "shop.test"},
                ]}},
        });
        let number = self.node.number;
        let (path, log) = (format!("/run/shop{number}.json"), format!("/run/shop{number}.log"));
        fs::write(&path, config.to_string()).unwrap();
        let out = fs::File::create(&log).unwrap();
        let mut command = self.script(&format!("exec \"$CNI_PATH/cni-noded\" --config {path}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out).spawn().unwrap();
        self.agent = Some(Agent { child, log: log.into() });
        until("the network", || self.holds("test -e /etc/cni/net.d/shop.conflist"));
    }

    /// Attaches a container with this name; returns its address.
    fn attach(&self, name: &str) -> String {
        let script = format!(
            "CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAME={name}' \"$CNI_PATH/cninet\" add shop /run/netns/{name} --id {name}-id"
        );
        let result: Value = serde_json::from_str(&self.run(&script)).unwrap();
        result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
    }

    fn detach(&self, name: &str) {
        self.run(&format!("\"$CNI_PATH/cninet\" del shop /run/netns/{name} --id {name}-id"));
    }

    /// What a container of this host gets for a name.
    fn asks(&self, from: &str, name: &str) -> String {
        let gateway = format!("$(ip netns exec {from} ip route show default | cut -d' ' -f3)");
        self.run(&format!("ip netns exec {from} dig +short +tries=2 +time=2 @{gateway} {name} || true"))
            .trim()
            .to_owned()
    }
}

fn by_name(sb: &Sandbox) {
    let nodes = nodes(sb, 3);
    let etcd = Etcd::start(sb);
    // Before the hosts' mount namespaces, which are copies.
    ["web", "db", "cache", "second"].iter().for_each(|name| drop(sb.container(name)));
    let mut hosts: Vec<Host> = nodes.into_iter().map(|node| Host::new(sb, node)).collect();
    hosts.iter_mut().for_each(Host::start);
    let names = ["web", "db", "cache"];
    let addresses: Vec<String> = hosts.iter().zip(names).map(|(host, name)| host.attach(name)).collect();
    for (host, from) in hosts.iter().zip(names) {
        for (name, address) in names.iter().zip(&addresses) {
            for asked in [(*name).to_owned(), format!("{name}.shop.test")] {
                until(&format!("{from} finds {asked}"), || host.asks(from, &asked) == *address);
            }
            if from != *name {
                until("it answers", || host.holds(&format!("ip netns exec {from} ping -n -q -c1 -W2 {address}")));
            }
        }
    }
    // Backwards too.
    let reverse = hosts[0].asks("web", &format!("-x {}", addresses[1]));
    assert_eq!(reverse, "db.shop.test.");
    // Neither GC nor the operator's command takes another node's names for leaks.
    hosts[0].run("\"$CNI_PATH/cninet\" gc");
    assert_eq!(hosts[0].run("\"$CNI_PATH/cninet\" leaks --json").trim(), "[]");
    assert_eq!(hosts[0].asks("web", "db"), addresses[1]);
    // A container that ends is found nowhere,
    hosts[1].detach("db");
    until("db is gone", || hosts[0].asks("web", "db").is_empty());
    // and neither is one of a host that is dead, once its lease has run out.
    hosts[2].agent = None;
    until("cache is gone", || hosts[0].asks("web", "cache").is_empty());
    assert_eq!(etcd.parts().len(), 2);
    // Without its agent too, nothing of other nodes outlives the last container of a host.
    hosts[2].detach("cache");
    assert!(!hosts[2].holds("test -e /run/cni/dnsname/shop"));
    until("its resolver has ended", || hosts[2].holds("flock -n /run/cni/dnsname/running true"));
    // The last container takes the resolver with it, whatever other nodes have.
    let second = hosts[1].attach("second");
    until("web finds second", || hosts[0].asks("web", "second") == second);
    hosts[0].detach("web");
    until("no names are left", || !hosts[0].holds("ls /run/cni/dnsname/shop 2>/dev/null | grep ."));
    until("the resolver has ended", || hosts[0].holds("flock -n /run/cni/dnsname/running true"));
    hosts[1].detach("second");
}
