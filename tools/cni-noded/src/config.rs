//! The configuration file, as it is written. A key that is unknown is refused: it would be a typing error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cni_plugin::state;
use serde::Deserialize;
use serde_json::Value;

/// The longest file, in bytes.
const MAX: u64 = 1 << 20;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// This node's name; by default the environment's `NODE_NAME`, or the host's name.
    pub node: Option<String>,
    /// Where the nodes are known from.
    pub source: SourceConfig,
    /// How traffic gets to them.
    pub backend: BackendConfig,
    /// The configuration that the container runtime reads.
    pub network: Option<NetworkConfig>,
    /// Where `/healthz` and `/metrics` are served; an empty text: nowhere.
    pub listen: Option<String>,
}

/// Where the nodes are known from.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceConfig {
    /// A file with a line for each node.
    File(PathBuf),
    /// etcd, where each node leases its part.
    Etcd(EtcdConfig),
    /// The API server.
    Kubernetes(KubernetesConfig),
}

/// Keys of `etcd`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdConfig {
    /// URLs of its servers.
    pub endpoints: Vec<String>,
    /// The subnets that the nodes share.
    pub subnets: Vec<PoolConfig>,
    /// What all keys begin with.
    pub prefix: Option<String>,
    /// How long a node's part stays its own without a sign of life, in seconds.
    pub ttl: Option<u32>,
    /// Where other nodes reach this one.
    pub addresses: Option<Vec<String>>,
    /// The directory of what the node remembers.
    pub state: Option<PathBuf>,
    /// The network of which nodes share the names that the plugin `dnsname` knows.
    pub names: Option<String>,
    /// Who may sign the servers' certificate.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A subnet of which each node gets a part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// The whole.
    pub subnet: String,
    /// The prefix length of a part.
    pub part: u8,
}

/// Keys of `kubernetes`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The API server's URL.
    pub server: Option<String>,
    /// Who may sign its certificate.
    pub ca: Option<PathBuf>,
    /// The file of the bearer token.
    pub token: Option<PathBuf>,
    /// The client's certificate,
    pub cert: Option<PathBuf>,
    /// and its key, in the place of a token.
    pub key: Option<PathBuf>,
}

/// How traffic gets to the other nodes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendConfig {
    /// A route for each subnet, by the node's address.
    HostGw(HostGwConfig),
    /// A VXLAN device, with a route, a neighbour and a forwarding entry.
    Vxlan(VxlanConfig),
    /// The file of the peers of the plugin `vxlan`.
    Bridge(BridgeConfig),
}

/// Keys of `host-gw`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostGwConfig {
    /// The number by which it knows its routes.
    pub protocol: Option<u8>,
}

/// Keys of `vxlan`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VxlanConfig {
    /// The network's number.
    pub vni: Option<u32>,
    /// The UDP port.
    pub port: Option<u16>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// The IP version of the packets between nodes: `ipv4` or `ipv6`.
    pub underlay: Option<String>,
    /// The number by which it knows its routes.
    pub protocol: Option<u8>,
}

/// Keys of `bridge`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeConfig {
    /// The file.
    pub peers: Option<PathBuf>,
    /// The whole subnets of which each node has a part.
    pub subnets: Option<Vec<String>>,
    /// The IP version of the packets between nodes: `ipv4` or `ipv6`.
    pub underlay: Option<String>,
}

/// What the container runtime gets.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkConfig {
    /// The file to write.
    pub file: PathBuf,
    /// Its content, but for what depends on the node; or the path of a file that has it.
    pub template: Template,
}

/// A network's configuration with placeholders.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Template {
    /// Another file.
    Path(PathBuf),
    /// In place.
    Inline(BTreeMap<String, Value>),
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is no JSON, or a key has a value that isn't allowed.
    #[error("{}: {key}: {reason}", .path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Which key; `.` for the whole.
        key: String,
        /// What is wrong.
        reason: serde_json::Error,
    },
}

/// Reads the file.
///
/// # Errors
/// [`ConfigError`], which names the key.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let content =
        state::read_config(path, MAX).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut decoder = serde_json::Deserializer::from_slice(&content);
    let decoded =
        serde_path_to_error::deserialize(&mut decoder).map_err(|error| (error.path().to_string(), error.into_inner()));
    let whole = decoded.and_then(|config| decoder.end().map(|()| config).map_err(|error| (".".to_owned(), error)));
    whole.map_err(|(key, reason)| ConfigError::Decode { path: path.to_owned(), key, reason })
}
