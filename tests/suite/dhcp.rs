//! dhcp: leases from real servers (dnsmasq, udhcpd) on a bridge, and the daemon that keeps them.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use cni_tests::dhcp::{LEASED, Processes, SOCKET, bridge, daemons, kill, linked};
use cni_tests::parallel::{at_once, until};
use cni_tests::{Attachment, Chain, Netns, Outcome, Sandbox, kernel, netns};
use serde_json::{Value, json};

use crate::case::{Case, common, improved};

/// Where the daemon keeps its leases.
const LEASES: &str = "/run/cni/dhcp";

/// All cases of this subject.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        common("a_lease_becomes_the_result", lease),
        common("what_is_provided_reaches_the_server", provided),
        common("classless_routes_replace_the_router", classless),
        common("del_releases_the_lease", release),
        improved("the_first_call_starts_one_daemon", first_call),
        improved("an_idle_daemon_ends", idle),
        improved("leases_survive_a_killed_daemon", killed),
        improved("a_lease_of_seconds_is_renewed", renewed),
        improved("an_ended_lease_takes_the_link_down", ended),
        improved("a_lease_ends_with_the_namespace", namespace),
        improved("gc_ends_what_is_not_valid", gc),
        improved("an_address_for_each_family", both_families),
        improved("del_without_a_lease_starts_nothing", nothing),
        improved("check_names_a_lost_lease", lost),
        improved("a_killed_add_leaves_no_lease", killed_add),
        improved("systemd_s_socket_is_taken_over", handed),
        improved("bad_keys_are_named", bad_keys),
    ]
}

fn network(sb: &Sandbox, ipam: Value) -> Chain {
    let mut ipam = ipam;
    ipam["type"] = "dhcp".into();
    Chain::new("net", sb.newest(&["bridge", "dhcp"]), &[json!({"type": "bridge", "bridge": "br-dhcp", "ipam": ipam})])
}

fn call(sb: &Sandbox, verb: &str, ns: &Netns, conf: &Value) -> Outcome {
    sb.plugin("dhcp", verb).attach(&ns.name, "eth0", ns).conf(conf).run()
}

fn conf(ipam: Value) -> Value {
    let mut ipam = ipam;
    ipam["type"] = "dhcp".into();
    json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": ipam})
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

fn leased() -> String {
    fs::read_to_string(LEASED).unwrap_or_default()
}

fn kept() -> usize {
    let is_lease = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path().extension().is_some());
    fs::read_dir(LEASES)
        .map(|entries| entries.filter(|entry| entry.as_ref().is_ok()).map(is_lease).filter(|is| *is).count())
        .unwrap_or_default()
}

fn lease(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&["--dhcp-option=3,10.9.0.1"]);
    processes.daemon(sb);
    let net = network(sb, json!({}));
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    let result = net.add(sb, &mut at);
    let got = address(&result);
    assert!(got.starts_with("10.9.0.1") && got.ends_with("/24"), "{got}");
    assert_eq!(result["ips"][0]["gateway"], "10.9.0.1");
    assert!(kernel::addresses(&ns, "eth0").contains(&got));
    assert_eq!(kernel::default_routes(&ns, "-4"), ["10.9.0.1 dev eth0"]);
    ns.sh(&["ping", "-c1", "-W5", "10.9.0.1"]);
    net.check(sb, &at).silent();
    assert!(leased().contains(got.trim_end_matches("/24")), "{}", leased());
    net.del(sb, &at);
}

fn provided(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    processes.daemon(sb);
    let ns = linked(sb, "c1");
    let provide = json!([{"option": "host-name", "fromArg": "K8S_POD_NAME"}]);
    let conf = conf(json!({"provide": provide}));
    let add = sb.plugin("dhcp", "ADD").attach("c1", "eth0", &ns).env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web-0");
    add.conf(&conf).run().result();
    // The identifier is a zero byte and the owner's names.
    let id: String = b"\0c1/net/eth0".iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    assert!(leased().contains("web-0") && leased().contains(&id), "{}", leased());
    call(sb, "DEL", &ns, &conf).silent();
}

fn classless(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&["--dhcp-option=3,10.9.0.1", "--dhcp-option=121,10.20.0.0/16,10.9.0.7,0.0.0.0/0,10.9.0.8"]);
    processes.daemon(sb);
    let ns = linked(sb, "c1");
    let conf = conf(json!({"request": [{"option": "121"}]}));
    let result = call(sb, "ADD", &ns, &conf).result();
    let routes: Vec<_> =
        result["routes"].as_array().unwrap().iter().map(|r| format!("{} {}", r["dst"], r["gw"])).collect();
    assert_eq!(routes, ["\"10.20.0.0/16\" \"10.9.0.7\"", "\"0.0.0.0/0\" \"10.9.0.8\""]);
    call(sb, "DEL", &ns, &conf).silent();
}

fn release(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    processes.daemon(sb);
    let ns = linked(sb, "c1");
    let conf = conf(json!({}));
    let got = address(&call(sb, "ADD", &ns, &conf).result());
    assert!(leased().contains(got.trim_end_matches("/24")));
    // dnsmasq looks a lease up by the message's ciaddr, and ignores one without.
    call(sb, "DEL", &ns, &conf).silent();
    until("the server has the address back", || !leased().contains("10.9.0."));
    call(sb, "DEL", &ns, &conf).silent();
}

fn first_call(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    let containers: Vec<Netns> = (0..6).map(|n| linked(sb, &format!("c{n}"))).collect();
    let conf = conf(json!({}));
    let outcomes = at_once(containers.len(), |n| call(sb, "ADD", &containers[n], &conf));
    let got: std::collections::BTreeSet<String> = outcomes.iter().map(|outcome| address(&outcome.result())).collect();
    assert_eq!((got.len(), daemons().len(), kept()), (6, 1, 6));
    for ns in &containers {
        call(sb, "DEL", ns, &conf).silent();
    }
    assert_eq!(kept(), 0);
}

fn idle(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    let ns = linked(sb, "c1");
    fs::create_dir_all("/run/cni").unwrap();
    processes.start(Command::new(sb.dir().join("dhcp")).args(["daemon", "-idle", "1"]));
    let conf = conf(json!({}));
    call(sb, "ADD", &ns, &conf).result();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(daemons().len(), 1, "it keeps a lease");
    call(sb, "DEL", &ns, &conf).silent();
    until("the daemon ends", || !fs::exists(SOCKET).unwrap());
    // The next call starts another one.
    call(sb, "ADD", &ns, &conf).result();
    call(sb, "DEL", &ns, &conf).silent();
}

fn killed(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.udhcpd(6);
    let ns = linked(sb, "c1");
    let conf = conf(json!({}));
    let mut checked = conf.clone();
    checked["prevResult"] = call(sb, "ADD", &ns, &conf).result();
    ns.sh(&["ip", "address", "add", &address(&checked["prevResult"]), "dev", "eth0"]);
    daemons().into_iter().for_each(kill);
    until("the daemon is gone", || daemons().is_empty());
    call(sb, "CHECK", &ns, &checked).silent();
    // Longer than the lease: the new daemon has renewed it.
    std::thread::sleep(Duration::from_secs(9));
    call(sb, "CHECK", &ns, &checked).silent();
    assert_eq!(daemons().len(), 1);
    call(sb, "DEL", &ns, &conf).silent();
}

fn renewed(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.udhcpd(4);
    let net = network(sb, json!({}));
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns);
    net.add(sb, &mut at);
    std::thread::sleep(Duration::from_secs(10));
    net.check(sb, &at).silent();
    ns.sh(&["ping", "-c1", "-W5", "10.9.0.1"]);
    net.del(sb, &at);
}

fn ended(sb: &Sandbox) {
    let mut processes = Processes::new();
    let server = processes.udhcpd(4);
    let ns = linked(sb, "c1");
    let conf = conf(json!({}));
    let result = call(sb, "ADD", &ns, &conf).result();
    ns.sh(&["ip", "address", "add", &address(&result), "dev", "eth0"]);
    let is_up = || kernel::has_flag(&kernel::link(&ns, "eth0").unwrap(), "UP");
    assert!(is_up());
    kill(server);
    until("the link goes down", || !is_up());
    let mut checked = conf.clone();
    checked["prevResult"] = result;
    call(sb, "CHECK", &ns, &checked).error().names(&["was lost", "has ended"]);
    netns::sh(&["ip", "link", "del", "br-dhcp"]);
    call(sb, "DEL", &ns, &conf).silent();
    assert_eq!(kept(), 0);
}

fn namespace(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    let ns = linked(sb, "c1");
    call(sb, "ADD", &ns, &conf(json!({}))).result();
    assert_eq!(kept(), 1);
    ns.delete();
    // The daemon doesn't keep the namespace, so the pair goes at once, and the lease when that is noticed.
    until("the pair is gone", || kernel::link(&sb.node(), "v-c1").is_none());
    until("the lease is given up", || kept() == 0);
}

fn gc(sb: &Sandbox) {
    sb.needs("dhcp", "1.1.0");
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    let containers: Vec<Netns> = (0..3).map(|n| linked(sb, &format!("c{n}"))).collect();
    let mut conf = conf(json!({}));
    conf["cniVersion"] = "1.1.0".into();
    for ns in &containers {
        call(sb, "ADD", ns, &conf).result();
    }
    let mut other = conf.clone();
    other["name"] = "other".into();
    let elsewhere = linked(sb, "d1");
    call(sb, "ADD", &elsewhere, &other).result();
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    sb.plugin("dhcp", "GC").conf(&conf).run().silent();
    assert_eq!(kept(), 2, "c1 of this network, d1 of the other");
    until("the server has the addresses back", || leased().matches("10.9.0.").count() == 2);
}

fn both_families(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&["--dhcp-range=fd00:9::100,fd00:9::120,64,2m", "--dhcp-option=option6:dns-server,[fd00:9::53]"]);
    let ns = linked(sb, "c1");
    let conf = conf(json!({"families": ["ipv4", "ipv6"]}));
    let result = call(sb, "ADD", &ns, &conf).result();
    let got: Vec<_> = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect();
    assert!(got[0].ends_with("/24") && got[1].starts_with("fd00:9::1") && got[1].ends_with("/128"), "{got:?}");
    assert_eq!(result["dns"]["nameservers"], json!(["fd00:9::53"]));
    assert!(leased().contains(got[1].trim_end_matches("/128")), "{}", leased());
    call(sb, "DEL", &ns, &conf).silent();
    until("the server has both back", || !leased().contains("fd00:9::1") && !leased().contains("10.9.0."));
}

fn nothing(sb: &Sandbox) {
    let _processes = Processes::new();
    let ns = sb.container("c1");
    call(sb, "DEL", &ns, &conf(json!({}))).silent();
    sb.plugin("dhcp", "DEL").names("c1", "eth0").conf(&conf(json!({"provide": "nonsense"}))).run().silent();
    assert!(daemons().is_empty() && !fs::exists(SOCKET).unwrap());
}

fn lost(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    let ns = linked(sb, "c1");
    let conf = conf(json!({}));
    let mut checked = conf.clone();
    checked["prevResult"] = call(sb, "ADD", &ns, &conf).result();
    call(sb, "CHECK", &ns, &checked).silent();
    checked["prevResult"]["ips"][0]["address"] = "10.9.0.77/24".into();
    call(sb, "CHECK", &ns, &checked).error().names(&["10.9.0.1"]);
    call(sb, "DEL", &ns, &conf).silent();
    call(sb, "CHECK", &ns, &checked).error().names(&["no lease", "c1"]);
}

fn killed_add(sb: &Sandbox) {
    let mut processes = Processes::new();
    bridge();
    let ns = linked(sb, "c1");
    // No server answers: the ADD waits, and is killed.
    let conf = conf(json!({}));
    let call_add = sb.plugin("dhcp", "ADD").attach("c1", "eth0", &ns).conf(&conf);
    let mut child = call_add.command().stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), call_add.input()).unwrap();
    until("the daemon works at it", || kept() == 1);
    let _ = child.kill();
    processes.adopt(child);
    call(sb, "DEL", &ns, &conf).silent();
    assert_eq!(kept(), 0);
}

fn handed(sb: &Sandbox) {
    let mut processes = Processes::new();
    processes.dnsmasq(&[]);
    fs::create_dir_all("/run/cni").unwrap();
    let daemon = sb.dir().join("dhcp").display().to_string();
    processes.start(Command::new("systemd-socket-activate").args(["-l", SOCKET, &daemon, "daemon"]));
    until("the socket is there", || fs::exists(SOCKET).unwrap());
    let ns = linked(sb, "c1");
    let conf = conf(json!({}));
    call(sb, "ADD", &ns, &conf).result();
    assert_eq!(daemons().len(), 1);
    call(sb, "DEL", &ns, &conf).silent();
}

fn bad_keys(sb: &Sandbox) {
    let _processes = Processes::new();
    let ns = sb.container("c1");
    for (ipam, named) in [
        (json!({"provide": [{"option": "hostname", "value": "x"}]}), "ipam.provide[0].option \"hostname\""),
        (json!({"provide": [{"option": "12"}]}), "ipam.provide[0]"),
        (json!({"request": [{"option": "300"}]}), "ipam.request[0].option \"300\""),
        (json!({"families": ["inet6"]}), "\"inet6\""),
        (json!({"daemonSocketPath": "run/x"}), "\"run/x\""),
    ] {
        call(sb, "ADD", &ns, &conf(ipam)).error().names(&[named]);
    }
    assert!(daemons().is_empty());
}
