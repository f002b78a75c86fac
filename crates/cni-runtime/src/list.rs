//! A network's configuration: a list of plugins with what they have in common (SPEC.md, "Section 1").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cni_plugin::{NetworkName, json};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{go_json, version};

/// No configuration is longer, in bytes.
pub(crate) const LENGTH_MAX: u64 = 16 * 1024 * 1024;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}{why}", path = path.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default())]
pub struct ConfigError {
    /// The file, if it is one.
    pub path: Option<PathBuf>,
    /// What is wrong, with the key's name.
    pub why: String,
}

impl ConfigError {
    fn new(why: impl Into<String>) -> Self {
        Self { path: None, why: why.into() }
    }

    pub(crate) fn of_file(self, path: &Path) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }
}

/// The configuration of one plugin in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// The executable's name.
    pub plugin_type: String,
    /// The network's name, where the plugin's own configuration has it.
    pub name: String,
    /// The capabilities that it declares.
    pub capabilities: BTreeMap<String, bool>,
    /// All keys.
    pub object: Map<String, Value>,
}

/// The keys that a runtime reads; in any letter case.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Known {
    name: String,
    #[serde(rename = "type")]
    plugin_type: String,
    capabilities: BTreeMap<String, bool>,
}

impl PluginConfig {
    /// Reads a plugin's configuration.
    ///
    /// # Errors
    /// If it has no `type`, or `name` or `capabilities` are not what they should be.
    pub fn parse(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let known: Known =
            json::decode(Value::Object(object.clone())).map_err(|error| ConfigError::new(error.to_string()))?;
        if known.plugin_type.is_empty() {
            return Err(ConfigError::new("type: a plugin's configuration has none"));
        }
        let (plugin_type, name, capabilities) = (known.plugin_type, known.name, known.capabilities);
        Ok(Self { plugin_type, name, capabilities, object })
    }

    /// The IPAM plugin's name; empty if it has none.
    pub fn ipam_type(&self) -> &str {
        self.object.get("ipam").and_then(|ipam| ipam.get("type")).and_then(Value::as_str).unwrap_or_default()
    }
}

/// A network's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// The network's name.
    pub name: NetworkName,
    /// The version to speak with the plugins: that of `cniVersion`, or the newest known one of `cniVersions`. Empty counts as 0.1.0.
    pub cni_version: String,
    /// CHECK does nothing.
    pub disable_check: bool,
    /// GC does nothing.
    pub disable_gc: bool,
    /// The folder beside the list with further plugins' configurations is not read.
    pub load_only_inlined_plugins: bool,
    /// The plugins, in the order in which ADD runs them.
    pub plugins: Vec<PluginConfig>,
    /// The list as it was read, which the cache keeps.
    pub bytes: Vec<u8>,
}

impl NetworkList {
    /// Reads a list.
    ///
    /// ```
    /// let list = cni_runtime::NetworkList::parse(br#"{"name": "n", "cniVersions": ["0.4.0", "1.0.0"],
    ///     "plugins": [{"type": "bridge"}]}"#)?;
    /// assert_eq!((list.name.as_str(), list.cni_version.as_str()), ("n", "1.0.0"));
    /// # Ok::<(), cni_runtime::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// Names the key. A list without `plugins` is none: its plugins may be in files of their own ([`NetworkList::read`]).
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let list = match json::parse(bytes) {
            Ok(Value::Object(list)) => list,
            Ok(_) => return Err(ConfigError::new("it is no JSON object")),
            Err(error) => return Err(ConfigError::new(format!("it is no JSON: {error}"))),
        };
        let name = list.get("name").ok_or_else(|| ConfigError::new("name: a network must have one"))?;
        let name = text("name", name)?.parse().map_err(|error| ConfigError::new(format!("name: {error}")))?;
        let load_only_inlined_plugins = flag(&list, "loadOnlyInlinedPlugins")?;
        let plugins = match list.get("plugins") {
            Some(plugins) => parse_plugins(plugins)?,
            None if load_only_inlined_plugins => {
                return Err(ConfigError::new("plugins: there are none, and loadOnlyInlinedPlugins is true"));
            }
            None => Vec::new(),
        };
        Ok(Self {
            name,
            cni_version: spoken_version(&list)?,
            disable_check: flag(&list, "disableCheck")?,
            disable_gc: flag(&list, "disableGC")?,
            load_only_inlined_plugins,
            plugins,
            bytes: bytes.to_vec(),
        })
    }

    /// Reads a list's file, and the files `*.conf` in the folder beside it that has the network's name, each of which has one more
    /// plugin's configuration, unless the list says `loadOnlyInlinedPlugins`.
    ///
    /// # Errors
    /// As [`NetworkList::parse`], with the file's path, and for a network without any plugin.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let of_file = |error: ConfigError| error.of_file(path);
        let mut list = Self::parse(&read_file(path)?).map_err(of_file)?;
        if !list.load_only_inlined_plugins {
            let folder = path.with_file_name(list.name.as_str());
            for file in files_with_extension(&folder, &["conf"])? {
                list.plugins.push(read_plugin(&file)?);
            }
        }
        if list.plugins.is_empty() {
            return Err(of_file(ConfigError::new("plugins: the network has none")));
        }
        Ok(list)
    }

    /// Reads a file with the configuration of a single plugin, as they were before there were lists, and makes a list of it.
    ///
    /// # Errors
    /// As [`NetworkList::read`].
    pub fn read_single(path: &Path) -> Result<Self, ConfigError> {
        let plugin = read_plugin(path)?;
        let text = |key: &str| plugin.object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut list = Map::new();
        list.insert("name".to_owned(), Value::String(plugin.name.clone()));
        list.insert("cniVersion".to_owned(), Value::String(text("cniVersion")));
        list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(plugin.object)]));
        Self::parse(go_json::text(&Value::Object(list)).as_bytes()).map_err(|error| error.of_file(path))
    }

    /// The capabilities that one of its plugins declares.
    pub fn has_capability(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.get(capability).copied().unwrap_or_default())
    }
}

fn parse_plugins(plugins: &Value) -> Result<Vec<PluginConfig>, ConfigError> {
    let Value::Array(plugins) = plugins else { return Err(ConfigError::new("plugins: a list is expected")) };
    if plugins.is_empty() {
        return Err(ConfigError::new("plugins: the list is empty"));
    }
    let parse = |(at, plugin): (usize, &Value)| {
        let Value::Object(object) = plugin else {
            return Err(ConfigError::new(format!("plugins[{at}]: an object is expected")));
        };
        PluginConfig::parse(object.clone()).map_err(|error| ConfigError::new(format!("plugins[{at}].{}", error.why)))
    };
    plugins.iter().enumerate().map(parse).collect()
}

fn spoken_version(list: &Map<String, Value>) -> Result<String, ConfigError> {
    let single = list.get("cniVersion").map_or(Ok(""), |single| text("cniVersion", single))?;
    let Some(offered) = list.get("cniVersions") else { return Ok(single.to_owned()) };
    let Value::Array(offered) = offered else { return Err(ConfigError::new("cniVersions: a list is expected")) };
    let offered: Result<Vec<String>, _> =
        offered.iter().map(|one| text("cniVersions", one).map(str::to_owned)).collect();
    version::negotiate(&offered?, single)
        .map_err(|bad| ConfigError::new(format!("cniVersions: {bad:?} is no version; one is of the form 1.0.0")))
}

fn text<'v>(key: &str, value: &'v Value) -> Result<&'v str, ConfigError> {
    value.as_str().ok_or_else(|| ConfigError::new(format!("{key}: a text is expected, not {value}")))
}

/// A flag, which may be written as a text.
fn flag(list: &Map<String, Value>, key: &str) -> Result<bool, ConfigError> {
    match list.get(key) {
        None => Ok(false),
        Some(Value::Bool(is)) => Ok(*is),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(ConfigError::new(format!("{key}: true or false is expected, not {other}"))),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, ConfigError> {
    cni_plugin::state::read_config(path, LENGTH_MAX)
        .map_err(|error| ConfigError::new(format!("cannot read it: {error}")).of_file(path))
}

fn read_plugin(path: &Path) -> Result<PluginConfig, ConfigError> {
    let of_file = |error: ConfigError| error.of_file(path);
    match json::parse(&read_file(path)?) {
        Ok(Value::Object(object)) => PluginConfig::parse(object).map_err(of_file),
        Ok(_) => Err(of_file(ConfigError::new("it is no JSON object"))),
        Err(error) => Err(of_file(ConfigError::new(format!("it is no JSON: {error}")))),
    }
}

/// The files of a directory with one of these extensions, by name; none if there is no such directory.
pub(crate) fn files_with_extension(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |error: std::io::Error| ConfigError::new(format!("cannot list it: {error}")).of_file(dir);
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let has = |extension: &&str| path.extension().is_some_and(|found| found == *extension);
        if extensions.iter().any(has) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        NetworkList::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, key) in [
            ("", "no JSON"),
            ("[]", "no JSON object"),
            (r#"{"plugins": [{"type": "x"}]}"#, "name: "),
            (r#"{"name": 7}"#, "name: "),
            (r#"{"name": "a/b", "plugins": [{"type": "x"}]}"#, "\"a/b\""),
            (r#"{"name": "n", "plugins": []}"#, "plugins: "),
            (r#"{"name": "n", "plugins": [{}]}"#, "plugins[0].type: "),
            (r#"{"name": "n", "plugins": [{"type": "x", "capabilities": {"ips": 1}}]}"#, "capabilities"),
            (r#"{"name": "n", "loadOnlyInlinedPlugins": true}"#, "loadOnlyInlinedPlugins"),
            (r#"{"name": "n", "disableGC": "perhaps"}"#, "disableGC: "),
            (r#"{"name": "n", "cniVersions": ["x"]}"#, "cniVersions: \"x\""),
        ] {
            assert!(refusal(text).contains(key), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn flags_may_be_texts_and_types_in_any_letter_case() {
        let text = r#"{"name": "n", "disableCheck": "TRUE", "disableGC": false, "plugins": [{"Type": "x"}]}"#;
        let list = NetworkList::parse(text.as_bytes()).unwrap();
        assert!(list.disable_check && !list.disable_gc);
        assert_eq!(list.plugins[0].plugin_type, "x");
    }

    #[test]
    fn plugins_come_from_the_folder_beside_the_list_too() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir(dir.path().join("n")).unwrap();
        write("10-n.conflist", r#"{"name": "n", "plugins": [{"type": "one"}]}"#);
        write("n/20-b.conf", r#"{"type": "three"}"#);
        write("n/10-a.conf", r#"{"type": "two"}"#);
        write("n/10-a.json", r#"{"type": "none"}"#);
        let types = |file: &str| {
            let list = NetworkList::read(&dir.path().join(file)).unwrap();
            list.plugins.iter().map(|plugin| plugin.plugin_type.clone()).collect::<Vec<_>>()
        };
        assert_eq!(types("10-n.conflist"), ["one", "two", "three"]);
        write("20-n.conflist", r#"{"name": "n", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "one"}]}"#);
        assert_eq!(types("20-n.conflist"), ["one"]);
        write("30-m.conflist", r#"{"name": "m"}"#);
        let error = NetworkList::read(&dir.path().join("30-m.conflist")).unwrap_err().to_string();
        assert!(error.contains("30-m.conflist") && error.contains("plugins"), "{error}");
    }
}
