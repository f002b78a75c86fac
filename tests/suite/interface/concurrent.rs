//! bridge, ptp: several at the same time. Only root can stop an ADD, and of two ADDs of one attachment, which runtimes
//! must not start, the one that fails takes nothing from the other.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use cni_tests::kernel::link;
use cni_tests::parallel::at_once;
use cni_tests::{Attachment, Chain, Netns, Sandbox, conf};
use serde_json::json;

use crate::case::{Case, improved};

const LOCK: &str = "/run/cni-plugins.lock";
const UNPRIVILEGED: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const ROUNDS: usize = 15;

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        improved("locks_of_other_users_do_not_stop_an_add", others),
        improved("remove_empty_bridge_without_a_lock", no_lock),
        improved("remove_empty_bridge_of_no_bridge", no_bridge),
    ];
    for plugin in ["bridge", "ptp"] {
        for (what, same) in [("one_namespace", true), ("two_namespaces", false)] {
            let name = format!("{plugin}::two_adds_at_once_in_{what}_lose_no_address");
            cases.push(improved(name, move |sb| twins(sb, plugin, same)));
        }
    }
    cases
}

fn removing(sb: &Sandbox) -> Chain {
    let mut bridge = conf::bridge();
    bridge["removeEmptyBridge"] = true.into();
    Chain::new("testnet", sb.newest(&["bridge", "host-local"]), &[bridge])
}

/// A process that may open a file may lock it, and any user may open the files of namespaces.
fn others(sb: &Sandbox) {
    let (chain, ns) = (removing(sb), sb.container("c1"));
    let hold = |path: &str| -> Child {
        let words = [&UNPRIVILEGED[..], &["flock", "-x", path, "sleep", "30"]].concat();
        Command::new(words[0]).args(&words[1..]).spawn().expect(words[0])
    };
    let mut holders = ["/proc/self/ns/net", &ns.path()].map(hold);
    std::thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    let mut at = Attachment::new("c1", &ns);
    chain.add(sb, &mut at);
    let mode = fs::metadata(LOCK).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "only root can open it");
    chain.del(sb, &at);
    let took = begin.elapsed();
    for holder in &mut holders {
        assert!(holder.try_wait().unwrap().is_none(), "the lock isn't held any more");
        holder.kill().and_then(|()| holder.wait()).unwrap();
    }
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(link(&sb.node(), "br-test").is_none(), "the bridge is removed");
}

/// ADD continues; DEL leaves the bridge and reports why.
fn no_lock(sb: &Sandbox) {
    let (chain, ns) = (removing(sb), sb.container("c1"));
    let spoils: [fn(); 3] = [
        || symlink("/run/elsewhere", LOCK).unwrap(),
        || fs::create_dir(LOCK).unwrap(),
        || fs::write(LOCK, "").and_then(|()| fs::set_permissions(LOCK, PermissionsExt::from_mode(0o644))).unwrap(),
    ];
    for spoil in spoils {
        spoil();
        let mut at = Attachment::new("c1", &ns);
        chain.add(sb, &mut at);
        let outcome = chain.try_del(sb, &at);
        outcome.silent();
        for named in ["removeEmptyBridge", "br-test", LOCK] {
            assert!(outcome.stderr.contains(named), "{outcome}");
        }
        assert!(link(&sb.node(), "br-test").is_some(), "without the lock the bridge stays");
        assert!(!fs::exists("/run/elsewhere").unwrap());
        sb.node().sh(&["rm", "-rf", LOCK]);
    }
}

/// The name is no bridge's, or can't be: there is nothing to remove, and the addresses are released all the same.
fn no_bridge(sb: &Sandbox) {
    sb.node().sh(&["ip", "link", "add", "dummy-ish", "type", "veth", "peer", "name", "its-peer"]);
    let ns = sb.container("c1");
    let mut bridge = conf::bridge();
    let version = sb.newest(&["bridge", "host-local"]);
    let was = Chain::new("testnet", version, std::slice::from_ref(&bridge));
    for name in ["dummy-ish", "br%d", ""] {
        let mut at = Attachment::new("c1", &ns);
        was.add(sb, &mut at);
        (bridge["bridge"], bridge["removeEmptyBridge"]) = (name.into(), true.into());
        let is = Chain::new("testnet", version, std::slice::from_ref(&bridge));
        is.del(sb, &at);
        assert!(!reserved("testnet", &at.ip(false)), "{name:?}");
        if version >= "1.1.0" {
            is.gc(sb, &[]).silent();
        }
        assert!(link(&sb.node(), "dummy-ish").is_some());
    }
}

fn reserved(network: &str, ip: &str) -> bool {
    fs::exists(format!("/var/lib/cni/networks/{network}/{ip}")).unwrap()
}

fn twins(sb: &Sandbox, plugin: &str, same: bool) {
    let ipam = json!({"type": "host-local", "subnet": "10.20.0.0/24"});
    let conf = json!({"type": plugin, "bridge": "br-test", "ipam": ipam});
    let chain = Chain::new("testnet", sb.newest(&[plugin, "host-local"]), &[conf]);
    let spaces: [Netns; 2] = ["a", "b"].map(|name| sb.container(name));
    let twin = |n: usize| Attachment::new("c1", if same { &spaces[0] } else { &spaces[n] });
    for round in 0..ROUNDS {
        let added = at_once(2, |n| {
            let mut at = twin(n);
            chain.try_add(sb, &mut at).is_ok().then_some(at)
        });
        let winners: Vec<&Attachment> = added.iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}: one of them wins");
        assert!(reserved("testnet", &winners[0].ip(false)), "round {round}: the container's address was released");
        chain.check(sb, winners[0]).silent();
        (0..2).for_each(|n| chain.del(sb, &twin(n)));
        let left = fs::read_dir("/var/lib/cni/networks/testnet").unwrap().flatten();
        let left: Vec<_> =
            left.map(|file| file.file_name()).filter(|name| name.to_string_lossy().starts_with("10.")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
