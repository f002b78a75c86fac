//! What a runtime says of one attachment.

use std::path::PathBuf;

use cni_plugin::{ContainerId, IfName, NetworkName, Owner};
use serde_json::{Map, Value};

/// A container's interface, as the runtime describes it to the plugins.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`
    pub container_id: ContainerId,
    /// `CNI_IFNAME`
    pub ifname: IfName,
    /// `CNI_NETNS`; empty in a DEL after the namespace is gone.
    pub netns: PathBuf,
    /// `CNI_ARGS`, in this order.
    pub args: Vec<(String, String)>,
    /// The arguments of capabilities: each goes to those plugins as `runtimeConfig` whose configuration declares the capability.
    pub capability_args: Map<String, Value>,
}

impl Attachment {
    /// Without a namespace and arguments.
    pub fn new(container_id: ContainerId, ifname: IfName) -> Self {
        Self { container_id, ifname, netns: PathBuf::new(), args: Vec::new(), capability_args: Map::new() }
    }

    /// The same in this network namespace.
    #[must_use]
    pub fn in_namespace(self, netns: impl Into<PathBuf>) -> Self {
        Self { netns: netns.into(), ..self }
    }

    /// The same with one more argument in `CNI_ARGS`.
    #[must_use]
    pub fn with_arg(mut self, key: &str, value: &str) -> Self {
        self.args.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same with the arguments of a capability.
    #[must_use]
    pub fn with_capability(mut self, capability: &str, args: Value) -> Self {
        self.capability_args.insert(capability.to_owned(), args);
        self
    }

    /// As it is written on everything that plugins make for it in `network`.
    pub fn owner(&self, network: &NetworkName) -> Owner {
        Owner { network: network.clone(), container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// The arguments as `CNI_ARGS` has them.
    pub(crate) fn args_text(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    }
}
