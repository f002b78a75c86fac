//! What a plugin is: a configuration and the verbs.

use std::path::PathBuf;

use crate::delegation::Delegates;
use crate::delegation::ipam::Ipam;
use crate::process::undo::Undo;
use crate::protocol::args::CniArgs;
use crate::protocol::error::CniError;
use crate::protocol::json::duplicate;
use crate::protocol::names::NetworkName;
use crate::protocol::owner::Owner;
use crate::protocol::result::CniResult;
use crate::protocol::version::SpecVersion;

/// The release of the Go plugins whose keys and behaviour our plugins have. nerdctl leaves out `"ingressPolicy": "isolated"`
/// where `firewall` prints less than v1.7.1.
pub const REFERENCE_RELEASE: &str = "v1.9.1";

/// A CNI plugin: a configuration and five verbs. [`crate::main`] reads the call, checks all that the protocol asks for,
/// and calls one of the verbs.
///
/// No verb has a default: a plugin with nothing to check or collect has a function that says why.
#[derive(Debug)]
pub struct Plugin<C> {
    /// The name of the executable, for the text that it prints about itself.
    pub name: &'static str,
    /// What the first line of that text ends in: a release, as `v1.9.1`. nerdctl reads a semantic version there, and installers
    /// compare the line with the one that they want.
    pub release: &'static str,
    /// The versions of the specification that the plugin speaks.
    pub versions: &'static [SpecVersion],
    /// Attaches the container. Every effect pushes its reverse to the undo, which is run if this returns an error or
    /// the result can't be delivered to the runtime.
    pub add: fn(&Request<C>, &Attachment, &mut Undo) -> Result<CniResult, CniError>,
    /// Detaches the container: removes what the owner has, and succeeds if that is nothing. Must not need the
    /// namespace, the previous result or a complete configuration.
    pub del: fn(&Request<C>, &Detachment) -> Result<(), CniError>,
    /// Fails, naming each difference, unless everything that ADD made is there as it made it.
    pub check: fn(&Request<C>, &Attachment) -> Result<(), CniError>,
    /// Removes what belongs to owners of the request's network that are not among these, the valid ones.
    pub gc: fn(&Request<C>, &[Owner]) -> Result<(), CniError>,
    /// Fails if an ADD with this configuration would fail now.
    pub status: fn(&Request<C>) -> Result<(), CniError>,
}

/// What every verb gets.
///
/// `C` is the plugin's own keys of the network configuration, decoded by [`crate::protocol::json::decode`]: they match in any letter
/// case.
#[derive(Debug)]
pub struct Request<C> {
    /// The network's name.
    pub network: NetworkName,
    /// The configuration's version, in which the result is written.
    pub version: SpecVersion,
    /// The plugin's own keys.
    pub config: C,
    /// The result of the plugins before this one (ADD), or of the whole chain (DEL, CHECK).
    pub prev_result: Option<CniResult>,
    /// The other plugins that this one may call.
    pub delegates: Delegates,
}

impl<C> Request<C> {
    /// The previous result, for a plugin that needs one.
    pub fn require_prev_result(&self) -> Result<&CniResult, CniError> {
        self.prev_result.as_ref().ok_or_else(|| {
            CniError::plugin("missing prevResult: this plugin must be called as a chained plugin, after another one")
        })
    }

    /// The result of ADD, which CHECK compares with.
    pub fn require_result_of_add(&self) -> Result<&CniResult, CniError> {
        self.prev_result
            .as_ref()
            .ok_or_else(|| CniError::plugin("Required prevResult missing: CHECK compares with the result of ADD"))
    }

    /// The result of a plugin that makes an interface: its own, and behind it the previous one. Before 0.3.0 a result has room
    /// for one address a family, and that is its own.
    pub fn with_prev_result(&self, own: CniResult) -> CniResult {
        match &self.prev_result {
            Some(previous) if self.version >= SpecVersion::V0_3_0 => own.followed_by(previous),
            _ => own,
        }
    }

    /// An interface's MTU as a result of this version reports it: 0, which is left out, before 1.1.0.
    pub fn mtu_reported(&self, mtu: u32) -> u32 {
        if self.version >= SpecVersion::V1_1_0 { mtu } else { 0 }
    }

    /// The first key that stands twice in the object at `path` of the configuration: see `duplicate::key`.
    pub fn duplicate_key(&self, path: &[&str]) -> Option<String> {
        duplicate::key(self.delegates.stdin(), path)
    }

    /// The IPAM plugin of this type, which gets the environment and the configuration of this call.
    pub fn ipam(&self, plugin_type: &str) -> Ipam {
        Ipam::new(&self.delegates, plugin_type, self.version)
    }
}

/// What ADD and CHECK work on.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The owner of everything that ADD creates.
    pub owner: Owner,
    /// The path of the container's network namespace, as the runtime gave it.
    pub netns: PathBuf,
    /// `CNI_ARGS`.
    pub args: CniArgs,
}

/// What DEL works on.
#[derive(Debug, Clone)]
pub struct Detachment {
    /// The owner of everything that ADD created.
    pub owner: Owner,
    /// The path of the container's network namespace, if the runtime still knows one. It may be gone.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: CniArgs,
}
