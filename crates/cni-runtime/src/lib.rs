//! The runtime's side of the CNI protocol: what libcni is for programs in Go.
//!
//! A [`NetworkList`] is a network's configuration; [`Networks`] finds it in a directory. A [`Runtime`] runs the list's plugins for an
//! [`Attachment`], one after the other, and keeps the result in a [`Cache`], in libcni's format and place, so that programs on
//! libcni can check and delete what this library added, and the other way round. Plugins get the environment and the stdin that libcni
//! gives them, byte for byte.
//!
//! ```no_run
//! use cni_runtime::{Attachment, Networks, Runtime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let networks = Networks::read(["/etc/cni/net.d"])?;
//! let list = networks.find("podman")?;
//! let runtime = Runtime::new(["/opt/cni/bin"]);
//!
//! let attachment = Attachment::new("c1".parse()?, "eth0".parse()?).in_namespace("/run/netns/c1");
//! let result = runtime.add(list, &attachment)?;
//! println!("{}", result.ips[0].address);
//!
//! runtime.check(list, &attachment)?;
//! runtime.del(list, &attachment)?;
//! # Ok(()) }
//! ```
//!
//! A capability's arguments reach those plugins of the list that declare the capability:
//!
//! ```
//! use cni_runtime::Attachment;
//! use serde_json::json;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
//! let attachment = Attachment::new("c1".parse()?, "eth0".parse()?).with_capability("portMappings", ports);
//! # assert_eq!(attachment.capability_args.len(), 1);
//! # Ok(()) }
//! ```
//!
//! Calls may come from several threads and processes at the same time; [`Runtime`] takes turns for one attachment.

mod attachment;
mod cache;
mod go_json;
mod list;
mod lock;
mod networks;
mod plugin;
mod result;
mod runtime;
mod version;

pub use attachment::Attachment;
pub use cache::{Cache, CacheEntry, CacheError, Reported};
pub use list::{ConfigError, NetworkList, PluginConfig};
pub use networks::{ConfigFile, Networks, NetworksError};
pub use plugin::{PluginError, Plugins};
pub use result::AddResult;
pub use runtime::{Runtime, RuntimeError, ValidAttachment};
pub use version::{CURRENT as NEWEST_VERSION, is_at_least};
