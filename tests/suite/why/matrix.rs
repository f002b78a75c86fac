//! The reach matrix of portmap: for each cell, what `why` says is what a real packet does.

use cni_tests::Sandbox;
use cni_tests::conf::Backend;
use cni_tests::packets::{Proto, ask, at, silent};

use super::{arrives, place, why};
use crate::case::{Case, improved};
use crate::portmap::reach::{On, PORT, Published, Snat};

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (backend, v6) in Backend::ALL.into_iter().flat_map(|backend| [(backend, false), (backend, true)]) {
        let of = |proto, on, snat, firewall, bridged| Published {
            backend,
            v6,
            proto: Some(proto),
            on,
            snat,
            firewall,
            bridged,
            shared: false,
        };
        for on in [On::Everything, On::Node, On::Loopback] {
            cases.extend([Snat::On, Snat::Off, Snat::All].map(|snat| of(Proto::Tcp, on, snat, false, true)));
        }
        if backend == Backend::Nftables {
            cases.push(Published { shared: true, ..of(Proto::Tcp, On::Everything, Snat::On, false, true) });
        }
        cases.push(of(Proto::Udp, On::Everything, Snat::On, false, true));
        cases.push(of(Proto::Tcp, On::Everything, Snat::On, true, true));
        cases.extend([Snat::On, Snat::Off].map(|snat| of(Proto::Tcp, On::Everything, snat, false, false)));
    }
    cases.into_iter().map(|published| improved(published.name(), move |sb| agrees(sb, published))).collect()
}

/// What is said of every cell is what happens.
fn agrees(sb: &Sandbox, published: Published) {
    let scene = published.scene(sb);
    let proto = published.proto.expect("one with sockets");
    let mut wrong = Vec::new();
    for (from, to, expected) in published.cells(&scene) {
        let answer = why(sb, from, &place(to, PORT), proto);
        let real = if expected.is_some() {
            ask(from, proto, at(to, PORT)).is_ok()
        } else {
            !silent(from, proto, at(to, PORT))
        };
        if arrives(&answer) != real || real != expected.is_some() {
            wrong.push(format!("from {} to {to}: a packet {real}, expected {expected:?}, said {answer:#}", from.name));
        }
        if !arrives(&answer) && answer["cause"].is_null() {
            wrong.push(format!("from {} to {to}: no cause: {answer:#}", from.name));
        }
    }
    assert!(wrong.is_empty(), "{published:?}: {}", wrong.join("\n"));
}
