//! A node of its own for every case: private network and mount namespaces, entered by a thread and gone with it.
//!
//! A thread that unshares its namespaces takes the children that it starts along, so nothing has to be wrapped in
//! `nsenter`, files are read directly, and the kernel removes everything when the thread and its children end,
//! whether the case returns, panics or is killed.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::dhcp;
use crate::netns::{Netns, sh};
use crate::packets::Outside;
use crate::run::Call;
use crate::verdict::{self, Stop};

/// Where fake plugins of a case are put; searched after the directory under test.
pub const FAKES: &str = "/run/cni-test/fakes";

/// The node of one case.
#[derive(Debug)]
pub struct Sandbox {
    plugins: PathBuf,
    /// Of [`Self::dhcp_link`]: ends with the case.
    dhcp: Arc<OnceLock<dhcp::Processes>>,
}

impl Sandbox {
    /// Runs `case` on a fresh node, with `plugins` as the directory under test.
    ///
    /// # Errors
    /// The case's own [`Stop`], or a failure to make the namespaces (needs root); then nothing of the case has run.
    pub fn run<T: Send>(plugins: &Path, case: impl FnOnce(&Self) -> T + Send) -> Result<T, Stop> {
        let body = || {
            verdict::caught(|| {
                enter();
                case(&Self { plugins: plugins.to_owned(), dhcp: Arc::default() })
            })
        };
        thread::scope(|scope| scope.spawn(body).join().expect("panics are caught inside"))
    }

    /// The same node with another directory of plugins: for what one implementation adds and another one removes.
    #[must_use]
    pub fn with_plugins(&self, dir: &Path) -> Self {
        Self { plugins: dir.to_owned(), dhcp: Arc::clone(&self.dhcp) }
    }

    /// The node's own namespace.
    #[allow(clippy::unused_self, reason = "only inside a sandbox is the thread's namespace the node's")]
    pub fn node(&self) -> Netns {
        Netns::node()
    }

    /// A new namespace for a container, with nothing but `lo` (down) in it.
    #[allow(clippy::unused_self, reason = "only inside a sandbox may namespaces be made")]
    pub fn container(&self, name: &str) -> Netns {
        Netns::create(name)
    }

    /// A container `c1` with an `eth0` that no plugin has made, for plugins that change what they find.
    pub fn container_with_eth0(&self) -> Netns {
        let ns = self.container("c1");
        self.node().sh(&["ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", "c1"]);
        ns
    }

    /// A link `eth0` of a container to a bridge with a DHCP server, if it has no `eth0` yet. The first call starts the server, and
    /// the daemon of the plugin under test.
    pub fn dhcp_link(&self, ns: &Netns) {
        self.dhcp.get_or_init(|| dhcp::network(self));
        dhcp::link(ns);
    }

    /// The world outside the node: a namespace behind a veth that holds the node's default routes, and that knows no
    /// way back to any container's address.
    pub fn outside(&self) -> Outside {
        Outside::create(self.container("outside"))
    }

    /// A call of a plugin under test. Skips the case if the directory has no such plugin.
    pub fn plugin(&self, name: &str, verb: &str) -> Call {
        if !self.has(name) {
            verdict::skip(format!("no {name} in the directory under test"));
        }
        Call::new(self.plugins.join(name), verb).env("CNI_PATH", &format!("{}:{FAKES}", self.plugins.display()))
    }

    /// True if the directory under test has a file `name`.
    pub fn has(&self, name: &str) -> bool {
        self.plugins.join(name).is_file()
    }

    /// The directory under test.
    pub fn dir(&self) -> &Path {
        &self.plugins
    }

    /// Puts an executable shell script where plugins are searched, after the directory under test.
    pub fn fake(&self, name: &str, script: &str) {
        let path = Path::new(FAKES).join(name);
        fs::create_dir_all(FAKES).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The versions that a plugin says it supports. Asked once for every plugin of the directory.
    pub fn versions(&self, plugin: &str) -> Vec<String> {
        static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Vec<String>>>> = LazyLock::new(Mutex::default);
        let path = self.plugins.join(plugin);
        if let Some(known) = KNOWN.lock().unwrap().get(&path) {
            return known.clone();
        }
        let answer = self.plugin(plugin, "VERSION").stdin("").run().document();
        let list = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
        let list: Vec<_> = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        KNOWN.lock().unwrap().insert(path, list.clone());
        list
    }

    /// Skips the case unless `plugin` supports `version`.
    pub fn needs(&self, plugin: &str, version: &str) {
        if !self.versions(plugin).iter().any(|v| v == version) {
            verdict::skip(format!("{plugin} doesn't support {version}"));
        }
    }

    /// Skips the case where this kernel's bridges know no VLANs.
    pub fn needs_vlan_filtering(&self) {
        if !self.filters_vlans() {
            verdict::skip("this kernel has no VLAN filtering on bridges (CONFIG_BRIDGE_VLAN_FILTERING)");
        }
    }

    /// True if this kernel's bridges know VLANs.
    pub fn filters_vlans(&self) -> bool {
        let made = self.node().holds(&["ip", "link", "add", "probe", "type", "bridge", "vlan_filtering", "1"]);
        if made {
            self.node().sh(&["ip", "link", "del", "probe"]);
        }
        made
    }

    /// The newest version that all of `plugins` support, for stories that are the same at any.
    pub fn newest(&self, plugins: &[&str]) -> &'static str {
        let supported = |version: &&str| plugins.iter().all(|p| self.versions(p).iter().any(|v| v == version));
        ["1.1.0", "1.0.0", "0.4.0"].into_iter().find(supported).unwrap_or_else(|| {
            verdict::skip(format!("no version from 0.4.0 on is supported by all of {plugins:?}"));
        })
    }
}

/// Takes the calling thread into namespaces of its own, with empty state directories and `lo` up.
fn enter() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare needs root");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("a sysfs of this netns");
    for dir in ["/run", "/var/lib", "/mnt", "/etc/cni", "/opt/cni"] {
        cover(Path::new(dir));
    }
    sh(&["ip", "link", "set", "lo", "up"]);
}

/// Puts an empty directory in the place of the machine's. Where the machine has none, a case may still make one: not on the
/// machine, but in an overlay of the directory above, whose changes are in the sandbox's own `/mnt`.
fn cover(dir: &Path) {
    if dir.is_dir() {
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).expect("tmpfs");
        return;
    }
    let above = dir.parent().filter(|above| above.is_dir()).expect("a directory to lay something over");
    let [upper, work] = ["upper", "work"].map(|part| Path::new("/mnt").join(part).join(above.file_name().unwrap()));
    [&upper, &work].into_iter().for_each(|part| fs::create_dir_all(part).unwrap());
    let options = format!("lowerdir={},upperdir={},workdir={}", above.display(), upper.display(), work.display());
    mount(Some("overlay"), above, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect("overlay");
    fs::create_dir_all(dir).unwrap();
}
