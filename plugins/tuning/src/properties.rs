//! Properties that must hold for any input on stdin, in a backup and in the node's allow list. The fuzz targets call them,
//! and tests with every seed.
#![allow(clippy::unwrap_used, reason = "properties are assertions")]

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use std::fs;
use std::path::PathBuf;

use cni_plugin::{CniArgs, Owner, Plugin};
use serde_json::json;

use crate::allow_list;
use crate::backup::Store;
use crate::config::Config;
use crate::plan::Plan;
use crate::settings::{Settings, Sysctl};

target!("tuning", holds);

/// The first line says what the rest is: a backup, an allow list, or by its verb the configuration.
fn holds(data: &[u8]) {
    if let Some(backup) = data.strip_prefix(b"backup\n") {
        backup_holds(backup);
    } else if let Some(list) = data.strip_prefix(b"allow\n") {
        allow_list_holds(&String::from_utf8_lossy(list));
    } else {
        stdin::holds(&PROBE, data);
    }
}

/// Whatever is on the list: a sysctl is allowed or refused by name.
fn allow_list_holds(list: &str) {
    let sysctl = Sysctl { key: "net.core.somaxconn".to_owned(), value: "1".to_owned() };
    let settings = Settings {
        sysctls: [("net/core/somaxconn".to_owned(), sysctl)].into(),
        mac: None,
        mtu: None,
        promisc: false,
        all_multicast: None,
        tx_queue: None,
    };
    if let Err(error) = allow_list::matches(&settings, list) {
        assert!(error.msg.contains("net.core.somaxconn") || error.msg.contains("is not a regular expression"));
    }
}

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        let settings = Settings::resolve(request, &attachment.args)?;
        let plan = Plan::new(&settings, &attachment.owner.ifname)?;
        assert!(plan.sysctls.keys().all(|key| key.starts_with("net/") && !key.contains("..")), "{:?}", plan.sysctls);
        let prev = request.require_prev_result()?;
        Ok(plan.result(prev))
    },
    check: |request, attachment| {
        let settings = Settings::resolve(request, &attachment.args)?;
        Plan::new(&settings, &attachment.owner.ifname).map(drop)?;
        Ok(())
    },
    status: |request| Ok(Settings::resolve(request, &CniArgs::default()).map(drop)?),
    ..stdin::probe("tuning")
};

/// Whatever is in the file of an attachment: it is read or isn't, what is read can be written and read again, and GC removes it
/// if it says that it is the network's, and only then.
fn backup_holds(content: &[u8]) {
    let dir = scratch();
    fs::create_dir_all(&dir).unwrap();
    let owner =
        Owner { network: "net".parse().unwrap(), container_id: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() };
    let config: Config = serde_json::from_value(json!({"dataDir": dir})).unwrap();
    let store = Store::of(&config).unwrap();
    let file = dir.join("c1_eth0.json");
    fs::write(&file, content).unwrap();
    if let Ok(Some(backup)) = store.read(&owner) {
        let _ = backup.link();
        store.write(&owner, &backup).unwrap();
        assert_eq!(store.read(&owner).unwrap(), Some(backup.clone()), "what is written is read");
        let names_it = backup.network.as_deref() == Some("net");
        store.retain(&owner.network, std::slice::from_ref(&owner)).unwrap();
        assert!(file.exists(), "the owner is valid");
        store.retain(&owner.network, &[]).unwrap();
        assert_eq!(file.exists(), !names_it);
    } else {
        let _ = store.retain(&owner.network, &[]);
    }
    store.remove(&owner).unwrap();
    assert!(!file.exists());
}

/// A directory of this process, on no disk if possible.
fn scratch() -> PathBuf {
    let base = PathBuf::from("/dev/shm");
    let base = if base.is_dir() { base } else { std::env::temp_dir() };
    base.join(format!("tuning-properties-{}", std::process::id()))
}
