//! firewall with firewalld: over a private system bus, with a service that pretends, and with the real one if it is here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, ask, at};
use cni_tests::{Outcome, Sandbox, Snapshot, netns, verdict};
use serde_json::{Value, json};
use zbus::blocking::{Connection, connection};

use super::Node;
use crate::case::{Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("addresses_become_sources", sources),
        common("another_zone", zone),
        common("is_chosen_where_it_runs", chosen),
        common("must_run_if_asked_for", not_running),
        improved("check_names_a_source_that_is_gone", check),
        improved("del_without_result", del_without_result),
        improved("gc_keeps_the_valid", gc),
        improved("refusal_is_rolled_back", refused),
        improved("real_one_lets_containers_through", real),
    ]
}

/// Ends a daemon with the case.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const SOCKET: &str = "/run/dbus/system_bus_socket";

/// A system bus where the plugin looks for it.
fn bus() -> Daemon {
    fs::create_dir_all("/run/dbus").unwrap();
    let config = format!(
        "<busconfig><type>system</type><listen>unix:path={SOCKET}</listen><auth>EXTERNAL</auth><policy context='default'>\
         <allow own='*'/><allow send_destination='*'/><allow receive_sender='*'/><allow user='*'/></policy></busconfig>"
    );
    fs::write("/run/dbus/config", config).unwrap();
    let daemon = Command::new("dbus-daemon")
        .args(["--config-file=/run/dbus/config", "--nofork", "--nopidfile"])
        .stderr(Stdio::null())
        .spawn()
        .map_or_else(|_| verdict::skip("no dbus-daemon here"), Daemon);
    wait_until("the bus is there", || UnixStream::connect(SOCKET).is_ok());
    daemon
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}: not within 30 s");
}

type Sources = Arc<Mutex<BTreeSet<(String, String)>>>;

/// What firewalld does with sources.
struct Zones {
    sources: Sources,
}

#[zbus::interface(name = "org.fedoraproject.FirewallD1.zone")]
impl Zones {
    #[zbus(name = "addSource")]
    fn add(&self, zone: &str, source: &str) -> zbus::fdo::Result<String> {
        let mut sources = self.sources.lock().unwrap();
        match sources.iter().find(|(_, there)| there == source) {
            Some((other, _)) if other == zone => Err(failed("ZONE_ALREADY_SET", source)),
            Some(_) => Err(failed("ZONE_CONFLICT", source)),
            None => {
                sources.insert((zone.to_owned(), source.to_owned()));
                Ok(zone.to_owned())
            }
        }
    }

    #[zbus(name = "querySource")]
    fn query(&self, zone: &str, source: &str) -> bool {
        self.sources.lock().unwrap().contains(&(zone.to_owned(), source.to_owned()))
    }

    #[zbus(name = "removeSource")]
    fn remove(&self, zone: &str, source: &str) -> zbus::fdo::Result<String> {
        match self.sources.lock().unwrap().remove(&(zone.to_owned(), source.to_owned())) {
            true => Ok(zone.to_owned()),
            false => Err(failed("UNKNOWN_SOURCE", source)),
        }
    }
}

fn failed(code: &str, source: &str) -> zbus::fdo::Error {
    zbus::fdo::Error::Failed(format!("{code}: '{source}'"))
}

/// A bus with a service that pretends to be firewalld.
struct Fake {
    _bus: Daemon,
    _service: Connection,
    sources: Sources,
}

impl Fake {
    fn start() -> Self {
        let bus = bus();
        let sources = Sources::default();
        let zones = Zones { sources: Arc::clone(&sources) };
        // Connected here: zbus' own threads are in whatever mount namespace the first case had.
        let service = connection::Builder::async_io_unix_stream(UnixStream::connect(SOCKET).unwrap())
            .name("org.fedoraproject.FirewallD1")
            .and_then(|builder| builder.serve_at("/org/fedoraproject/FirewallD1", zones))
            .and_then(connection::Builder::build)
            .expect("a service on the bus");
        Self { _bus: bus, _service: service, sources }
    }

    fn of(&self, zone: &str) -> Vec<String> {
        let sources = self.sources.lock().unwrap();
        sources.iter().filter(|(name, _)| name == zone).map(|(_, source)| source.clone()).collect()
    }
}

fn conf_of(sb: &Sandbox, backend: &str, n: u8) -> Value {
    let mut conf = conf::named(sb.newest(&["firewall"]), json!({"type": "firewall", "backend": backend}));
    conf["prevResult"] = json!({
        "cniVersion": conf["cniVersion"],
        "ips": [{"address": format!("10.9.0.{n}/24")}, {"address": format!("fd00:9::{n}/64")}]
    });
    conf
}

fn call(sb: &Sandbox, verb: &str, id: &str, conf: &Value) -> Outcome {
    sb.plugin("firewall", verb).names(id, "eth0").env("CNI_NETNS", "/run/netns/none").conf(conf).run()
}

const C1: [&str; 2] = ["10.9.0.2/32", "fd00:9::2/128"];

fn sources(sb: &Sandbox) {
    let fake = Fake::start();
    let conf = conf_of(sb, "firewalld", 2);
    for _ in 0..2 {
        call(sb, "ADD", "c1", &conf).result();
        assert_eq!(fake.of("trusted"), C1);
    }
    call(sb, "CHECK", "c1", &conf).silent();
    for _ in 0..2 {
        call(sb, "DEL", "c1", &conf).silent();
        assert!(fake.of("trusted").is_empty());
    }
}

fn zone(sb: &Sandbox) {
    let fake = Fake::start();
    let mut conf = conf_of(sb, "firewalld", 2);
    conf["firewalldZone"] = "containers".into();
    call(sb, "ADD", "c1", &conf).result();
    assert_eq!(fake.of("containers"), C1);
    call(sb, "DEL", "c1", &conf).silent();
    assert!(fake.of("containers").is_empty());
}

fn chosen(sb: &Sandbox) {
    let fake = Fake::start();
    call(sb, "ADD", "c1", &conf_of(sb, "", 2)).result();
    assert_eq!(fake.of("trusted"), C1);
    call(sb, "ADD", "c2", &conf_of(sb, "iptables", 3)).result();
    assert_eq!(fake.of("trusted"), C1, "unless another backend is asked for");
}

fn not_running(sb: &Sandbox) {
    let conf = conf_of(sb, "firewalld", 2);
    call(sb, "ADD", "c1", &conf).error();
    let _bus = bus();
    call(sb, "ADD", "c1", &conf).error().names(&["org.fedoraproject.FirewallD1"]);
    call(sb, "DEL", "c1", &conf).silent();
    call(sb, "ADD", "c1", &conf_of(sb, "", 2)).result();
}

fn check(sb: &Sandbox) {
    let fake = Fake::start();
    let conf = conf_of(sb, "firewalld", 2);
    call(sb, "ADD", "c1", &conf).result();
    // What a reload of firewalld does.
    fake.sources.lock().unwrap().clear();
    call(sb, "CHECK", "c1", &conf).error().names(&["10.9.0.2/32", "trusted"]);
}

fn del_without_result(sb: &Sandbox) {
    let fake = Fake::start();
    let mut conf = conf_of(sb, "firewalld", 2);
    call(sb, "ADD", "c1", &conf).result();
    call(sb, "ADD", "c2", &conf_of(sb, "firewalld", 3)).result();
    conf.as_object_mut().map(|c| c.remove("prevResult"));
    call(sb, "DEL", "c1", &conf).silent();
    assert_eq!(fake.of("trusted"), ["10.9.0.3/32", "fd00:9::3/128"]);
}

fn gc(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let fake = Fake::start();
    let mut conf = conf_of(sb, "firewalld", 2);
    call(sb, "ADD", "valid", &conf).result();
    call(sb, "ADD", "stale", &conf_of(sb, "firewalld", 3)).result();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "valid", "ifname": "eth0"}]);
    sb.plugin("firewall", "GC").conf(&conf).run().silent();
    assert_eq!(fake.of("trusted"), C1);
}

fn refused(sb: &Sandbox) {
    let fake = Fake::start();
    let first = conf_of(sb, "firewalld", 9);
    call(sb, "ADD", "first", &first).result();
    call(sb, "DEL", "first", &first).silent();
    let taken = ("public".to_owned(), C1[1].to_owned());
    fake.sources.lock().unwrap().insert(taken.clone());
    let before = Snapshot::of(&[&sb.node()]);
    let error = call(sb, "ADD", "c1", &conf_of(sb, "firewalld", 2)).error();
    error.names(&[C1[1], "trusted", "ZONE_CONFLICT"]);
    Snapshot::of(&[&sb.node()]).same_as(&before);
    assert_eq!(*fake.sources.lock().unwrap(), BTreeSet::from([taken]));
}

/// With the strictest zone as default, so that it is the source that opens the way.
fn real(sb: &Sandbox) {
    if !std::path::Path::new("/usr/sbin/firewalld").exists() {
        verdict::skip("no firewalld here");
    }
    let _bus = bus();
    for dir in ["/etc/firewalld", "/run/firewalld"] {
        fs::create_dir_all(dir).unwrap();
        netns::sh(&["mount", "-t", "tmpfs", "tmpfs", dir]);
    }
    fs::write("/etc/firewalld/firewalld.conf", "DefaultZone=drop\nFirewallBackend=nftables\nIPv6_rpfilter=no\n")
        .unwrap();
    let daemon = Command::new("/usr/sbin/firewalld").args(["--nofork", "--nopid"]).stderr(Stdio::null()).spawn();
    let _firewalld = Daemon(daemon.unwrap());
    wait_until("firewalld runs", || sb.node().holds(&["/usr/bin/firewall-cmd", "--state", "-q"]));

    let node = Node::accepting(sb, Backend::Nftables);
    let closed = node.network(1, None).attach("closed", &[]);
    assert!(ask(&closed.ns, Proto::Tcp, at(Outside::V4, 7000)).is_err(), "firewalld keeps it in");
    let net = node.network(2, Some(json!({"type": "firewall", "backend": ""})));
    let web = net.attach("web", &[(8080, 80, "tcp")]);
    for to in [Outside::V4, Outside::V6] {
        let answer = ask(&web.ns, Proto::Tcp, at(to, 7000));
        assert!(answer.is_ok_and(|answer| answer.starts_with("outside ")), "egress to {to}");
    }
    let answer = ask(&node.outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080));
    assert!(answer.is_ok_and(|answer| answer.starts_with("web ")), "the published port");
    net.chain.check(sb, &web.at).silent();
    net.chain.del(sb, &web.at);
    let left = node.ns.sh(&["/usr/bin/firewall-cmd", "--zone=trusted", "--list-sources"]);
    assert_eq!(left.trim(), "");
}
