//! The networks of configuration directories.

use std::path::{Path, PathBuf};

use crate::list::{ConfigError, NetworkList, files_with_extension};

/// A file of a configuration directory, and what it has.
#[derive(Debug)]
pub struct ConfigFile {
    /// Its path.
    pub path: PathBuf,
    /// The network, or why it has none.
    pub list: Result<NetworkList, ConfigError>,
}

/// Why a network was not found.
#[derive(Debug, thiserror::Error)]
pub enum NetworksError {
    /// A directory can't be listed.
    #[error(transparent)]
    Directory(#[from] ConfigError),
    /// There is no network of that name.
    #[error("no network {name:?} in {dirs}; {there}")]
    NotFound {
        /// The name.
        name: String,
        /// Where it was looked for.
        dirs: String,
        /// What there is instead.
        there: String,
    },
}

/// The networks of some directories.
#[derive(Debug, Default)]
pub struct Networks {
    dirs: Vec<PathBuf>,
    /// The files in the order in which they are searched: lists before configurations of a single plugin, each by their names.
    pub files: Vec<ConfigFile>,
}

impl Networks {
    /// Reads all files `*.conflist`, `*.conf` and `*.json` of these directories. A directory that doesn't exist has none, and a file that
    /// can't be used is kept with its error.
    ///
    /// # Errors
    /// If a directory can't be listed.
    pub fn read<P: Into<PathBuf>>(dirs: impl IntoIterator<Item = P>) -> Result<Self, NetworksError> {
        let mut networks = Self::default();
        for dir in dirs {
            let dir = dir.into();
            let lists = files_with_extension(&dir, &["conflist"])?;
            let singles = files_with_extension(&dir, &["conf", "json"])?;
            networks.dirs.push(dir);
            networks.files.extend(lists.into_iter().map(|path| ConfigFile { list: NetworkList::read(&path), path }));
            networks
                .files
                .extend(singles.into_iter().map(|path| ConfigFile { list: NetworkList::read_single(&path), path }));
        }
        Ok(networks)
    }

    /// The first network of this name.
    ///
    /// # Errors
    /// [`NetworksError::NotFound`] says which networks there are, and which files can't be used.
    pub fn find(&self, name: &str) -> Result<&NetworkList, NetworksError> {
        let found = self.lists().find(|(_, list)| list.name.as_str() == name);
        found.map(|(_, list)| list).ok_or_else(|| self.not_found(name))
    }

    /// All networks with their files. Of several with one name only the first is ever found.
    pub fn lists(&self) -> impl Iterator<Item = (&Path, &NetworkList)> {
        self.files.iter().filter_map(|file| Some((file.path.as_path(), file.list.as_ref().ok()?)))
    }

    /// The directories, for messages.
    pub fn dirs(&self) -> String {
        let dirs: Vec<String> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
        dirs.join(" and ")
    }

    fn not_found(&self, name: &str) -> NetworksError {
        let names: Vec<&str> = self.lists().map(|(_, list)| list.name.as_str()).collect();
        let mut there =
            if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
        for error in self.files.iter().filter_map(|file| file.list.as_ref().err()) {
            there = format!("{there}; not usable: {error}");
        }
        NetworksError::NotFound { name: name.to_owned(), dirs: self.dirs(), there }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_before_single_plugins_and_broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("10-a.conf", r#"{"name": "a", "type": "single", "cniVersion": "0.3.1"}"#);
        write("90-a.conflist", r#"{"name": "a", "plugins": [{"type": "listed"}]}"#);
        write("20-b.json", r#"{"name": "b", "type": "single", "cniVersion": "0.3.1"}"#);
        write("30-c.conflist", "{");
        write("notes.txt", "{");
        let networks = Networks::read([dir.path(), Path::new("/does/not/exist")]).unwrap();
        assert_eq!(networks.files.len(), 4);
        assert_eq!(networks.find("a").unwrap().plugins[0].plugin_type, "listed");
        let single = networks.find("b").unwrap();
        assert_eq!((single.cni_version.as_str(), single.plugins[0].plugin_type.as_str()), ("0.3.1", "single"));
        let error = networks.find("c").unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("a, a, b") && error.contains("30-c.conflist"), "{error}");
    }
}
