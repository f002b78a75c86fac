//! Waits: each has an end well before a runtime's two minutes, and an error that names who is waited for. And what a killed
//! plugin leaves running takes no effect after the call that cleans up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cni_tests::conf::{self, Backend};
use cni_tests::legacy;
use cni_tests::parallel::at_once;
use cni_tests::sandbox::FAKES;
use cni_tests::{Netns, Outcome, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, improved};
use cni_tests::plugins::previous;

/// A directory of iptables tools in front of `PATH`, and what its scripts leave.
const TOOLS: &str = "/run/cni-test/tools";
const STARTED: &str = "/run/cni-test/started";
const PID: &str = "/run/cni-test/pid";
/// What others keep.
const SHARED: [&str; 4] = ["last_reserved_ip", "/var/lib/cni: ", "/lock", "/run/xtables.lock"];
/// A call never takes longer, with its rollback; and one lock or tool is given up after this.
const LONGEST: Duration = Duration::from_secs(75);
const ONE_WAIT: Duration = Duration::from_secs(45);

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for plugin in ["portmap", "firewall", "bridge", "ptp"] {
        for verb in ["del", "gc", "add"] {
            let name = format!("{plugin}::{verb}_after_a_killed_add_comes_after_its_tool");
            cases.push(improved(name, move |sb| orphan(sb, plugin, "tool", verb)));
        }
        let name = format!("{plugin}::del_ends_the_hung_tool_of_a_killed_add");
        cases.push(improved(name, move |sb| hung_orphan(sb, plugin)));
        let name = format!("{plugin}::xtables_lock_names_its_holder");
        cases.push(improved(name, move |sb| xtables(sb, plugin)));
    }
    for plugin in ["bridge", "ptp"] {
        for verb in ["del", "gc"] {
            let name = format!("{plugin}::{verb}_after_a_killed_add_comes_after_its_ipam");
            cases.push(improved(name, move |sb| orphan(sb, plugin, "ipam", verb)));
        }
        cases.push(improved(format!("{plugin}::hung_ipam_is_ended"), move |sb| hung_ipam(sb, plugin)));
        let name = format!("{plugin}::host_local_lock_names_its_holder");
        cases.push(improved(name, move |sb| host_local(sb, plugin)));
    }
    cases.push(improved("firewall::silent_bus_is_named", silent_bus));
    cases.push(improved("portmap::hung_tool_keeps_no_other_port_waiting", hung_tool));
    cases.push(improved("portmap::stopped_plugin_is_named", stopped));
    cases.push(improved("portmap::next_holder_of_the_port_comes_after_a_killed_add", next_holder));
    cases
}

/// What `plugin` is called with. With `ipam`, that allocates the addresses.
fn conf_for(sb: &Sandbox, plugin: &str, ipam: &str) -> Value {
    sb.needs(plugin, "1.1.0");
    let mut conf = match plugin {
        "portmap" => publishing(Backend::Iptables, 8080, 3),
        "firewall" => conf::firewall_alone(sb, Backend::Iptables, "isolated", 2),
        _ => conf::named("1.1.0", conf::masquerading(Backend::Iptables)),
    };
    if matches!(plugin, "bridge" | "ptp") {
        conf["type"] = plugin.into();
        conf["ipam"]["type"] = ipam.into();
    }
    conf["cniVersion"] = "1.1.0".into();
    conf
}

fn publishing(backend: Backend, port: u16, n: u8) -> Value {
    let mut conf = conf::named("1.1.0", conf::portmap(backend));
    conf["prevResult"] = previous("1.1.0");
    conf["prevResult"]["ips"][0]["address"] = format!("10.1.2.{n}/24").into();
    conf["runtimeConfig"] = json!({"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]});
    conf
}

/// The tools of the node, with the `-restore` ones replaced by a script.
fn tools(restore: &str) -> String {
    fs::create_dir_all(TOOLS).unwrap();
    for family in ["iptables", "ip6tables"] {
        let tool = format!("/usr/sbin/{family}-restore");
        let script = format!("#!/bin/sh\necho $$ >> {PID}; : > {STARTED}; {}\n", restore.replace("TOOL", &tool));
        let path = Path::new(TOOLS).join(format!("{family}-restore"));
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{TOOLS}:{}", std::env::var("PATH").unwrap())
}

/// Runs the plugin's ADD until a fake has started, and does to it what `then` says.
fn until_started(sb: &Sandbox, plugin: &str, id: &str, ns: &Netns, conf: &Value, path: &str, then: &str) {
    let program = sb.dir().join(plugin);
    let script = format!(
        "exec 3<&0; {} <&3 >/run/cni-test/out 2>&1 & pid=$!; until [ -e {STARTED} ]; do sleep 0.02; done\n{then}",
        program.display()
    );
    sb.fake("until-started", &script);
    let add = sb.plugin(plugin, "ADD").attach(id, "eth0", ns).conf(conf).env("PATH", path);
    assert!(add.by(Path::new(FAKES).join("until-started")).run().ok(), "{:?}", fs::read_to_string("/run/cni-test/out"));
}

/// Not at once: GC finds a pair of links by its alternative name, which it gets after it is made.
const KILL: &str = "sleep 0.3; kill -KILL $pid; wait $pid; exit 0";

fn call(sb: &Sandbox, plugin: &str, verb: &str, id: &str, ns: &Netns, conf: &Value) -> Outcome {
    let call = sb.plugin(plugin, verb);
    let mut conf = conf.clone();
    if verb != "GC" {
        return call.attach(id, "eth0", ns).conf(&conf).run();
    }
    conf["cni.dev/valid-attachments"] = json!([]);
    conf.as_object_mut().unwrap().remove("prevResult");
    call.conf(&conf).run()
}

/// An attachment came and went, so that what all share is there.
fn warm(sb: &Sandbox, plugin: &str, conf: &Value) -> (Netns, Snapshot) {
    let ns = sb.container("c1");
    call(sb, plugin, "ADD", "c1", &ns, conf).result();
    call(sb, plugin, "DEL", "c1", &ns, conf).silent();
    for name in [STARTED, PID] {
        let _ = fs::remove_file(name);
    }
    let before = Snapshot::of(&[&sb.node(), &ns]);
    (ns, before)
}

fn same(sb: &Sandbox, ns: &Netns, before: &Snapshot) {
    Snapshot::of(&[&sb.node(), ns]).same_but(before, &SHARED);
}

/// ADD is killed while its child runs, which continues for a while and then commits.
fn orphan(sb: &Sandbox, plugin: &str, child: &str, verb: &str) {
    sb.fake(
        "slow-ipam",
        &format!("[ $CNI_COMMAND = ADD ] && {{ : > {STARTED}; sleep 1.5; }}; exec {}/host-local", sb.dir().display()),
    );
    let conf = conf_for(sb, plugin, if child == "ipam" { "slow-ipam" } else { "host-local" });
    let (ns, before) = warm(sb, plugin, &conf);
    let path = if child == "tool" { tools("sleep 1.5; exec TOOL \"$@\"") } else { std::env::var("PATH").unwrap() };
    until_started(sb, plugin, "c1", &ns, &conf, &path, KILL);
    match verb {
        // An interface that is there already is refused by bridge and ptp; in either case DEL finds everything afterwards.
        "add" => {
            let begin = Instant::now();
            let outcome = call(sb, plugin, "ADD", "c1", &ns, &conf);
            assert!(begin.elapsed() > Duration::from_millis(700), "ADD didn't wait: {outcome}");
            call(sb, plugin, "DEL", "c1", &ns, &conf).silent();
        }
        "gc" => call(sb, plugin, "GC", "c1", &ns, &conf).silent(),
        _ => call(sb, plugin, "DEL", "c1", &ns, &conf).silent(),
    }
    sleep(Duration::from_millis(2500));
    same(sb, &ns, &before);
}

fn pids() -> Vec<u32> {
    fs::read_to_string(PID).unwrap_or_default().lines().map(|line| line.parse().unwrap()).collect()
}

fn assert_ended(pids: &[u32]) {
    assert!(!pids.is_empty(), "a tool was started");
    for pid in pids {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z"), "still there: {state}");
    }
}

/// ADD is killed while its tool hangs.
fn hung_orphan(sb: &Sandbox, plugin: &str) {
    let conf = conf_for(sb, plugin, "host-local");
    let (ns, before) = warm(sb, plugin, &conf);
    until_started(sb, plugin, "c1", &ns, &conf, &tools("exec sleep 300"), KILL);
    let begin = Instant::now();
    let outcome = call(sb, plugin, "DEL", "c1", &ns, &conf);
    outcome.silent();
    assert!(begin.elapsed() < ONE_WAIT, "{:?}", begin.elapsed());
    assert!(outcome.stderr.contains("sleep 300"), "what was ended is named: {outcome}");
    assert_ended(&pids());
    same(sb, &ns, &before);
}

fn held(words: &[&str]) -> Child {
    let child = Command::new(words[0]).args(&words[1..]).spawn().expect(words[0]);
    sleep(Duration::from_millis(300));
    child
}

/// Another program has the lock of the legacy tools. A rollback with nothing to take back doesn't wait for it again.
fn xtables(sb: &Sandbox, plugin: &str) {
    let conf = conf_for(sb, plugin, "host-local");
    let path = legacy::path();
    let ns = sb.container("c1");
    let verb = |verb: &str| sb.plugin(plugin, verb).attach("c1", "eth0", &ns).conf(&conf).env("PATH", &path).run();
    verb("ADD").result();
    verb("DEL").silent();
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let mut holder = held(&["flock", "-x", "/run/xtables.lock", "sleep", "120"]);
    let begin = Instant::now();
    let error = verb("ADD").error();
    let took = begin.elapsed();
    let still = holder.try_wait().unwrap().is_none();
    let _ = Command::new("pkill").args(["-P", &holder.id().to_string()]).status();
    holder.kill().and_then(|()| holder.wait()).unwrap();
    assert!(still && took < ONE_WAIT, "{took:?}");
    error.names(&["/run/xtables.lock", &format!("PID {} (flock", holder.id())]);
    same(sb, &ns, &before);
}

/// IPAM hangs in ADD, and in the DEL that takes it back.
fn hung_ipam(sb: &Sandbox, plugin: &str) {
    sb.fake("hung-ipam", &format!("echo $$ >> {PID}; sleep 300"));
    let conf = conf_for(sb, plugin, "host-local");
    let (ns, before) = warm(sb, plugin, &conf);
    let hung = conf_for(sb, plugin, "hung-ipam");
    let begin = Instant::now();
    let error = call(sb, plugin, "ADD", "c1", &ns, &hung).error();
    assert!(begin.elapsed() < LONGEST, "{:?}", begin.elapsed());
    error.names(&["hung-ipam", "PID ", "sleep 300"]);
    assert_ended(&pids());
    same(sb, &ns, &before);
}

/// Another process has the lock of the reservations.
fn host_local(sb: &Sandbox, plugin: &str) {
    let conf = conf_for(sb, plugin, "host-local");
    let (ns, before) = warm(sb, plugin, &conf);
    let file = "/var/lib/cni/networks/testnet/lock";
    let mut holder = held(&["flock", "-x", file, "sleep", "120"]);
    let begin = Instant::now();
    let error = call(sb, plugin, "ADD", "c1", &ns, &conf).error();
    let add = begin.elapsed();
    // There is nothing of this one, so it has nothing to wait for.
    let begin = Instant::now();
    let del = call(sb, plugin, "DEL", "c9", &ns, &conf);
    let del_took = begin.elapsed();
    let still = holder.try_wait().unwrap().is_none();
    let _ = Command::new("pkill").args(["-P", &holder.id().to_string()]).status();
    holder.kill().and_then(|()| holder.wait()).unwrap();
    assert!(still && add < ONE_WAIT, "{add:?}");
    error.names(&[file, "ipam.dataDir", &format!("PID {} (flock", holder.id())]);
    del.silent();
    assert!(del_took < Duration::from_secs(8), "{del_took:?}");
    same(sb, &ns, &before);
}

/// The D-Bus daemon is stopped: it takes connections and says nothing.
fn silent_bus(sb: &Sandbox) {
    let mut conf = conf_for(sb, "firewall", "");
    conf.as_object_mut().unwrap().remove("backend");
    let ns = sb.container("c1");
    fs::create_dir_all("/run/dbus").unwrap();
    let _bus = std::os::unix::net::UnixListener::bind("/run/dbus/system_bus_socket").unwrap();
    let before = Snapshot::of(&[&sb.node(), &ns]);
    let begin = Instant::now();
    let error = call(sb, "firewall", "ADD", "c1", &ns, &conf).error();
    assert!(begin.elapsed() < ONE_WAIT, "{:?}", begin.elapsed());
    error.names(&["D-Bus"]);
    same(sb, &ns, &before);
}

/// One container's iptables-restore hangs: others' ports are published meanwhile, by either backend.
fn hung_tool(sb: &Sandbox) {
    let (ns, before) = warm(sb, "portmap", &publishing(Backend::Iptables, 8080, 3));
    let nftables = publishing(Backend::Nftables, 8090, 9);
    call(sb, "portmap", "ADD", "n", &ns, &nftables).result();
    let path = tools("exec sleep 300");
    let timed = at_once(3, |n| {
        let backend = if n == 2 { Backend::Nftables } else { Backend::Iptables };
        let number = u8::try_from(n).unwrap();
        let conf = publishing(backend, 8080 + u16::from(number), 3 + number);
        let mut add = sb.plugin("portmap", "ADD").attach(&format!("c{n}"), "eth0", &ns).conf(&conf);
        if n == 0 {
            add = add.env("PATH", &path);
        } else {
            while !Path::new(STARTED).exists() {
                sleep(Duration::from_millis(20));
            }
        }
        let begin = Instant::now();
        let outcome = add.run();
        (outcome, begin.elapsed())
    });
    let [(hung, took), rest @ ..] = &timed[..] else { unreachable!() };
    for (outcome, took) in rest {
        outcome.result();
        assert!(*took < Duration::from_secs(10), "{took:?}: {outcome}");
    }
    assert!(*took < LONGEST, "{took:?}");
    hung.error().names(&["iptables-restore", "PID ", "sleep 300"]);
    assert_ended(&pids());
    for (n, backend) in [(1, Backend::Iptables), (2, Backend::Nftables)] {
        let conf = publishing(backend, 8080 + n, 3 + u8::try_from(n).unwrap());
        call(sb, "portmap", "DEL", &format!("c{n}"), &ns, &conf).silent();
    }
    call(sb, "portmap", "DEL", "n", &ns, &nftables).silent();
    Snapshot::of(&[&sb.node(), &ns]).same_but(&before, &[&SHARED[..], &["nft "]].concat());
}

/// A plugin that is stopped in its ADD has the port that another one wants.
fn stopped(sb: &Sandbox) {
    let conf = publishing(Backend::Iptables, 8080, 3);
    let (ns, before) = warm(sb, "portmap", &conf);
    let then = "kill -STOP $pid; echo $pid > /run/cni-test/stopped; exit 0";
    until_started(sb, "portmap", "c1", &ns, &conf, &tools("exec sleep 300"), then);
    let pid = fs::read_to_string("/run/cni-test/stopped").unwrap().trim().to_owned();
    let begin = Instant::now();
    let error = call(sb, "portmap", "ADD", "c2", &ns, &publishing(Backend::Iptables, 8080, 4)).error();
    let took = begin.elapsed();
    let mut all: Vec<String> = pids().iter().map(ToString::to_string).collect();
    all.push(pid.clone());
    Command::new("kill").arg("-KILL").args(&all).status().unwrap();
    assert!(took < ONE_WAIT, "{took:?}");
    error.names(&[&format!("PID {pid} ("), "ADD of container c1", "stopped", "kill -CONT"]);
    call(sb, "portmap", "DEL", "c1", &ns, &conf).silent();
    same(sb, &ns, &before);
}

/// ADD is killed while its tool runs. Another container wants the same port, and either gets it or gets an error that names the holder.
fn next_holder(sb: &Sandbox) {
    let conf = publishing(Backend::Iptables, 8080, 3);
    let (ns, before) = warm(sb, "portmap", &conf);
    until_started(sb, "portmap", "c1", &ns, &conf, &tools("sleep 1.5; exec TOOL \"$@\""), KILL);
    let other = publishing(Backend::Iptables, 8080, 4);
    let outcome = call(sb, "portmap", "ADD", "c2", &ns, &other);
    sleep(Duration::from_millis(2500));
    let rules = cni_tests::rules::saved(&sb.node(), "iptables-save", "nat");
    let entries = rules.lines().filter(|line| line.starts_with("-A CNI-HOSTPORT-DNAT")).count();
    assert_eq!(entries, 1, "{outcome}\n{rules}");
    for (id, conf) in [("c1", &conf), ("c2", &other)] {
        call(sb, "portmap", "DEL", id, &ns, conf).silent();
    }
    same(sb, &ns, &before);
}
