//! Plans in the language of `iptables-save`: equal to the golden files, and to what the tools list after an ADD, and after a
//! restore of the golden file.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cni_netfilter::iptables::Iptables;
use cni_netfilter::{
    ChainName, Forwarding, Ingress, IngressPolicy, MarkChain, Masquerade, PortForward, PortForwards, Snat,
};
use cni_plugin::Protocol;

use crate::inside::*;

fn masquerades() -> [Masquerade; 6] {
    let (first, second, third) = (owner("c1", "eth0"), owner("c2", "eth0"), owner("c3", "eth0"));
    let to = |to: &str, of: Masquerade| Masquerade { to: Some(to.parse().unwrap()), ..of };
    [
        to("192.0.2.7", masquerade(&third, "10.1.0.4/20")),
        to("2001:db8::7", masquerade(&third, "fd00::4/64")),
        masquerade(&first, "10.1.0.2/20"),
        masquerade(&first, "10.2.0.2/24"),
        masquerade(&first, "fd00::2/64"),
        masquerade(&second, "10.1.0.3/20"),
    ]
}

fn on(host_ip: &str, port: PortForward) -> PortForward {
    PortForward { host_ip: Some(host_ip.parse().unwrap()), ..port }
}

/// Single ports of each protocol and family, on all addresses and on one; with the link, and with excluded addresses.
fn single_ports() -> [PortForwards; 3] {
    let four = [
        port(Protocol::Tcp, 8080, "10.1.0.2:80"),
        on("192.0.2.1", port(Protocol::Udp, 53, "10.1.0.2:5353")),
        on("0.0.0.0", port(Protocol::Sctp, 7, "10.1.0.2:70")),
    ];
    let six = [port(Protocol::Tcp, 8080, "[fd00::2]:80"), on("2001:db8::1", port(Protocol::Tcp, 81, "[fd00::2]:8081"))];
    let me = owner("c1", "eth0");
    let mut excluding = ports(
        &owner("c2", "eth0"),
        "10.1.0.3/24",
        vec![port(Protocol::Tcp, 9090, "10.1.0.3:80"), on("192.0.2.53", port(Protocol::Tcp, 9091, "10.1.0.3:81"))],
    );
    excluding.exclude = ["10.96.0.0/12", "192.0.2.53/32"].map(|net| net.parse().unwrap()).to_vec();
    excluding.link = Some(7);
    [ports(&me, "10.1.0.2/24", four.to_vec()), ports(&me, "fd00::2/64", six.to_vec()), excluding]
}

/// More ports than a multiport match takes; a range to the same numbers and one to others.
fn port_ranges() -> [PortForwards; 3] {
    let range = |first: u16, count: u16, ip: &str, to: u16| {
        (0..count).map(|n| port(Protocol::Tcp, first + n, &format!("{ip}:{}", to + n))).collect::<Vec<_>>()
    };
    let ranges = [range(8000, 100, "10.1.0.2", 8000), range(9000, 100, "10.1.0.2", 1000), range(80, 1, "10.1.0.2", 80)];
    [
        ports(&owner("c1", "eth0"), "10.1.0.2/24", ranges.concat()),
        ports(&owner("c1", "eth0"), "fd00::2/64", range(9000, 100, "[fd00::2]", 1000)),
        ports(&owner("c2", "eth0"), "10.1.0.3/24", range(7000, 17, "10.1.0.3", 70)),
    ]
}

fn one_port(id: &str, address: &str, number: u16) -> PortForwards {
    let to = format!("{}:80", address.trim_end_matches("/24"));
    ports(&owner(id, "eth0"), address, vec![port(Protocol::Tcp, number, &to)])
}

/// `snat: false`, `masqAll`, and a chain of another program that marks, which isn't created.
fn port_snat() -> [PortForwards; 3] {
    let off = PortForwards { snat: Snat::Off, ..one_port("c1", "10.1.0.2/24", 8080) };
    let all = PortForwards { snat: Snat::All, ..one_port("c2", "10.1.0.3/24", 8081) };
    let mark = MarkChain::External("KUBE-MARK-MASQ".to_owned());
    [off, all, PortForwards { mark, ..one_port("c3", "10.1.0.4/24", 8082) }]
}

/// Matches of the configuration, which stand as they were given: the tools list them in their own order.
fn port_conditions() -> [PortForwards; 1] {
    let conditions = ["!", "-s", "192.0.2.0/24", "-m", "conntrack", "--ctstate", "NEW"].map(str::to_owned).to_vec();
    [PortForwards { conditions, ..one_port("c1", "10.1.0.2/24", 8080) }]
}

fn forwarding(policy: Option<IngressPolicy>) -> Forwarding {
    Forwarding {
        owner: owner("c1", "eth0"),
        addresses: vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        admin_chain: ChainName::ADMIN.parse().unwrap(),
        ingress: policy.map(|policy| Ingress { bridge: "cni0".parse().unwrap(), policy }),
        published_only: None,
    }
}

/// The golden file of [`port_conditions`].
const CONDITIONS: &str = "port_conditions.iptables";

/// A plan: its golden file, its text, and how it is carried out.
type Plan = (&'static str, String, Box<dyn Fn(&Iptables)>);

fn forwarding_plan(name: &'static str, policy: Option<IngressPolicy>, published_only: bool) -> Plan {
    let link = published_only.then(|| "cni0".parse().unwrap());
    let intent = Forwarding { published_only: link, ..forwarding(policy) };
    (name, Iptables::print_forwarding(&intent), Box::new(move |tools| tools.add_forwarding(&intent).unwrap()))
}

fn ports_plan<const N: usize>(name: &'static str, intents: [PortForwards; N]) -> Plan {
    (name, Iptables::print_ports(&intents), Box::new(move |tools| drop(tools.add_ports(&intents).unwrap())))
}

fn plans() -> Vec<Plan> {
    vec![
        (
            "masquerade.iptables",
            Iptables::print_masquerade(&masquerades()),
            Box::new(|tools| tools.add_masquerade(&masquerades()).unwrap()),
        ),
        ports_plan("ports.iptables", single_ports()),
        ports_plan("port_ranges.iptables", port_ranges()),
        ports_plan("port_snat.iptables", port_snat()),
        ports_plan(CONDITIONS, port_conditions()),
        (
            "localnet_guard.iptables",
            Iptables::print_localnet_guard(),
            Box::new(|tools| tools.add_localnet_guard().unwrap()),
        ),
        forwarding_plan("open.iptables", None, false),
        forwarding_plan("same_bridge.iptables", Some(IngressPolicy::SameBridge), false),
        forwarding_plan("isolated.iptables", Some(IngressPolicy::Isolated), false),
        forwarding_plan("published_only.iptables", Some(IngressPolicy::Isolated), true),
    ]
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with the golden file. With `UPDATE_GOLDEN=1` the file is written instead, to be read before it is committed.
#[test]
fn plans_are_the_golden_files() {
    for (name, printed, _) in plans() {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(golden(name), &printed).unwrap();
        }
        assert_eq!(printed, fs::read_to_string(golden(name)).unwrap(), "{name}");
    }
}

/// The rules of all tables, those of a chain in their order, and the names of our chains.
fn listed() -> BTreeSet<String> {
    let families = ["iptables", "ip6tables"].into_iter();
    families.flat_map(|family| numbered(family, &run(&format!("{family}-save"), &[]))).collect()
}

/// The lines of a listing, each with its family, its table and its place among the rules of its chain.
fn numbered(family: &str, listing: &str) -> BTreeSet<String> {
    let (mut table, mut counts) = (String::new(), std::collections::BTreeMap::new());
    let mut lines = BTreeSet::new();
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let count = counts.entry(rule.split(' ').next().map(str::to_owned)).or_insert(0);
            *count += 1;
            lines.insert(format!("{family} {table} rule {count}: {line}"));
        } else if line.starts_with(":CNI-") {
            lines.insert(format!("{family} {table} {}", line.split(' ').next().unwrap_or_default()));
        }
    }
    lines
}

/// The golden file's parts by the name of their family's tool.
fn parts(name: &str) -> Vec<(&'static str, String)> {
    let text = fs::read_to_string(golden(name)).unwrap();
    let of = |family: &'static str| {
        let head = format!("# {family}-save ");
        let part = text.split("# ").find_map(|part| format!("# {part}").starts_with(&head).then(|| part.to_owned()));
        part.map(|part| (family, format!("# {part}")))
    };
    ["iptables", "ip6tables"].into_iter().filter_map(of).collect()
}

fn restore(family: &str, text: &str) {
    let mut tool = Command::new(format!("{family}-restore")).arg("--wait=5").stdin(Stdio::piped()).spawn().unwrap();
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(tool.wait().unwrap().success(), "{family}-restore of\n{text}");
}

/// Empties all tables; there is the chain of another program that a plan jumps to.
fn flush() {
    restore("iptables", &format!("*raw\nCOMMIT\n*filter\nCOMMIT\n*nat\n{KUBE}COMMIT\n"));
    restore("ip6tables", "*raw\nCOMMIT\n*filter\nCOMMIT\n*nat\nCOMMIT\n");
}

const KUBE: &str = ":KUBE-MARK-MASQ - [0:0]\n";

#[test]
fn the_tools_list_the_golden_files_after_an_add_and_after_a_restore() {
    in_either_variant("print::the_tools_list_the_golden_files_after_an_add_and_after_a_restore", || {
        let tools = Iptables::find().unwrap();
        for (name, _, add) in plans() {
            let golden: BTreeSet<String> =
                parts(name).iter().flat_map(|(family, text)| numbered(family, text)).collect();
            flush();
            add(&tools);
            let added = listed();
            assert!(added.len() > 3 && (added == golden || name == CONDITIONS), "{name}: {added:#?}\n{golden:#?}");
            add(&tools);
            assert_eq!(listed(), added, "{name} after a second ADD");
            flush();
            for (family, text) in parts(name) {
                restore(family, &text.replace("*nat\n", &format!("*nat\n{KUBE}")));
            }
            assert_eq!(listed(), added, "{name} restored");
        }
    });
}
