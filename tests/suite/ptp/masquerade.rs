//! ptp: masquerading and published ports, over both backends.

use std::fs;

use cni_tests::conf::{self, Backend};
use cni_tests::packets::{Outside, Proto, Server, ask, at, silent};
use cni_tests::{Attachment, Sandbox, Snapshot, rules};

use super::{attached, call, chain, masquerading};
use crate::case::{Basis, Case, common, improved};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![improved("status_without_firewall_tool", status_no_tool)];
    for backend in Backend::ALL {
        let basis = if backend == Backend::Nftables { Basis::Newer } else { Basis::Common };
        let name = |what: &str| format!("{}::{what}", backend.name());
        cases.extend([
            common(name("outside_sees_the_node"), move |sb| masquerade(sb, backend)).based_on(basis),
            common(name("published_port"), move |sb| published(sb, backend)).based_on(basis),
            improved(name("check_names_the_masquerade"), move |sb| check_masquerade(sb, backend)),
            improved(name("published_ports_leave_nothing"), move |sb| ports_left(sb, backend)),
        ]);
    }
    cases
}

fn masquerade(sb: &Sandbox, backend: Backend) {
    let outside = sb.outside();
    let (ns, _at) = attached(sb, &masquerading(backend), "c1");
    let _server = Server::start(&outside.ns, "outside", 7000);
    for (to, node) in [(Outside::V4, Outside::NODE_V4), (Outside::V6, Outside::NODE_V6)] {
        for proto in [Proto::Tcp, Proto::Udp] {
            let answer = ask(&ns, proto, at(to, 7000)).unwrap_or_else(|e| panic!("{proto:?} {to}: {e}"));
            assert_eq!(answer, format!("outside {node}"));
        }
    }
}

fn published(sb: &Sandbox, backend: Backend) {
    let outside = sb.outside();
    let chain = chain(sb, &[masquerading(backend), conf::portmap(backend)]);
    let ns = sb.container("c1");
    let mut to = Attachment::new("c1", &ns).publish(&[(8080, 80, "tcp")]);
    chain.add(sb, &mut to);
    let server = Server::start(&ns, "c1", 80);
    for (node, seen) in [(Outside::NODE_V4, Outside::V4), (Outside::NODE_V6, Outside::V6)] {
        assert_eq!(ask(&outside.ns, Proto::Tcp, at(node, 8080)).unwrap(), format!("c1 {seen}"));
    }
    assert!(ask(&sb.node(), Proto::Tcp, at("127.0.0.1", 8080)).unwrap().starts_with("c1 "));
    assert!(ask(&ns, Proto::Tcp, at(Outside::NODE_V4, 8080)).unwrap().starts_with("c1 "), "hairpin");
    drop(server);
    chain.del(sb, &to);
    assert!(silent(&outside.ns, Proto::Tcp, at(Outside::NODE_V4, 8080)));
}

/// Every container has a link of its own here, and what guards it has to go with it.
fn ports_left(sb: &Sandbox, backend: Backend) {
    let chain = chain(sb, &[masquerading(backend), conf::portmap(backend)]);
    let attach = |id: &str, port: u16| {
        let ns = sb.container(id);
        let mut at = Attachment::new(id, &ns).publish(&[(port, 80, "tcp")]);
        chain.add(sb, &mut at);
        (ns, at)
    };
    chain.del(sb, &attach("first", 1111).1);
    let (_stays, stays) = attach("stays", 2222);
    let before = Snapshot::of(&[&sb.node()]);
    chain.del(sb, &attach("del", 3333).1);
    let (ns, at) = attach("vanishes", 4444);
    ns.delete();
    chain.del(sb, &at);
    Snapshot::of(&[&sb.node()]).same_but(&before, &["last_reserved_ip", ".host-local"]);
    chain.check(sb, &stays).silent();
}

fn check_masquerade(sb: &Sandbox, backend: Backend) {
    let conf = masquerading(backend);
    let (_ns, at) = attached(sb, &conf, "c1");
    call(sb, "CHECK", &conf, &at).silent();
    let gone = rules::delete_one(&sb.node(), &at.ip(false));
    let error = call(sb, "CHECK", &conf, &at).error();
    assert!(error.text().contains(&at.ip(false)), "after deleting {gone}: {error:?}");
}

fn status_no_tool(sb: &Sandbox) {
    sb.needs("ptp", "1.1.0");
    fs::create_dir_all("/run/cni-test/empty").unwrap();
    let chain = chain(sb, &[masquerading(Backend::Iptables)]).with_path("/run/cni-test/empty");
    let error = chain.status(sb).error();
    assert_eq!(error.code, 50, "{error:?}");
    error.names(&["iptables"]);
}
