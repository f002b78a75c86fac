//! What remains of the configuration when every contradiction has been refused. Effects take nothing else.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use cni_net::{VxLan, unusable_host};
use cni_plugin::{Family, NetworkName, state};
use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::config::{
    BackendConfig, BridgeConfig, Config, EtcdConfig, HostGwConfig, KubernetesConfig, NetworkConfig, PoolConfig,
    SourceConfig, Template, VxlanConfig,
};
use crate::node;
use crate::source::http::Tls;

/// Where health and metrics are, unless the configuration says otherwise.
const LISTEN: &str = "127.0.0.1:9469";
/// The routes' protocol number; `/etc/iproute2/rt_protos` has no name for it.
pub const PROTOCOL: u8 = 115;
/// The least number that isn't the kernel's, an administrator's or a router's announcement's (`RTPROT_STATIC` is 4, `RTPROT_RA` 9).
const PROTOCOL_MIN: u8 = 5;
/// The least MTU of a VXLAN device; IPv6 needs 1280.
const MTU_MIN: u32 = 1280;
/// The longest template.
const TEMPLATE_MAX: u64 = 1 << 20;
/// How long a lease lives, in seconds: unless the configuration says otherwise, and what is allowed.
const TTL: u32 = 3600;
const TTL_MIN: u32 = 5;
const TTL_MAX: u32 = 30 * 24 * 3600;
/// A subnet is cut into 2^20 parts at most.
const PARTS: u8 = 20;

/// A configuration that is right.
#[derive(Debug)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// Where the nodes are known from.
    pub source: Source,
    /// How traffic gets to them.
    pub backend: Backend,
    /// The configuration that the container runtime reads.
    pub network: Option<Network>,
    /// Where health and metrics are served.
    pub listen: Option<SocketAddr>,
}

/// Where the nodes are known from.
#[derive(Debug)]
pub enum Source {
    /// This file.
    File(PathBuf),
    /// etcd.
    Etcd(Etcd),
    /// The API server.
    Kubernetes(Kubernetes),
}

/// etcd, and what a node wants of it.
#[derive(Debug, Clone)]
pub struct Etcd {
    /// This node's name.
    pub node: String,
    /// URLs of its servers.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// The subnets that the nodes share.
    pub pools: Vec<Pool>,
    /// How long a lease lives, in seconds.
    pub ttl: u32,
    /// Where other nodes reach this one; empty: from where it reaches etcd.
    pub addresses: Vec<IpAddr>,
    /// The directory of what the node remembers.
    pub state: PathBuf,
    /// Certificates.
    pub tls: Tls,
    /// The network of which nodes share the containers' names.
    pub names: Option<NetworkName>,
}

/// A subnet of which each node has a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The whole.
    pub subnet: IpNetwork,
    /// The prefix length of a part.
    pub part: u8,
}

impl Etcd {
    /// A key below the prefix.
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }
}

/// The API server.
#[derive(Debug)]
pub struct Kubernetes {
    /// Its URL.
    pub server: String,
    /// The file of the bearer token.
    pub token: Option<PathBuf>,
    /// Certificates.
    pub tls: Tls,
}

/// How traffic gets to the other nodes.
#[derive(Debug)]
pub enum Backend {
    /// Routes by the nodes' addresses, with this protocol.
    HostGw {
        /// The routes' protocol number.
        protocol: u8,
    },
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// The plugin `vxlan`.
    Bridge(Bridge),
}

/// The VXLAN device.
#[derive(Debug, Clone, Copy)]
pub struct Vxlan {
    /// Its network's number.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// Its MTU; what fits if none.
    pub mtu: Option<u32>,
    /// The IP version of the packets; that of the node's first address if none.
    pub underlay: Option<Family>,
    /// The routes' protocol number.
    pub protocol: u8,
}

/// What the plugin `vxlan` reads.
#[derive(Debug)]
pub struct Bridge {
    /// The file of the peers.
    pub peers: PathBuf,
    /// The whole subnets.
    pub subnets: Vec<IpNetwork>,
    /// The IP version of the packets; that of the node's first address if none.
    pub underlay: Option<Family>,
    /// The network's number, by which the device is found.
    pub vni: Option<u32>,
}

/// The network's configuration.
#[derive(Debug)]
pub struct Network {
    /// The file's directory,
    pub directory: PathBuf,
    /// and its name.
    pub file: String,
    /// What it says, with placeholders.
    pub template: Value,
}

/// A key with a value that isn't allowed.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {what}")]
pub struct SettingsError {
    key: &'static str,
    what: String,
}

fn refuse<T>(key: &'static str, what: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError { key, what: what.into() })
}

impl Settings {
    /// Resolves the configuration.
    ///
    /// # Errors
    /// [`SettingsError`], which names the key, the value and what is allowed.
    pub fn new(config: Config) -> Result<Self, SettingsError> {
        let network = config.network.map(network).transpose()?;
        let node = match config.node.or_else(|| std::env::var("NODE_NAME").ok()) {
            Some(name) => name,
            None => hostname()?,
        };
        if node.is_empty() || node.contains(char::is_whitespace) {
            return refuse("node", format!("{node:?} is no name of a node: a word is expected"));
        }
        let source = source(config.source, &node)?;
        let pools: Vec<IpNetwork> = match &source {
            Source::Etcd(etcd) => etcd.pools.iter().map(|pool| pool.subnet).collect(),
            _ => Vec::new(),
        };
        Ok(Self {
            node,
            source,
            backend: backend(config.backend, network.as_ref(), &pools)?,
            network,
            listen: listen(config.listen.as_deref().unwrap_or(LISTEN))?,
        })
    }
}

fn hostname() -> Result<String, SettingsError> {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) => Ok(name.trim().to_owned()),
        Err(error) => refuse("node", format!("it is not set, and the host's name can't be read: {error}")),
    }
}

fn listen(text: &str) -> Result<Option<SocketAddr>, SettingsError> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
        _ => refuse("listen", format!("{text:?} is not a loopback address with a port, as {LISTEN} is one")),
    }
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, SettingsError> {
    if path.is_absolute() { Ok(path) } else { refuse(key, format!("{path:?} is not an absolute path")) }
}

fn source(config: SourceConfig, node: &str) -> Result<Source, SettingsError> {
    match config {
        SourceConfig::File(path) => Ok(Source::File(absolute("source.file", path)?)),
        SourceConfig::Etcd(config) => etcd(config, node).map(Source::Etcd),
        SourceConfig::Kubernetes(config) => kubernetes(config).map(Source::Kubernetes),
    }
}

/// A URL without a path.
fn url(key: &'static str, text: &str) -> Result<String, SettingsError> {
    let text = text.trim_end_matches('/');
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '@', '?', '#']) => Ok(text.to_owned()),
        _ => refuse(key, format!("{text:?} is not a URL of a server, as https://192.0.2.9:2379 is one")),
    }
}

fn tls(keys: [&'static str; 3], files: [Option<PathBuf>; 3], is_needed: bool) -> Result<Tls, SettingsError> {
    let [ca_key, cert_key, key_key] = keys;
    let [ca, cert, key] = files;
    if is_needed && ca.is_none() {
        return refuse(ca_key, "the file with the certificate of who signs the servers' is expected for https");
    }
    if cert.is_some() != key.is_some() {
        let lacking = if cert.is_some() { key_key } else { cert_key };
        return refuse(lacking, "a client's certificate and its key are expected both, or neither");
    }
    let file = |key, path: Option<PathBuf>| path.map(|path| absolute(key, path)).transpose();
    Ok(Tls { ca: file(ca_key, ca)?, cert: file(cert_key, cert)?, key: file(key_key, key)? })
}

fn etcd(config: EtcdConfig, node: &str) -> Result<Etcd, SettingsError> {
    if node.contains('/') {
        return refuse("node", format!("{node:?} has a slash, which keys of etcd are made of"));
    }
    let urls = config.endpoints.iter().map(|text| url("source.etcd.endpoints", text));
    let endpoints = urls.collect::<Result<Vec<_>, _>>()?;
    if endpoints.is_empty() {
        return refuse("source.etcd.endpoints", "at least one server is expected: [\"https://192.0.2.9:2379\"]");
    }
    if config.subnets.is_empty() {
        return refuse(
            "source.etcd.subnets",
            "at least one is expected: [{\"subnet\": \"10.42.0.0/16\", \"part\": 24}]",
        );
    }
    let pools = config.subnets.iter().map(pool).collect::<Result<Vec<_>, _>>()?;
    let ttl = config.ttl.unwrap_or(TTL);
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        return refuse("source.etcd.ttl", format!("{ttl} is out of range: {TTL_MIN} to {TTL_MAX} seconds"));
    }
    let addresses = config.addresses.unwrap_or_default();
    let addresses = addresses.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
    let names = config.names.map(|name| name.parse::<NetworkName>());
    let names = names.transpose().or_else(|error| refuse("source.etcd.names", error.to_string()))?;
    let is_secure = endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
    let prefix = config.prefix.unwrap_or_else(|| "/cni-noded".to_owned());
    let keys = ["source.etcd.ca", "source.etcd.cert", "source.etcd.key"];
    Ok(Etcd {
        node: node.to_owned(),
        endpoints,
        prefix: prefix.trim_end_matches('/').to_owned(),
        pools,
        ttl,
        addresses,
        state: absolute("source.etcd.state", config.state.unwrap_or_else(|| PathBuf::from("/var/lib/cni/noded")))?,
        tls: tls(keys, [config.ca, config.cert, config.key], is_secure)?,
        names,
    })
}

fn pool(config: &PoolConfig) -> Result<Pool, SettingsError> {
    let subnet = node::subnet(&config.subnet).or_else(|what| refuse("source.etcd.subnets", what))?;
    // A part has at least a gateway and a container; and there are no more parts than can be looked through.
    let most = if subnet.is_ipv4() { 29 } else { 120 };
    let range = subnet.prefix()..=most.min(subnet.prefix().saturating_add(PARTS));
    if !range.contains(&config.part) {
        let (first, last) = (range.start(), range.end());
        return refuse(
            "source.etcd.subnets",
            format!("part {} of {subnet} is out of range: {first} to {last}", config.part),
        );
    }
    Ok(Pool { subnet, part: config.part })
}

fn address(text: &str) -> Result<IpAddr, SettingsError> {
    let Ok(address) = text.parse() else {
        return refuse("source.etcd.addresses", format!("{text:?} is no IPv4 or IPv6 address"));
    };
    match unusable_host(address) {
        Some(why) => refuse("source.etcd.addresses", format!("{text} is no address of a node: {why}")),
        None => Ok(address),
    }
}

/// As it is in a pod, unless the configuration says otherwise.
fn kubernetes(config: KubernetesConfig) -> Result<Kubernetes, SettingsError> {
    let account = Path::new("/var/run/secrets/kubernetes.io/serviceaccount");
    let (server, is_pod) = match &config.server {
        Some(server) => (url("source.kubernetes.server", server)?, false),
        None => (in_cluster()?, true),
    };
    let of_pod = |given: Option<PathBuf>, name: &str| given.or_else(|| is_pod.then(|| account.join(name)));
    let (ca, token) = (of_pod(config.ca, "ca.crt"), of_pod(config.token, "token"));
    let keys = ["source.kubernetes.ca", "source.kubernetes.cert", "source.kubernetes.key"];
    let tls = tls(keys, [ca, config.cert, config.key], server.starts_with("https:"))?;
    let token = token.map(|path| absolute("source.kubernetes.token", path)).transpose()?;
    Ok(Kubernetes { server, token, tls })
}

/// The URL that every pod's environment has. An IPv6 address is in brackets in a URL.
fn in_cluster() -> Result<String, SettingsError> {
    let (host, port) = (std::env::var("KUBERNETES_SERVICE_HOST"), std::env::var("KUBERNETES_SERVICE_PORT"));
    match (host, port) {
        (Ok(host), Ok(port)) if host.contains(':') => Ok(format!("https://[{host}]:{port}")),
        (Ok(host), Ok(port)) => Ok(format!("https://{host}:{port}")),
        _ => refuse("source.kubernetes.server", "it is expected outside of a pod: \"https://192.0.2.9:6443\""),
    }
}

fn backend(config: BackendConfig, network: Option<&Network>, pools: &[IpNetwork]) -> Result<Backend, SettingsError> {
    match config {
        BackendConfig::HostGw(HostGwConfig { protocol: number }) => {
            Ok(Backend::HostGw { protocol: protocol("backend.host-gw.protocol", number)? })
        }
        BackendConfig::Vxlan(config) => vxlan(&config).map(Backend::Vxlan),
        BackendConfig::Bridge(config) => bridge(config, network, pools).map(Backend::Bridge),
    }
}

fn protocol(key: &'static str, number: Option<u8>) -> Result<u8, SettingsError> {
    match number.unwrap_or(PROTOCOL) {
        number @ 0..PROTOCOL_MIN => {
            refuse(key, format!("{number} belongs to the kernel or to an administrator: {PROTOCOL_MIN} to 255"))
        }
        number => Ok(number),
    }
}

fn underlay(key: &'static str, text: Option<&str>) -> Result<Option<Family>, SettingsError> {
    match text {
        None => Ok(None),
        Some("ipv4") => Ok(Some(Family::V4)),
        Some("ipv6") => Ok(Some(Family::V6)),
        Some(other) => refuse(key, format!("{other:?} is neither \"ipv4\" nor \"ipv6\"")),
    }
}

fn vxlan(config: &VxlanConfig) -> Result<Vxlan, SettingsError> {
    let vni = config.vni.unwrap_or(1);
    if !(1..=VxLan::VNI_MAX).contains(&vni) {
        return refuse("backend.vxlan.vni", format!("{vni} is out of range: 1 to {}", VxLan::VNI_MAX));
    }
    let port = config.port.unwrap_or(VxLan::PORT);
    if port == 0 {
        return refuse(
            "backend.vxlan.port",
            format!("0 is out of range: 1 to 65535; the registered port is {}", VxLan::PORT),
        );
    }
    if let Some(mtu) = config.mtu
        && !(MTU_MIN..=65_535).contains(&mtu)
    {
        return refuse("backend.vxlan.mtu", format!("{mtu} is out of range: {MTU_MIN} to 65535"));
    }
    Ok(Vxlan {
        vni,
        port,
        mtu: config.mtu,
        underlay: underlay("backend.vxlan.underlay", config.underlay.as_deref())?,
        protocol: protocol("backend.vxlan.protocol", config.protocol)?,
    })
}

fn bridge(config: BridgeConfig, network: Option<&Network>, pools: &[IpNetwork]) -> Result<Bridge, SettingsError> {
    let name = network.and_then(|network| network.template.get("name")).and_then(Value::as_str);
    let peers = match (config.peers, name) {
        (Some(path), _) => absolute("backend.bridge.peers", path)?,
        (None, Some(name)) => Path::new("/etc/cni/peers").join(name),
        (None, None) => {
            return refuse("backend.bridge.peers", "it is expected where there is no `network` with a name");
        }
    };
    let subnets = config.subnets.unwrap_or_default();
    let parsed = subnets.iter().map(|text| node::subnet(text)).collect::<Result<Vec<_>, _>>();
    let mut subnets = parsed.or_else(|what| refuse("backend.bridge.subnets", what))?;
    if subnets.is_empty() {
        subnets = pools.to_vec();
    }
    if network.is_some() && subnets.is_empty() {
        return refuse(
            "backend.bridge.subnets",
            "the whole subnets are expected, of which each node has a part: [\"10.42.0.0/16\"]",
        );
    }
    let plugins = network.and_then(|network| network.template.get("plugins")).and_then(Value::as_array);
    let vxlan = plugins.into_iter().flatten().find(|plugin| plugin.get("type").is_some_and(|kind| kind == "vxlan"));
    let vni =
        vxlan.and_then(|plugin| plugin.get("vni")).and_then(Value::as_u64).and_then(|vni| u32::try_from(vni).ok());
    Ok(Bridge { peers, subnets, vni, underlay: underlay("backend.bridge.underlay", config.underlay.as_deref())? })
}

fn network(config: NetworkConfig) -> Result<Network, SettingsError> {
    let file = absolute("network.file", config.file)?;
    let (Some(directory), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        return refuse("network.file", format!("{file:?} is no path of a file"));
    };
    let template = match config.template {
        Template::Inline(template) => template.into_iter().collect(),
        Template::Path(path) => template(&absolute("network.template", path)?)?,
    };
    Ok(Network { directory: directory.to_owned(), file: name.to_owned(), template })
}

fn template(path: &Path) -> Result<Value, SettingsError> {
    let content = match state::read_config(path, TEMPLATE_MAX) {
        Ok(content) => content,
        Err(error) => return refuse("network.template", format!("cannot read {}: {error}", path.display())),
    };
    serde_json::from_slice(&content).or_else(|error| refuse("network.template", format!("{}: {error}", path.display())))
}

/// Of which IP version the packets between nodes are: as configured, else that of the node's first address.
pub fn underlay_of(configured: Option<Family>, addresses: &[IpAddr]) -> Option<Family> {
    configured.or_else(|| addresses.first().map(|address| Family::of(*address)))
}
