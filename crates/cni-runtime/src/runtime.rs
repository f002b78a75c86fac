//! The verbs of lists.

use cni_plugin::{ContainerId, IfName, Owner};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::lock::Turn;
use crate::plugin::Call;
use crate::version::is_at_least;
use crate::{AddResult, Attachment, Cache, CacheError, NetworkList, PluginConfig, PluginError, Plugins, go_json};

/// Why a verb has failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A plugin has failed.
    #[error("plugin type={plugin_type:?} failed ({verb}): {source}")]
    Plugin {
        /// Which one.
        plugin_type: String,
        /// `add`, `delete`, …
        verb: &'static str,
        /// What it said.
        source: PluginError,
    },
    /// The list's version has no CHECK.
    #[error("configuration version {0:?} does not support the CHECK command: it needs 0.4.0")]
    NoCheck(String),
    /// `cniVersion` is no version.
    #[error("cniVersion: {0:?} is no version; one is of the form 1.0.0")]
    Version(String),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// What a plugin printed can't be used.
    #[error("result of plugin {plugin_type:?}: {why}")]
    Result {
        /// Which one.
        plugin_type: String,
        /// Why not.
        why: String,
    },
    /// Another call for the attachment doesn't end.
    #[error("{0}")]
    Turn(String),
    /// GC goes on after a failure.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<RuntimeError>),
}

/// An attachment that GC keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// Its interface.
    pub ifname: IfName,
}

impl From<&Owner> for ValidAttachment {
    fn from(owner: &Owner) -> Self {
        Self { container_id: owner.container_id.clone(), ifname: owner.ifname.clone() }
    }
}

/// Runs the plugins of lists.
#[derive(Debug, Clone, Default)]
pub struct Runtime {
    /// Where the plugins are.
    pub plugins: Plugins,
    /// Where results are kept.
    pub cache: Cache,
}

impl Runtime {
    /// With plugins from these directories and libcni's cache.
    pub fn new<P: Into<std::path::PathBuf>>(plugin_dirs: impl IntoIterator<Item = P>) -> Self {
        Self { plugins: Plugins::new(plugin_dirs), cache: Cache::default() }
    }

    /// The same with another cache.
    #[must_use]
    pub fn with_cache(self, cache: Cache) -> Self {
        Self { cache, ..self }
    }

    /// Attaches: ADD of each plugin in their order, each with the result of the one before. The last result goes to the cache, and is
    /// returned.
    ///
    /// Not idempotent. After an error some plugins may have been successful: call [`Runtime::del`].
    ///
    /// # Errors
    /// The first plugin's that fails.
    pub fn add(&self, list: &NetworkList, attachment: &Attachment) -> Result<AddResult, RuntimeError> {
        let _turn = Turn::of(&attachment.owner(&list.name)).map_err(RuntimeError::Turn)?;
        let mut result: Option<AddResult> = None;
        for plugin in &list.plugins {
            result = Some(self.add_one(list, plugin, attachment, result.as_ref())?);
        }
        // A list has at least one plugin; libcni keeps `null` for none.
        let result =
            result.map_or_else(|| AddResult::of_plugin(b"null", &list.cni_version).map_err(RuntimeError::Turn), Ok)?;
        self.cache.add(list, attachment, &result)?;
        Ok(result)
    }

    /// ADD of one plugin of the list, with a previous result; the cache is not touched. It is what repairs an attachment: ADD of a
    /// chained plugin puts back what is missing.
    ///
    /// # Errors
    /// The plugin's.
    pub fn add_one(
        &self,
        list: &NetworkList,
        plugin: &PluginConfig,
        attachment: &Attachment,
        previous: Option<&AddResult>,
    ) -> Result<AddResult, RuntimeError> {
        let stdout = self.call(list, plugin, Some(attachment), ("ADD", "add"), previous)?;
        let failed = |why| RuntimeError::Result { plugin_type: plugin.plugin_type.clone(), why };
        AddResult::of_plugin(&stdout, &list.cni_version).map_err(failed)
    }

    /// Compares the attachment with what the cache says: CHECK of each plugin, until one fails. Changes nothing.
    ///
    /// Without effect if the list says `disableCheck`.
    ///
    /// # Errors
    /// The first plugin's that finds a difference; a list of a version before 0.4.0, which has no CHECK.
    pub fn check(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), RuntimeError> {
        if !has(list, "0.4.0")? {
            return Err(RuntimeError::NoCheck(list.cni_version.clone()));
        }
        if list.disable_check {
            return Ok(());
        }
        let result = self.cache.result(list, attachment)?;
        list.plugins.iter().try_for_each(|plugin| self.check_one(list, plugin, attachment, result.as_ref()))
    }

    /// CHECK of one plugin of the list.
    ///
    /// # Errors
    /// The plugin's.
    pub fn check_one(
        &self,
        list: &NetworkList,
        plugin: &PluginConfig,
        attachment: &Attachment,
        result: Option<&AddResult>,
    ) -> Result<(), RuntimeError> {
        self.call(list, plugin, Some(attachment), ("CHECK", "check"), result).map(drop)
    }

    /// Detaches: DEL of each plugin in the reverse order, with the cached result from version 0.4.0 on; then the cache's file is
    /// removed. Idempotent, with or without a cache file; a broken one counts as none.
    ///
    /// # Errors
    /// The first plugin's that fails; those before it in the list are not called then, and the cache's file stays.
    pub fn del(&self, list: &NetworkList, attachment: &Attachment) -> Result<(), RuntimeError> {
        let _turn = Turn::of(&attachment.owner(&list.name)).map_err(RuntimeError::Turn)?;
        let mut result = None;
        if has(list, "0.4.0")? {
            result = self.cache.result(list, attachment).unwrap_or_else(|_| {
                self.cache.remove(&list.name, attachment);
                None
            });
        }
        for plugin in list.plugins.iter().rev() {
            self.call(list, plugin, Some(attachment), ("DEL", "delete"), result.as_ref())?;
        }
        self.cache.remove(&list.name, attachment);
        Ok(())
    }

    /// Removes what attachments of the network have left that are not in `valid`: first DEL of those that the cache has, then, from
    /// version 1.1.0 on, GC of each plugin, which finds those that it doesn't have. Goes on after a failure. Without a list of valid
    /// attachments every attachment in the cache is deleted, and the plugins get no list.
    ///
    /// Without effect if the list says `disableGC`.
    ///
    /// # Errors
    /// All that have occurred.
    pub fn gc(&self, list: &NetworkList, valid: Option<&[ValidAttachment]>) -> Result<(), RuntimeError> {
        if list.disable_gc {
            return Ok(());
        }
        let mut failures = Vec::new();
        let (cached, _) = self.cache.entries()?;
        for entry in cached.iter().filter(|entry| entry.network == list.name) {
            if valid.is_none_or(|valid| !valid.contains(&(&entry.owner()).into())) {
                failures.extend(self.del(list, &entry.attachment).err());
            }
        }
        if has(list, "1.1.0")? {
            failures.extend(list.plugins.iter().filter_map(|plugin| self.gc_one(list, plugin, valid).err()));
        }
        if failures.is_empty() { Ok(()) } else { Err(RuntimeError::Several(failures)) }
    }

    fn gc_one(
        &self,
        list: &NetworkList,
        plugin: &PluginConfig,
        valid: Option<&[ValidAttachment]>,
    ) -> Result<(), RuntimeError> {
        let mut object = common(list, plugin);
        if let Some(valid) = valid {
            let valid = serde_json::to_value(valid).unwrap_or_default();
            object.insert("cni.dev/valid-attachments".to_owned(), valid.clone());
            // What the first draft of the specification said.
            object.insert("cni.dev/attachments".to_owned(), valid);
        }
        self.call_with(plugin, None, ("GC", "gc"), go_json::text_with(&object, "", None)).map(drop)
    }

    /// Asks each plugin whether an ADD could succeed now. Before version 1.1.0 there is nothing to ask.
    ///
    /// # Errors
    /// The first plugin's that says no.
    pub fn status(&self, list: &NetworkList) -> Result<(), RuntimeError> {
        if !has(list, "1.1.0")? {
            return Ok(());
        }
        list.plugins.iter().try_for_each(|plugin| {
            let stdin = go_json::text_with(&common(list, plugin), "", None);
            self.call_with(plugin, None, ("STATUS", "status"), stdin).map(drop)
        })
    }

    /// Asks each plugin whether it supports the list's version, and returns the capabilities that the list has.
    ///
    /// # Errors
    /// The first plugin's that isn't there or doesn't support it.
    pub fn validate(&self, list: &NetworkList) -> Result<Vec<String>, RuntimeError> {
        let wanted = if list.cni_version.is_empty() { "0.1.0" } else { &list.cni_version };
        for plugin in &list.plugins {
            let plugin_type = plugin.plugin_type.clone();
            let failed = |source| RuntimeError::Plugin { plugin_type: plugin_type.clone(), verb: "version", source };
            let versions = self.plugins.versions(&plugin.plugin_type).map_err(failed)?;
            if !versions.iter().any(|version| version == wanted) {
                let why = format!("does not support config version {wanted:?}, but {}", versions.join(", "));
                return Err(failed(PluginError { code: 1, msg: why, details: String::new() }));
            }
        }
        let declared = list.plugins.iter().flat_map(|plugin| &plugin.capabilities);
        let mut capabilities: Vec<String> = declared.filter(|(_, is)| **is).map(|(name, _)| name.clone()).collect();
        capabilities.sort();
        capabilities.dedup();
        Ok(capabilities)
    }

    fn call(
        &self,
        list: &NetworkList,
        plugin: &PluginConfig,
        attachment: Option<&Attachment>,
        verb: (&'static str, &'static str),
        previous: Option<&AddResult>,
    ) -> Result<Vec<u8>, RuntimeError> {
        let failed = |why| RuntimeError::Result { plugin_type: plugin.plugin_type.clone(), why };
        let mut object = common(list, plugin);
        if previous.is_some() {
            object.remove("prevResult");
        }
        let raw = previous.map(AddResult::compact).transpose().map_err(failed)?;
        let mut stdin = go_json::text_with(&object, "prevResult", raw.as_deref());
        let runtime_config = attachment.map(|attachment| runtime_config(plugin, attachment)).unwrap_or_default();
        if !runtime_config.is_empty() {
            // libcni reads the whole again to insert it, so that the keys of the previous result are sorted too.
            let mut whole: Map<String, Value> =
                serde_json::from_str(&stdin).map_err(|error| failed(error.to_string()))?;
            whole.insert("runtimeConfig".to_owned(), Value::Object(runtime_config));
            stdin = go_json::text_with(&whole, "", None);
        }
        self.call_with(plugin, attachment, verb, stdin)
    }

    fn call_with(
        &self,
        plugin: &PluginConfig,
        attachment: Option<&Attachment>,
        (verb, word): (&'static str, &'static str),
        stdin: String,
    ) -> Result<Vec<u8>, RuntimeError> {
        let failed = |source| RuntimeError::Plugin { plugin_type: plugin.plugin_type.clone(), verb: word, source };
        self.plugins.call(&plugin.plugin_type, Call { verb, attachment, stdin }).map_err(failed)
    }
}

/// The plugin's configuration with the list's name and version.
fn common(list: &NetworkList, plugin: &PluginConfig) -> Map<String, Value> {
    let mut object = plugin.object.clone();
    object.insert("name".to_owned(), Value::String(list.name.to_string()));
    object.insert("cniVersion".to_owned(), Value::String(list.cni_version.clone()));
    object
}

/// The arguments of those capabilities that the plugin declares.
fn runtime_config(plugin: &PluginConfig, attachment: &Attachment) -> Map<String, Value> {
    let declared = plugin.capabilities.iter().filter(|(_, is)| **is);
    declared.filter_map(|(name, _)| Some((name.clone(), attachment.capability_args.get(name)?.clone()))).collect()
}

/// True if the list's version has what this version brought.
fn has(list: &NetworkList, version: &str) -> Result<bool, RuntimeError> {
    is_at_least(&list.cni_version, version).ok_or_else(|| RuntimeError::Version(list.cni_version.clone()))
}
