//! firewall: STATUS says no exactly where an ADD would fail, with the same reason; and messages name the way out.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use cni_tests::conf::{self, Backend};
use cni_tests::sandbox::FAKES;
use cni_tests::{Outcome, Sandbox, netns, verdict};
use serde_json::Value;

use super::{add, call};
use crate::case::{Case, improved};

/// Obstacles, as commands of nft or a shell, and the words that both verbs name.
const IN_THE_WAY: [(&str, &str, &[&str]); 5] = [
    (
        "foreign_set",
        "nft add table inet cni_firewall; nft add set inet cni_firewall accept4 '{ type ipv6_addr; }'",
        &["set inet cni_firewall accept4", "another"],
    ),
    (
        "foreign_map",
        "nft add table inet cni_firewall; nft add map inet cni_firewall closed '{ type ifname : verdict; }'",
        &["set inet cni_firewall closed", "another"],
    ),
    (
        "set_with_a_size",
        "nft add table inet cni_firewall; nft add set inet cni_firewall accept4 '{ type ipv4_addr; size 1; }'",
        &["set inet cni_firewall accept4", "size"],
    ),
    (
        "foreign_chain",
        "nft add table inet cni_firewall; nft add chain inet cni_firewall isolate",
        &["chain inet cni_firewall isolate", "hook forward"],
    ),
    (
        "chain_at_another_hook",
        "nft add table inet cni_firewall; nft add chain inet cni_firewall accepting \
         '{ type filter hook input priority 0; }'",
        &["chain inet cni_firewall accepting", "hook input"],
    ),
];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("admin_chain_that_cannot_be", admin_chain),
        improved("table_with_an_owner", owned),
        improved("firewalld_that_does_not_run", no_firewalld),
        improved("no_tool", no_tool),
        improved("no_capability", no_capability),
        improved("no_descriptor", no_descriptor),
        improved("no_buffer", no_buffer),
        improved("tables_of_other_programs_do_not_matter", harmless),
    ];
    cases.extend(IN_THE_WAY.map(|(what, deed, named)| {
        improved(what, move |sb| {
            sb.needs("firewall", "1.1.0");
            netns::sh(&["sh", "-c", deed]);
            both_refuse(sb, &conf::firewall_alone(sb, Backend::Nftables, "same-bridge", 2), named);
            netns::sh(&["nft", "delete", "table", "inet", "cni_firewall"]);
            both_pass(sb, &conf::firewall_alone(sb, Backend::Nftables, "same-bridge", 2));
        })
    }));
    cases
}

fn status(sb: &Sandbox, conf: &Value) -> Outcome {
    sb.plugin("firewall", "STATUS").conf(conf).run()
}

#[track_caller]
fn both_refuse(sb: &Sandbox, conf: &Value, named: &[&str]) {
    status(sb, conf).error().names(named);
    call(sb, "ADD", "c1", conf).error().names(named);
    call(sb, "DEL", "c1", conf).silent();
}

#[track_caller]
fn both_pass(sb: &Sandbox, conf: &Value) {
    let asked = status(sb, conf);
    asked.silent();
    assert_eq!(asked.stderr, "");
    call(sb, "ADD", "c1", conf).result();
    call(sb, "CHECK", "c1", conf).silent();
    call(sb, "DEL", "c1", conf).silent();
}

/// iptables has targets of these names, or the chain leads to itself.
fn admin_chain(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let mut conf = conf::firewall_alone(sb, Backend::Iptables, "open", 2);
    for name in ["DROP", "LOG", "FORWARD", "CNI-FORWARD", "CNI-FORWARD-PUBLISHED"] {
        conf["iptablesAdminChainName"] = name.into();
        both_refuse(sb, &conf, &["iptablesAdminChainName", name]);
    }
    conf["iptablesAdminChainName"] = "MINE".into();
    both_pass(sb, &conf);
}

/// Ends a process with the case.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nft stays in its prompt, and its table is its own as long.
fn owned(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let nft = Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut holder = Holder(nft.unwrap());
    let mut stdin = holder.0.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"add table inet cni_firewall { flags owner; }\n").unwrap();
    let has_it = || sb.node().sh(&["nft", "list", "tables"]).contains("cni_firewall");
    (0..100).take_while(|_| !has_it()).for_each(|_| thread::sleep(Duration::from_millis(20)));
    if !has_it() {
        verdict::skip("this nft makes no table with an owner");
    }
    let conf = conf::firewall_alone(sb, Backend::Nftables, "same-bridge", 2);
    both_refuse(sb, &conf, &["cni_firewall", "flag owner", &holder.0.id().to_string()]);
    drop((stdin, holder));
    (0..100).take_while(|_| has_it()).for_each(|_| thread::sleep(Duration::from_millis(20)));
    both_pass(sb, &conf);
}

fn no_firewalld(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let mut conf = conf::firewall_alone(sb, Backend::Nftables, "open", 2);
    conf["backend"] = "firewalld".into();
    both_refuse(sb, &conf, &["firewalld", "D-Bus"]);
    conf["backend"] = "".into();
    both_pass(sb, &conf);
}

fn no_tool(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    std::fs::create_dir_all("/run/cni-test/empty").unwrap();
    let conf = conf::firewall_alone(sb, Backend::Iptables, "open", 2);
    for verb in ["STATUS", "ADD"] {
        let of = sb.plugin("firewall", verb).env("PATH", "/run/cni-test/empty");
        let of = if verb == "ADD" { of.names("c1", "eth0").env("CNI_NETNS", "/run/netns/none") } else { of };
        of.conf(&conf).run().error().names(&["iptables", "PATH"]);
    }
}

/// Runs every verb behind `wrapper`, a command that ends with the plugin's path.
fn behind(sb: &Sandbox, wrapper: &str, conf: &Value, verbs: &[&str], named: &[&str]) {
    sb.fake("wrapped", &format!("{wrapper} {}", sb.dir().join("firewall").display()));
    for verb in verbs {
        let call = sb.plugin("firewall", verb);
        let call = match *verb {
            "STATUS" | "GC" => call,
            _ => call.names("c1", "eth0").env("CNI_NETNS", "/run/netns/none"),
        };
        let outcome = call.conf(conf).by(Path::new(FAKES).join("wrapped")).run();
        assert!(!outcome.ok(), "{verb}: {outcome}");
        outcome.error().names(named);
    }
}

fn conf_for_all(sb: &Sandbox) -> Value {
    let mut conf = add(sb, Backend::Nftables, "open", "c1", 2);
    conf["cni.dev/valid-attachments"] = serde_json::json!([]);
    conf
}

fn no_capability(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    let conf = conf_for_all(sb);
    let wrapper = "exec setpriv --bounding-set=-net_admin";
    behind(sb, wrapper, &conf, &["ADD", "CHECK", "DEL", "GC", "STATUS"], &["CAP_NET_ADMIN"]);
    call(sb, "CHECK", "c1", &conf).silent();
    let conf = add(sb, Backend::Iptables, "open", "c1", 2);
    behind(sb, wrapper, &conf, &["ADD", "CHECK", "DEL"], &["CAP_NET_ADMIN"]);
}

fn no_descriptor(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    behind(sb, "ulimit -n 3; exec", &conf_for_all(sb), &["ADD", "STATUS"], &["ulimit -n"]);
}

fn no_buffer(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    if !sb.node().holds(&["strace", "-V"]) {
        verdict::skip("no strace here");
    }
    let wrapper = "exec strace -qq -o /dev/null -e trace=recvfrom -e inject=recvfrom:error=ENOBUFS:when=1";
    behind(sb, wrapper, &conf_for_all(sb), &["ADD", "CHECK", "DEL", "GC", "STATUS"], &["net.core.rmem_default"]);
}

/// Tables with our names and other things in them, an owner of another table, sets of other programs.
fn harmless(sb: &Sandbox) {
    sb.needs("firewall", "1.1.0");
    for deed in [
        "add table inet cni_firewall; add chain inet cni_firewall other; add set inet cni_firewall other { type ifname; }",
        "add table ip cni_firewall { flags dormant; }",
        "add table inet other; add set inet other accept4 { type ipv6_addr; size 1; }",
    ] {
        netns::sh(&["nft", deed]);
        both_pass(sb, &conf::firewall_alone(sb, Backend::Nftables, "same-bridge", 2));
    }
}
