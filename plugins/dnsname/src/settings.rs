//! The resolved configuration: contradictory options are refused here, and the verbs use nothing else.

use std::net::{IpAddr, SocketAddr};

use cni_netfilter::{Backend, UnknownBackend};
use cni_plugin::{CniArgs, NetworkName, Owner};

use crate::config::{Aliases, Config};
use crate::name::{BadName, Name};

/// The keys that name a container where none are configured: of Podman, CRI-O, containerd and nerdctl; of nerdctl's `--hostname`; of
/// Nomad, whose allocations of a group answer to one name.
const NAME_FROM: [&str; 3] = ["K8S_POD_NAME", "NERDCTL_CNI_DHCP_HOSTNAME", "NOMAD_GROUP_NAME"];
/// How much of a container's ID is one of its names, as `docker ps` and `podman ps` show it.
const SHORT_ID: usize = 12;
/// The port of a server without one.
const DNS_PORT: u16 = 53;
/// More names would not fit in an answer for the container's address.
const MOST_ALIASES: usize = 256;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A domain that is none.
    #[error("domainName: {0}")]
    Domain(BadName),
    /// An alias that is none.
    #[error("aliases[{0}]: {1}")]
    Alias(usize, BadName),
    /// Too many.
    #[error("aliases: {0} names: at most {MOST_ALIASES} are allowed")]
    TooMany(usize),
    /// A server that is none.
    #[error(
        "upstream[{0}]: {1:?} is no server: an address such as \"192.0.2.53\" or \"[2001:db8::53]:5353\" is expected"
    )]
    Upstream(usize, String),
    /// A question would come back for ever.
    #[error(
        "upstream[{0}]: {1} is a gateway of this network, where the resolver itself listens: name another server, or leave the key \
         out for those of the node"
    )]
    Loop(usize, IpAddr),
    /// A key of `CNI_ARGS` that there can't be.
    #[error("nameFrom[{0}]: {1:?} is no key of CNI_ARGS: a word without '=' and ';' is expected")]
    NameFrom(usize, String),
    /// A backend that doesn't exist.
    #[error(transparent)]
    Backend(#[from] UnknownBackend),
}

/// A configuration without contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The domain that names are also found in.
    pub domain: Option<Name>,
    /// The aliases.
    pub aliases: Vec<Name>,
    /// The keys of `CNI_ARGS` that name the container.
    pub name_from: Vec<String>,
    /// The servers for other names; none are those of the node.
    pub upstream: Option<Vec<SocketAddr>>,
    /// Whatever server is asked, the resolver answers.
    pub intercept: bool,
    /// The configured backend.
    pub backend: Option<Backend>,
}

impl Settings {
    /// Resolves the configuration of a network, and refuses what can't be carried out before anything is changed.
    pub fn resolve(config: &Config, network: &NetworkName) -> Result<Self, SettingsError> {
        let domain = Some(config.domain_name.as_str()).filter(|text| !text.is_empty()).map(Name::parse);
        Ok(Self {
            domain: domain.transpose().map_err(SettingsError::Domain)?,
            aliases: aliases(&config.runtime_config.aliases, network)?,
            name_from: name_from(config)?,
            upstream: config.upstream.as_ref().map(|list| upstream(list)).transpose()?,
            intercept: config.intercept,
            backend: Backend::configured("backend", &config.backend)?,
        })
    }

    /// Fails if one of the servers is a gateway of the network.
    pub fn refuse_loop(&self, gateways: &[IpAddr]) -> Result<(), SettingsError> {
        let servers = self.upstream.iter().flatten().map(SocketAddr::ip);
        match servers.enumerate().find(|(_, server)| gateways.contains(server)) {
            Some((index, server)) => Err(SettingsError::Loop(index, server)),
            None => Ok(()),
        }
    }

    /// The names of a container: that which the runtime gave it, its aliases and its short ID. A name of the runtime's that is none
    /// in DNS is left out, with a line on stderr: the container would not start for something that nobody chose.
    pub fn names(&self, owner: &Owner, args: &CniArgs) -> Vec<Name> {
        let given = self.name_from.iter().find_map(|key| args.value(key).filter(|value| !value.is_empty()));
        let given = given.and_then(|text| match Name::parse(text) {
            Ok(name) => Some(name),
            Err(error) => {
                eprintln!("the container is not found by the name that the runtime gave it: {error}");
                None
            }
        });
        let id = owner.container_id.as_str();
        let short = Name::parse(id.get(..SHORT_ID).unwrap_or(id)).ok();
        let mut names: Vec<Name> = Vec::new();
        for name in given.into_iter().chain(self.aliases.iter().cloned()).chain(short) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

fn aliases(configured: &Aliases, network: &NetworkName) -> Result<Vec<Name>, SettingsError> {
    let list = match configured {
        Aliases::List(list) => list.as_slice(),
        Aliases::ByNetwork(map) => map.get(network.as_str()).and_then(Option::as_deref).unwrap_or_default(),
    };
    if list.len() > MOST_ALIASES {
        return Err(SettingsError::TooMany(list.len()));
    }
    let name = |(index, text): (usize, &String)| Name::parse(text).map_err(|error| SettingsError::Alias(index, error));
    list.iter().enumerate().map(name).collect()
}

fn name_from(config: &Config) -> Result<Vec<String>, SettingsError> {
    let Some(keys) = &config.name_from else { return Ok(NAME_FROM.map(str::to_owned).to_vec()) };
    match keys.iter().position(|key| key.is_empty() || key.contains(['=', ';'])) {
        Some(index) => Err(SettingsError::NameFrom(index, keys[index].clone())),
        None => Ok(keys.clone()),
    }
}

fn upstream(list: &[String]) -> Result<Vec<SocketAddr>, SettingsError> {
    let server = |(index, text): (usize, &String)| {
        let with_port = text.parse::<SocketAddr>().ok();
        let server = with_port.or_else(|| Some(SocketAddr::new(text.parse().ok()?, DNS_PORT)));
        let is_usable =
            |server: &SocketAddr| server.port() != 0 && !server.ip().is_unspecified() && !server.ip().is_multicast();
        server.filter(is_usable).ok_or_else(|| SettingsError::Upstream(index, text.clone()))
    };
    list.iter().enumerate().map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn resolve(config: Value) -> Result<Settings, String> {
        let config: Config = cni_plugin::json::decode(config).map_err(|error| error.to_string())?;
        Settings::resolve(&config, &"net".parse().unwrap()).map_err(|error| error.to_string())
    }

    fn owner(id: &str) -> Owner {
        Owner { network: "net".parse().unwrap(), container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    #[test]
    fn aliases_are_a_list_or_a_map_by_network() {
        for aliases in [json!(["Db", "db2"]), json!({"net": ["db", "db2"], "other": ["x"]})] {
            let settings = resolve(json!({"runtimeConfig": {"aliases": aliases}})).unwrap();
            assert_eq!(settings.aliases.iter().map(Name::as_str).collect::<Vec<_>>(), ["db", "db2"]);
        }
        for none in [json!({"other": ["x"]}), json!({"net": null}), json!([]), json!(null)] {
            assert!(resolve(json!({"runtimeConfig": {"aliases": none}})).unwrap().aliases.is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (config, parts) in [
            (json!({"domainName": "a..b"}), &["domainName", "a..b"][..]),
            (json!({"runtimeConfig": {"aliases": ["ok", "not ok"]}}), &["aliases[1]", "not ok"]),
            (json!({"runtimeConfig": {"aliases": ["10.0.0.1"]}}), &["aliases[0]", "10.0.0.1"]),
            (json!({"runtimeConfig": {"aliases": vec!["a"; 257]}}), &["aliases", "257", "256"]),
            (json!({"upstream": ["1.1.1.1", "dns.example"]}), &["upstream[1]", "dns.example"]),
            (json!({"upstream": ["0.0.0.0"]}), &["upstream[0]", "0.0.0.0"]),
            (json!({"upstream": ["1.1.1.1:0"]}), &["upstream[0]"]),
            (json!({"nameFrom": ["A", "B=C"]}), &["nameFrom[1]", "B=C"]),
            (json!({"backend": "pf"}), &["backend", "pf"]),
            (json!({"intercept": "yes"}), &["intercept"]),
        ] {
            let refused = resolve(config).unwrap_err();
            assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
        }
    }

    #[test]
    fn a_server_may_have_a_port_and_may_not_be_the_gateway() {
        let settings = resolve(json!({"upstream": ["1.1.1.1", "[2001:db8::53]:5353", "10.0.0.1"]})).unwrap();
        let servers = settings.upstream.clone().unwrap();
        assert_eq!(servers[0], "1.1.1.1:53".parse().unwrap());
        assert_eq!(servers[1], "[2001:db8::53]:5353".parse().unwrap());
        assert!(settings.refuse_loop(&["10.0.0.2".parse().unwrap()]).is_ok());
        let refused = settings.refuse_loop(&["10.0.0.1".parse().unwrap()]).unwrap_err().to_string();
        assert!(refused.starts_with("upstream[2]: 10.0.0.1 is a gateway"), "{refused}");
        assert_eq!(resolve(json!({"upstream": []})).unwrap().upstream, Some(Vec::new()));
        assert_eq!(resolve(json!({})).unwrap().upstream, None);
    }

    #[test]
    fn a_container_has_its_name_its_aliases_and_its_short_id() {
        let settings = resolve(json!({"runtimeConfig": {"aliases": ["db", "web"]}})).unwrap();
        let names = |args: &str| {
            let names = settings.names(&owner("0123456789abcdef"), &CniArgs::new(args));
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("K8S_POD_NAME=Web"), ["web", "db", "0123456789ab"]);
        assert_eq!(names("IgnoreUnknown=1;NERDCTL_CNI_DHCP_HOSTNAME=n1"), ["n1", "db", "web", "0123456789ab"]);
        assert_eq!(names("K8S_POD_NAME=a/b"), ["db", "web", "0123456789ab"]);
        assert_eq!(settings.names(&owner("c1"), &CniArgs::new("")).len(), 3);
    }
}
