//! Where networks, plugins and results are on this node: as cnitool has it, by environment variables.

use std::env;
use std::path::{Path, PathBuf};

use cni_runtime::{Cache, NetworkList, Networks, Runtime};

use crate::failure::Failure;

/// Where configurations are if `NETCONFPATH` says nothing.
const NETWORK_DIR: &str = "/etc/cni/net.d";
/// Where plugins are looked for if `CNI_PATH` says nothing, after the directory of this executable: upstream's and Debian's place.
const PLUGIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// A plugin that any directory of plugins has.
const ANY_PLUGIN: &str = "loopback";

/// The places of this node.
#[derive(Debug)]
pub struct Node {
    /// The configuration directories, the first of which new networks are written to.
    pub network_dirs: Vec<PathBuf>,
    /// Runs the plugins.
    pub runtime: Runtime,
}

impl Node {
    /// As the environment says: `NETCONFPATH`, `CNI_PATH`, `CNI_CACHE_DIR`.
    pub fn from_environment() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let split = |value| env::split_paths(&value).collect::<Vec<PathBuf>>();
        let network_dirs = set("NETCONFPATH").map_or_else(|| vec![NETWORK_DIR.into()], split);
        let plugin_dirs = set("CNI_PATH").map_or_else(default_plugin_dirs, split);
        let cache = set("CNI_CACHE_DIR").map_or_else(Cache::default, |dir| Cache::in_dir(PathBuf::from(dir)));
        Self { network_dirs, runtime: Runtime::new(plugin_dirs).with_cache(cache) }
    }

    /// The networks of the configuration directories.
    pub fn networks(&self) -> Result<Networks, Failure> {
        Ok(Networks::read(self.network_dirs.clone())?)
    }

    /// One of them.
    pub fn network(&self, name: &str) -> Result<NetworkList, Failure> {
        Ok(self.networks()?.find(name)?.clone())
    }
}

fn default_plugin_dirs() -> Vec<PathBuf> {
    let own = env::current_exe().ok().and_then(|file| Some(file.parent()?.to_owned()));
    let own = own.filter(|dir| dir.join(ANY_PLUGIN).is_file());
    own.into_iter().chain(PLUGIN_DIRS.map(PathBuf::from)).collect()
}

/// A path from the root, without `.` and `..`, whatever there is: as Go's `filepath.Abs`.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let mut clean = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_in_go() {
        assert_eq!(absolute(Path::new("/run//netns/../netns/./a/")).unwrap(), Path::new("/run/netns/a"));
        assert_eq!(absolute(Path::new("/../a")).unwrap(), Path::new("/a"));
        assert!(absolute(Path::new("a")).unwrap().is_absolute());
    }
}
