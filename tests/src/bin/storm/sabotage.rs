//! Plugins that are wrong on purpose: what a storm must find.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::node::Scene;
use crate::report::Class;

/// What is wrong: the scene that it is in, the finding that it has to lead to, the plugin that is replaced, and the script in its place, in which `$0.real`
/// is the plugin.
pub(crate) const SABOTAGES: [(Scene, Class, &str, &str); 11] = [
    // Forgets to give addresses back.
    (
        Scene::Nftables,
        Class::Leak,
        "host-local",
        r#"case $CNI_COMMAND in DEL | GC) cat >/dev/null ;; *) exec "$0.real" ;; esac"#,
    ),
    // Goes on after it was killed, and after the DEL.
    (
        Scene::Nftables,
        Class::LateCommit,
        "portmap",
        r#"if [ $CNI_COMMAND = ADD ]; then
            (trap '' TERM; sleep 4; nft add table ip "late-$CNI_CONTAINERID") </dev/null >/dev/null 2>&1 &
        fi
        exec "$0.real""#,
    ),
    // Gives every container the same address.
    (
        Scene::Nftables,
        Class::Duplicate,
        "host-local",
        r#"if [ $CNI_COMMAND = ADD ]; then "$0.real" | sed 's/10\.7\([01]\)\.0\.[0-9]*\/24/10.7\1.0.99\/24/'; else exec "$0.real"; fi"#,
    ),
    // Takes an address off again.
    (
        Scene::Nftables,
        Class::Lost,
        "firewall",
        r#"[ $CNI_COMMAND != ADD ] || nsenter --net="$CNI_NETNS" ip -4 addr flush dev eth0; exec "$0.real""#,
    ),
    (Scene::Nftables, Class::Abort, "tuning", r#"[ $CNI_COMMAND != CHECK ] || kill -ABRT $$; exec "$0.real""#),
    (
        Scene::Nftables,
        Class::NotJson,
        "tuning",
        r#"case $CNI_COMMAND$CNI_CONTAINERID in ADDstorm*) echo 'warning: all is well' ;; esac; exec "$0.real""#,
    ),
    (
        Scene::Nftables,
        Class::Timeout,
        "tuning",
        r#"case $CNI_COMMAND$CNI_CONTAINERID in CHECKstorm*) sleep 60 ;; esac; exec "$0.real""#,
    ),
    (
        Scene::Nftables,
        Class::Refused,
        "firewall",
        r#"[ $CNI_COMMAND != DEL ] || { echo '{"code": 999, "msg": "no"}'; exit 1; }; exec "$0.real""#,
    ),
    (
        Scene::Nftables,
        Class::Alarm,
        "portmap",
        r#"[ $CNI_COMMAND != STATUS ] || { echo '{"code": 50, "msg": "no"}'; exit 1; }; exec "$0.real""#,
    ),
    // Forgets the container's limits, and its names.
    (
        Scene::Kinds,
        Class::Leak,
        "bandwidth",
        r#"case $CNI_COMMAND in DEL | GC) cat >/dev/null ;; *) exec "$0.real" ;; esac"#,
    ),
    (
        Scene::Kinds,
        Class::Leak,
        "dnsname",
        r#"case $CNI_COMMAND in DEL | GC) cat >/dev/null ;; *) exec "$0.real" ;; esac"#,
    ),
];

/// A directory with the plugins of `plugins`, one of them behind a script.
pub(crate) fn directory(plugins: &Path, number: usize) -> PathBuf {
    let (.., name, script) = SABOTAGES[number];
    let dir = std::env::temp_dir().join(format!("storm-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).expect("a temporary directory");
    for entry in fs::read_dir(plugins).expect("the plugins").flatten() {
        let file = entry.file_name();
        let link = if file == name { dir.join(format!("{name}.real")) } else { dir.join(&file) };
        symlink(entry.path(), link).expect("a link");
    }
    fs::write(dir.join(name), format!("#!/bin/sh\n{script}\n")).expect("a script");
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).expect("its mode");
    dir
}
