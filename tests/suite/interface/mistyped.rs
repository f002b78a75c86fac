//! Keys of the wrong type in DEL and GC: ADD refuses them, the runtime calls DEL after that, and a plugin that fails then
//! keeps the others of the chain from being called.

use cni_tests::conf::{self, Backend};
use cni_tests::{Attachment, Chain, Sandbox, Snapshot};
use serde_json::{Value, json};

use crate::case::{Case, improved};

/// What changes with every allocation and isn't a reservation.
const CURSOR: [&str; 1] = ["last_reserved_ip"];

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for backend in Backend::ALL {
        for main in ["bridge", "ptp"] {
            let name = |verb: &str| format!("{main}::{}::{verb}", backend.name());
            cases.push(improved(name("del"), move |sb| del(sb, backend, main)));
            cases.push(improved(name("gc"), move |sb| gc(sb, backend, main)));
        }
    }
    cases
}

/// For each plugin of the chain the keys, each with a value that it can't have.
fn mistyped(main: &str) -> Vec<(usize, Value)> {
    let mut keys =
        vec![json!({"ipMasq": "yes"}), json!({"ipMasqBackend": 5}), json!({"mtu": "1500"}), json!({"dns": []})];
    if main == "bridge" {
        keys.extend([json!({"vlanTrunk": 7}), json!({"isGateway": "true"}), json!({"macspoofchk": 1})]);
    }
    let firewall = [json!({"backend": 5}), json!({"ingressPolicy": ["open"]}), json!({"firewalldZone": true})];
    let portmap = [
        json!({"snat": "false"}),
        json!({"conditionsV4": "-s 10.0.0.0/8"}),
        json!({"runtimeConfig": {"portMappings": [{"hostPort": "8080"}]}}),
    ];
    let of = |at: usize| move |keys: Value| (at, keys);
    keys.into_iter().map(of(0)).chain(firewall.map(of(1))).chain(portmap.map(of(2))).collect()
}

fn chain(sb: &Sandbox, backend: Backend, main: &str) -> Chain {
    let mut first = conf::masquerading(backend);
    first["type"] = main.into();
    let mut portmap = conf::portmap(backend);
    // Without the capability, so that the mappings are the configuration's, and can be wrong.
    portmap["capabilities"] = json!({});
    portmap["runtimeConfig"] = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let firewall = json!({"type": "firewall", "backend": backend.name()});
    Chain::new("net", sb.newest(&[main, "firewall", "portmap", "host-local"]), &[first, firewall, portmap])
}

fn with(chain: &Chain, (at, keys): &(usize, Value)) -> Chain {
    let mut plugins = chain.plugins().to_vec();
    keys.as_object().unwrap().iter().for_each(|(key, value)| plugins[*at][key] = value.clone());
    Chain::new("net", chain.version(), &plugins)
}

/// A node on which tables and base chains exist.
fn used(sb: &Sandbox, chain: &Chain) -> Snapshot {
    let mut first = Attachment::new("first", &sb.container("first"));
    chain.add(sb, &mut first);
    chain.del(sb, &first);
    Snapshot::of(&[&sb.node()])
}

/// Attaches a container as is right, calls `then` with each of the chains that are wrong, what is wrong in it and the key; after
/// that everything is as before.
fn each(sb: &Sandbox, backend: Backend, main: &str, then: impl Fn(&Chain, &(usize, Value), &str, &Attachment)) {
    let right = chain(sb, backend, main);
    let before = used(sb, &right);
    for (n, wrong) in mistyped(main).iter().enumerate() {
        let id = format!("c{n}");
        let mut at = Attachment::new(&id, &sb.container(&id));
        right.add(sb, &mut at);
        let key = wrong.1.as_object().and_then(|keys| keys.keys().next()).unwrap();
        then(&with(&right, wrong), wrong, key, &at);
        Snapshot::of(&[&sb.node()]).same_but(&before, &CURSOR);
    }
}

fn del(sb: &Sandbox, backend: Backend, main: &str) {
    each(sb, backend, main, |wrong_chain, wrong, key, at| {
        let outcome = wrong_chain.try_del(sb, at);
        assert!(outcome.ok(), "{wrong:?}: {outcome}");
        // What is passed over there is refused where something is to be made, and the runtime's DEL cleans up.
        let mut again = at.clone();
        wrong_chain.try_add(sb, &mut again).unwrap_err().error().names(&[key]);
        assert!(wrong_chain.try_del(sb, &again).ok(), "{wrong:?}");
    });
}

fn gc(sb: &Sandbox, backend: Backend, main: &str) {
    each(sb, backend, main, |wrong_chain, wrong, key, _| {
        // A runtime goes on after an error; this chain doesn't.
        for plugin in wrong_chain.plugins() {
            let alone = Chain::new("net", wrong_chain.version(), std::slice::from_ref(plugin));
            let outcome = alone.gc(sb, &[]);
            if plugin[key] == wrong.1[key] {
                outcome.error().names(&[key]);
            } else {
                assert!(outcome.ok(), "{wrong:?}: {outcome}");
            }
        }
    });
}
