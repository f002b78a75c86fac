//! The cache of attachments: libcni's files, one an attachment, which all programs on libcni share.
//!
//! `/var/lib/cni/results/NETWORK-CONTAINER-IFNAME` has what ADD was called with and what it returned. The name can't be taken apart, as
//! any of its parts may have a `-`; the content says whose it is.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cni_plugin::{CniResult, ContainerId, IfName, Interface, IpConfig, NetworkName, Owner};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::list::LENGTH_MAX;
use crate::{AddResult, Attachment, NetworkList, go_json};

const KIND: &str = "cniCacheV1";
/// Where libcni has it.
const DEFAULT_DIR: &str = "/var/lib/cni";
const RESULTS: &str = "results";

/// Why the cache can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {why}", path = path.display())]
pub struct CacheError {
    verb: &'static str,
    path: PathBuf,
    why: String,
}

/// An attachment as the cache has it.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// The network.
    pub network: NetworkName,
    /// The rest of what ADD was called with. The namespace is that of the result where the file doesn't say, as libcni didn't write it
    /// before 1.2.
    pub attachment: Attachment,
    /// What ADD returned, as text.
    result: Option<Box<RawValue>>,
    /// The list that ADD ran.
    config: Arc<Config>,
    /// When the file was written, in seconds of the epoch.
    pub written: i64,
    /// The file.
    pub path: PathBuf,
}

/// A list as the file has it. Attachments to one network have the same, as long as nobody changes the network.
#[derive(Debug)]
struct Config {
    /// Base64 encoded.
    text: String,
    /// Decoded when it is first asked for.
    list: OnceLock<Result<NetworkList, String>>,
}

impl Config {
    fn decode(&self) -> Result<NetworkList, String> {
        let bytes = STANDARD.decode(&self.text).map_err(|error| error.to_string())?;
        let list = NetworkList::parse(&bytes).map_err(|error| error.to_string())?;
        // Its plugins were in files of their own.
        if list.plugins.is_empty() { Err("plugins: it has none".to_owned()) } else { Ok(list) }
    }
}

/// The file's keys.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    container_id: Cow<'a, str>,
    #[serde(borrow)]
    config: Cow<'a, str>,
    #[serde(borrow)]
    if_name: Cow<'a, str>,
    #[serde(borrow)]
    network_name: Cow<'a, str>,
    #[serde(borrow)]
    netns: Cow<'a, str>,
    cni_args: Option<Vec<(String, String)>>,
    capability_args: Option<Map<String, Value>>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// Those of the file's keys that say whose it is.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct WireOwner<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    container_id: Cow<'a, str>,
    #[serde(borrow)]
    if_name: Cow<'a, str>,
    #[serde(borrow)]
    network_name: Cow<'a, str>,
}

impl WireOwner<'_> {
    fn owner(&self) -> Result<Owner, String> {
        if self.kind != KIND {
            return Err(format!("kind is {:?}, not {KIND:?}", self.kind));
        }
        let network: NetworkName = self.network_name.parse().map_err(|error| format!("networkName: {error}"))?;
        let container_id: ContainerId = self.container_id.parse().map_err(|error| format!("containerId: {error}"))?;
        let ifname: IfName = self.if_name.parse().map_err(|error| format!("ifName: {error}"))?;
        Ok(Owner { network, container_id, ifname })
    }
}

impl CacheEntry {
    /// Of a file's content. Shares the configuration with `last`, if that has the same.
    fn parse(content: &Content<'_>, path: PathBuf, last: Option<&Self>) -> Result<Self, String> {
        let wire: Wire<'_> = serde_json::from_slice(content.bytes).map_err(|error| error.to_string())?;
        let Wire { kind, container_id, if_name, network_name, .. } = wire;
        let Owner { network, container_id, ifname } =
            WireOwner { kind, container_id, if_name, network_name }.owner()?;
        let attachment = Attachment {
            netns: PathBuf::from(wire.netns.as_ref()),
            args: wire.cni_args.unwrap_or_default(),
            capability_args: wire.capability_args.unwrap_or_default(),
            ..Attachment::new(container_id, ifname)
        };
        let shared = last.map(|last| &last.config).filter(|config| config.text == wire.config).cloned();
        let own = || Arc::new(Config { text: wire.config.into_owned(), list: OnceLock::new() });
        let (config, result) = (shared.unwrap_or_else(own), wire.result.map(ToOwned::to_owned));
        let mut entry = Self { network, attachment, result, config, written: content.written, path };
        if entry.attachment.netns.as_os_str().is_empty() {
            let ifname = entry.attachment.ifname.as_str();
            let interfaces = entry.reported().interfaces;
            let own = interfaces.into_iter().find(|found| found.name == ifname && !found.sandbox.is_empty());
            entry.attachment.netns = own.map(|own| own.sandbox.into()).unwrap_or_default();
        }
        Ok(entry)
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        self.attachment.owner(&self.network)
    }

    /// The list as it was at ADD. Entries that [`Cache::entries`] returned side by side share it where it is the same: it is decoded once.
    ///
    /// # Errors
    /// In words.
    pub fn list(&self) -> Result<&NetworkList, CacheError> {
        let failed =
            |why: &String| CacheError { verb: "use the configuration in", path: self.path.clone(), why: why.clone() };
        self.config.list.get_or_init(|| self.config.decode()).as_ref().map_err(failed)
    }

    /// What ADD returned.
    ///
    /// # Errors
    /// In words.
    pub fn add_result(&self) -> Result<AddResult, CacheError> {
        let failed = |why: String| CacheError { verb: "use the result in", path: self.path.clone(), why };
        AddResult::of_value(parsed(self.result.as_deref()), "").map_err(failed)
    }

    /// The interfaces and addresses that ADD returned: all of [`CacheEntry::add_result`] that is needed to show attachments, in a tenth of
    /// the time. Empty if the result can't be read.
    pub fn reported(&self) -> Reported {
        let text = self.result.as_deref().map_or("null", RawValue::get);
        match serde_json::from_str::<Reported>(text) {
            // Before 0.3.0 there were no lists.
            Ok(reported) if !reported.ips.is_empty() || !reported.interfaces.is_empty() => reported,
            _ => self.add_result().map(|result| Reported::of(&result)).unwrap_or_default(),
        }
    }
}

/// A part of what ADD returned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Reported {
    /// The interfaces, on the node and in the container.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
}

impl Reported {
    fn of(result: &CniResult) -> Self {
        Self { interfaces: result.interfaces.clone(), ips: result.ips.clone() }
    }
}

/// A file of the cache.
struct Content<'a> {
    bytes: &'a [u8],
    /// When it was written, in seconds of the epoch.
    written: i64,
}

/// The cache's directory, open for reading its files one after the other: by their names in it, and into the same memory.
struct Files {
    dir: OwnedFd,
    buffer: Vec<u8>,
}

impl Files {
    /// `None` if there is no such directory.
    fn open(dir: &Path) -> io::Result<Option<Self>> {
        match rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { dir, buffer: Vec::new() })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A regular file's content. Links are not followed, and a FIFO is not waited for.
    fn read(&mut self, name: &OsStr) -> io::Result<Content<'_>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&file)?;
        let length = u64::try_from(found.st_size).unwrap_or_default();
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || length > LENGTH_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no cache file"));
        }
        self.buffer.clear();
        self.buffer.reserve(usize::try_from(length).unwrap_or_default());
        while u64::try_from(self.buffer.len()).unwrap_or_default() < length {
            if rustix::io::read(&file, spare_capacity(&mut self.buffer))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Content { bytes: &self.buffer, written: found.st_mtime })
    }
}

fn parsed(result: Option<&RawValue>) -> Value {
    result.and_then(|text| cni_plugin::json::parse(text.get().as_bytes()).ok()).unwrap_or_default()
}

/// A cache directory.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Default for Cache {
    /// libcni's: `/var/lib/cni`.
    fn default() -> Self {
        Self::in_dir(DEFAULT_DIR)
    }
}

impl Cache {
    /// The cache below this directory: libcni's `cacheDir`.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory of the files.
    pub fn path(&self) -> PathBuf {
        self.dir.join(RESULTS)
    }

    /// The file of an attachment.
    pub fn file(&self, network: &NetworkName, attachment: &Attachment) -> PathBuf {
        self.path().join(format!("{network}-{}-{}", attachment.container_id, attachment.ifname))
    }

    /// All attachments, in the order of their files' names, and the files that are none. Constant memory and time for each.
    ///
    /// # Errors
    /// If the directory can't be listed; one that doesn't exist is empty.
    pub fn entries(&self) -> Result<(Vec<CacheEntry>, Vec<CacheError>), CacheError> {
        self.each(|content, path, last: Option<&CacheEntry>| CacheEntry::parse(content, path, last))
    }

    /// Whose the attachments are, in the order of their files' names, and the files that are none: a part of [`Cache::entries`] in less
    /// time.
    ///
    /// # Errors
    /// As [`Cache::entries`].
    pub fn owners(&self) -> Result<(Vec<Owner>, Vec<CacheError>), CacheError> {
        self.each(|content, _, _: Option<&Owner>| {
            serde_json::from_slice::<WireOwner<'_>>(content.bytes).map_err(|error| error.to_string())?.owner()
        })
    }

    /// What `parse` makes of each file; it gets the last one that it made.
    fn each<T>(
        &self,
        parse: impl Fn(&Content<'_>, PathBuf, Option<&T>) -> Result<T, String>,
    ) -> Result<(Vec<T>, Vec<CacheError>), CacheError> {
        let dir = self.path();
        let failed = |error: io::Error| CacheError { verb: "list", path: dir.clone(), why: error.to_string() };
        let Some(mut files) = Files::open(&dir).map_err(failed)? else { return Ok(Default::default()) };
        let listed = dir.read_dir().map_err(failed)?;
        let mut names =
            listed.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<OsString>>>().map_err(failed)?;
        names.sort();
        let (mut entries, mut broken): (Vec<T>, _) = (Vec::with_capacity(names.len()), Vec::new());
        for name in names {
            let path = dir.join(&name);
            let content = match files.read(&name) {
                // It was deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                content => content.map_err(|error| error.to_string()),
            };
            match content.and_then(|content| parse(&content, path.clone(), entries.last())) {
                Ok(entry) => entries.push(entry),
                Err(why) => broken.push(CacheError { verb: "use", path, why }),
            }
        }
        Ok((entries, broken))
    }

    /// The attachment of this network, container and interface; `None` if the cache has none or its file is broken.
    pub fn entry(&self, network: &NetworkName, attachment: &Attachment) -> Option<CacheEntry> {
        let path = self.file(network, attachment);
        let mut files = Files::open(path.parent()?).ok()??;
        let content = files.read(path.file_name()?).ok()?;
        CacheEntry::parse(&content, path.clone(), None).ok()
    }

    /// The result of ADD in the list's version; `None` if there is no file.
    ///
    /// A file from before the format `cniCacheV1` is the result itself.
    ///
    /// # Errors
    /// If the file is broken, or its result can't be expressed in the version.
    pub(crate) fn result(&self, list: &NetworkList, attachment: &Attachment) -> Result<Option<AddResult>, CacheError> {
        let path = self.file(&list.name, attachment);
        let Ok(bytes) = fs::read(&path) else { return Ok(None) };
        let failed = |why: String| CacheError { verb: "use the cached result in", path: path.clone(), why };
        let wire = serde_json::from_slice::<Wire<'_>>(&bytes).ok().filter(|wire| wire.kind == KIND);
        let value = match wire {
            Some(wire) => parsed(wire.result),
            None => cni_plugin::json::parse(&bytes).map_err(|error| failed(error.to_string()))?,
        };
        let result = AddResult::of_value(value, "").and_then(|result| result.into_version(&list.cni_version));
        result.map(Some).map_err(failed)
    }

    /// Writes what ADD returned. Readers see the old file or the new one, whole.
    pub(crate) fn add(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        result: &AddResult,
    ) -> Result<(), CacheError> {
        let path = self.file(&list.name, attachment);
        let failed = |why: String| CacheError { verb: "write", path: path.clone(), why };
        let text = content(list, attachment, result).map_err(failed)?;
        let dir = self.path();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| failed(error.to_string()))?;
        // Not in the same directory: libcni takes every file there for an attachment.
        let unfinished = self.dir.join(format!(".{}.new", std::process::id()));
        let written = write_new(&unfinished, &text).and_then(|()| fs::rename(&unfinished, &path));
        if let Err(error) = written {
            // The first error is the one to report.
            let _ = fs::remove_file(&unfinished);
            return Err(failed(error.to_string()));
        }
        Ok(())
    }

    /// Removes an attachment's file. Idempotent.
    pub fn remove(&self, network: &NetworkName, attachment: &Attachment) {
        // As in libcni, a file that stays is no error: its attachment is gone, and a later DEL of it does no harm.
        let _ = fs::remove_file(self.file(network, attachment));
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let _ = fs::remove_file(path);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// The file, byte for byte as libcni writes it.
fn content(list: &NetworkList, attachment: &Attachment, result: &AddResult) -> Result<String, String> {
    let entry = |key: &str, value: &str| format!("{}:{}", go_json::string(key), go_json::string(value));
    let mut entries = vec![
        entry("kind", KIND),
        entry("containerId", attachment.container_id.as_str()),
        entry("config", &STANDARD.encode(&list.bytes)),
        entry("ifName", attachment.ifname.as_str()),
        entry("networkName", list.name.as_str()),
    ];
    if !attachment.netns.as_os_str().is_empty() {
        entries.push(entry("netns", &attachment.netns.to_string_lossy()));
    }
    if !attachment.args.is_empty() {
        let pair = |(key, value): &(String, String)| format!("[{},{}]", go_json::string(key), go_json::string(value));
        let pairs: Vec<String> = attachment.args.iter().map(pair).collect();
        entries.push(format!("\"cniArgs\":[{}]", pairs.join(",")));
    }
    if !attachment.capability_args.is_empty() {
        entries.push(format!("\"capabilityArgs\":{}", go_json::text_with(&attachment.capability_args, "", None)));
    }
    // libcni reads the result again as a map: the keys are sorted.
    let result: Value = serde_json::from_str(&result.compact()?).map_err(|error| error.to_string())?;
    entries.push(format!("\"result\":{}", go_json::text(&result)));
    Ok(format!("{{{}}}", entries.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list() -> NetworkList {
        NetworkList::parse(br#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "x"}]}"#).unwrap()
    }

    fn attachment() -> Attachment {
        Attachment::new("c-1".parse().unwrap(), "eth0".parse().unwrap())
    }

    #[test]
    fn what_is_written_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path().join("cni"));
        assert_eq!(cache.entries().unwrap().0.len(), 0);
        let attachment =
            attachment().in_namespace("/run/netns/c1").with_arg("K", "v").with_capability("mac", json!("x"));
        let result =
            AddResult::of_value(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}), "").unwrap();
        cache.add(&list(), &attachment, &result).unwrap();
        let (entries, broken) = cache.entries().unwrap();
        assert!(broken.is_empty());
        assert_eq!(entries[0].attachment, attachment);
        assert_eq!(*entries[0].list().unwrap(), list());
        assert_eq!(entries[0].add_result().unwrap(), result);
        assert_eq!(entries[0].reported().ips, result.ips);
        assert_eq!(cache.result(&list(), &attachment).unwrap(), Some(result));
        let mode =
            |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777;
        assert_eq!((mode(&cache.path()), mode(&entries[0].path)), (0o700, 0o600));
        cache.remove(&"n".parse().unwrap(), &attachment);
        cache.remove(&"n".parse().unwrap(), &attachment);
        assert_eq!(cache.result(&list(), &attachment).unwrap(), None);
        assert_eq!(fs::read_dir(dir.path().join("cni")).unwrap().count(), 1, "nothing but the directory is left");
    }

    #[test]
    fn broken_files_are_named_and_old_ones_understood() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        fs::create_dir_all(cache.path()).unwrap();
        for (name, text) in [("a", "{"), ("b", "{}"), ("c", r#"{"kind": "cniCacheV1", "containerId": "../x"}"#)] {
            fs::write(cache.path().join(name), text).unwrap();
        }
        let (entries, broken) = cache.entries().unwrap();
        assert_eq!((entries.len(), broken.len()), (0, 3));
        assert!(broken[2].to_string().contains("/results/c: networkName"), "{}", broken[2]);
        let old = r#"{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/24"}]}"#;
        fs::write(cache.file(&list().name, &attachment()), old).unwrap();
        let result = cache.result(&list(), &attachment()).unwrap().unwrap();
        assert!(result.compact().unwrap().starts_with(r#"{"cniVersion":"1.0.0","ips""#));
        fs::write(cache.file(&list().name, &attachment()), "{").unwrap();
        assert!(cache.result(&list(), &attachment()).is_err());
    }

    #[test]
    fn what_old_versions_wrote_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        fs::create_dir_all(cache.path()).unwrap();
        let file = |result: &str| {
            let head =
                r#"{"kind":"cniCacheV1","containerId":"c-1","config":"","ifName":"eth0","networkName":"n","result":"#;
            fs::write(cache.file(&list().name, &attachment()), format!("{head}{result}}}")).unwrap();
            cache.entry(&list().name, &attachment()).unwrap()
        };
        // libcni 1.1 writes no namespace.
        let entry = file(r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"},{"name":"eth0","sandbox":"/x"}]}"#);
        assert_eq!(entry.attachment.netns, Path::new("/x"));
        let entry = file(r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"}}"#);
        assert_eq!(entry.reported().ips[0].address.to_string(), "10.0.0.2/24");
        assert_eq!(file("7").reported(), Reported::default());
    }
}
