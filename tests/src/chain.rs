//! A conflist as a runtime runs it: what libcni does between the plugins of a chain.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::netns::Netns;
use crate::run::{Call, Outcome};
use crate::sandbox::Sandbox;

/// A network configuration list.
#[derive(Debug, Clone)]
pub struct Chain {
    list: Value,
    path: Option<String>,
}

/// One container's interface on a chain's network.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`; empty for a DEL whose namespace is unknown.
    pub netns: String,
    /// `CNI_ARGS`, if any.
    pub args: Option<String>,
    /// The runtime's values by capability; each plugin gets those that it declares.
    pub capabilities: Map<String, Value>,
    /// The last plugin's result, as the runtime caches it.
    pub result: Option<Value>,
}

impl Attachment {
    /// `eth0` of container `id` in `netns`.
    pub fn new(id: &str, netns: &Netns) -> Self {
        Self {
            id: id.to_owned(),
            ifname: "eth0".to_owned(),
            netns: netns.path(),
            args: None,
            capabilities: Map::new(),
            result: None,
        }
    }

    /// With a value for a capability.
    #[must_use]
    pub fn with(mut self, capability: &str, value: Value) -> Self {
        self.capabilities.insert(capability.to_owned(), value);
        self
    }

    /// With published ports: `(host, container, protocol)`.
    #[must_use]
    pub fn publish(self, ports: &[(u16, u16, &str)]) -> Self {
        let entry = |(host, container, protocol): &(u16, u16, &str)| json!({"hostPort": host, "containerPort": container, "protocol": protocol});
        self.with("portMappings", ports.iter().map(entry).collect())
    }

    /// With another interface name.
    #[must_use]
    pub fn on(mut self, ifname: &str) -> Self {
        ifname.clone_into(&mut self.ifname);
        self
    }

    /// With a namespace that the runtime no longer knows.
    #[must_use]
    pub fn nowhere(mut self) -> Self {
        self.netns.clear();
        self
    }

    /// The address of a family in the result, without its prefix.
    pub fn ip(&self, v6: bool) -> String {
        let ips = self.result.as_ref().and_then(|r| r["ips"].as_array()).cloned().unwrap_or_default();
        let found = ips.iter().filter_map(|i| i["address"].as_str()).find(|a| a.contains(':') == v6);
        let found = found.unwrap_or_else(|| panic!("no address of that family in {:?}", self.result));
        found.split('/').next().unwrap_or_default().to_owned()
    }
}

impl Chain {
    /// A list of `plugins` under a name and version.
    pub fn new(name: &str, version: &str, plugins: &[Value]) -> Self {
        Self { list: json!({"cniVersion": version, "name": name, "plugins": plugins}), path: None }
    }

    /// A whole `.conflist`.
    pub fn parse(text: &str) -> Self {
        Self { list: serde_json::from_str(text).unwrap_or_else(|e| panic!("conflist: {e}")), path: None }
    }

    /// With another version than the file says.
    #[must_use]
    pub fn at_version(mut self, version: &str) -> Self {
        self.list["cniVersion"] = version.into();
        self
    }

    /// With a `PATH` for the plugins, to choose the tools that they find.
    #[must_use]
    pub fn with_path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        self.list["name"].as_str().unwrap_or_default()
    }

    /// The plugins' types, in order.
    pub fn types(&self) -> Vec<&str> {
        self.plugins().iter().filter_map(|p| p["type"].as_str()).collect()
    }

    /// The plugins' own objects, in order.
    pub fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().map_or(&[], Vec::as_slice)
    }

    /// ADD, plugin by plugin. On success the attachment's result is the last plugin's; a failure ends the chain, and
    /// cleaning up is the caller's as it is the runtime's.
    ///
    /// # Errors
    /// The failed plugin's outcome.
    pub fn try_add(&self, sandbox: &Sandbox, to: &mut Attachment) -> Result<Value, Outcome> {
        let mut previous = None;
        for plugin in self.plugins() {
            let outcome = self.call(sandbox, "ADD", plugin, to, previous.as_ref()).run();
            if !outcome.ok() {
                return Err(outcome);
            }
            previous = Some(outcome.document());
        }
        to.result.clone_from(&previous);
        Ok(previous.unwrap_or_default())
    }

    /// ADD that has to succeed.
    #[track_caller]
    pub fn add(&self, sandbox: &Sandbox, to: &mut Attachment) -> Value {
        self.try_add(sandbox, to).unwrap_or_else(|outcome| panic!("{outcome}"))
    }

    /// A new container `id`, attached.
    #[track_caller]
    pub fn attached(&self, sandbox: &Sandbox, id: &str) -> (Netns, Attachment) {
        let ns = sandbox.container(id);
        let mut at = Attachment::new(id, &ns);
        self.add(sandbox, &mut at);
        (ns, at)
    }

    /// CHECK, plugin by plugin, until one complains; its outcome, or the last one's.
    pub fn check(&self, sandbox: &Sandbox, of: &Attachment) -> Outcome {
        let mut outcomes = self.plugins().iter().map(|p| self.call(sandbox, "CHECK", p, of, of.result.as_ref()).run());
        first_failure(&mut outcomes)
    }

    /// DEL in reverse order until one fails; its outcome, or the last one's.
    pub fn try_del(&self, sandbox: &Sandbox, of: &Attachment) -> Outcome {
        let passes_result = !matches!(self.version(), "0.1.0" | "0.2.0" | "0.3.0" | "0.3.1");
        let result = of.result.as_ref().filter(|_| passes_result);
        let mut outcomes = self.plugins().iter().rev().map(|p| self.call(sandbox, "DEL", p, of, result).run());
        first_failure(&mut outcomes)
    }

    /// DEL that has to succeed, silently.
    #[track_caller]
    pub fn del(&self, sandbox: &Sandbox, of: &Attachment) {
        self.try_del(sandbox, of).silent();
    }

    /// GC: the attachments that are still valid, as `(container, interface)`.
    pub fn gc(&self, sandbox: &Sandbox, valid: &[(&str, &str)]) -> Outcome {
        let list: Value = valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname})).collect();
        first_failure(&mut self.gc_calls(sandbox, &list).map(|call| call.run()))
    }

    /// The calls of GC, in order; `valid` is the list as the configuration has it.
    pub fn gc_calls(&self, sandbox: &Sandbox, valid: &Value) -> impl Iterator<Item = Call> {
        self.plugins().iter().map(|plugin| {
            let mut conf = self.injected(plugin);
            conf["cni.dev/valid-attachments"] = valid.clone();
            conf["cni.dev/attachments"] = valid.clone();
            self.named(sandbox, plugin, "GC").conf(&conf)
        })
    }

    /// STATUS, plugin by plugin, until one complains.
    pub fn status(&self, sandbox: &Sandbox) -> Outcome {
        first_failure(&mut self.status_calls(sandbox).map(|call| call.run()))
    }

    /// The calls of STATUS, in order.
    pub fn status_calls(&self, sandbox: &Sandbox) -> impl Iterator<Item = Call> {
        self.plugins().iter().map(|p| self.named(sandbox, p, "STATUS").conf(&self.injected(p)))
    }

    /// The list's version.
    pub fn version(&self) -> &str {
        self.list["cniVersion"].as_str().unwrap_or("0.1.0")
    }

    fn named(&self, sandbox: &Sandbox, plugin: &Value, verb: &str) -> Call {
        let call = sandbox.plugin(plugin["type"].as_str().expect("a plugin's type"), verb);
        self.path.iter().fold(call, |call, path| call.env("PATH", path))
    }

    /// The plugin's own object with the list's name and version.
    fn injected(&self, plugin: &Value) -> Value {
        let mut conf = plugin.clone();
        conf["name"] = self.list["name"].clone();
        conf["cniVersion"] = self.version().into();
        conf
    }

    /// One call of a plugin of the chain, ready to run.
    pub fn call(&self, sandbox: &Sandbox, verb: &str, plugin: &Value, to: &Attachment, prev: Option<&Value>) -> Call {
        let mut conf = self.injected(plugin);
        if let Some(previous) = prev {
            conf["prevResult"] = previous.clone();
        }
        let declared = |name: &&String| plugin["capabilities"][name.as_str()] == true;
        let runtime: BTreeMap<_, _> = to.capabilities.iter().filter(|(name, _)| declared(name)).collect();
        if !runtime.is_empty() {
            conf["runtimeConfig"] = json!(runtime);
        }
        let call = self.named(sandbox, plugin, verb).names(&to.id, &to.ifname).env("CNI_NETNS", &to.netns);
        to.args.iter().fold(call, |call, args| call.env("CNI_ARGS", args)).conf(&conf)
    }
}

fn first_failure(outcomes: &mut dyn Iterator<Item = Outcome>) -> Outcome {
    let mut last = None;
    for outcome in outcomes {
        let ok = outcome.ok();
        last = Some(outcome);
        if !ok {
            break;
        }
    }
    last.expect("a chain has plugins")
}
