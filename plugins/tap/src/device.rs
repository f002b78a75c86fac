//! Making the tap device, with the ioctls of /dev/net/tun: the kernel makes none over rtnetlink.
//!
//! Where SELinux guards the node, a device belongs to the context of the process that made it, and a virtual machine may only
//! open one of its own context. So with `selinuxContext` this executable starts itself once more in that context, to make
//! nothing but the device.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use cni_net::{NetNs, NetNsError};
use cni_plugin::{IfName, child};
use tokio_tun::TunBuilder;

/// What the kernel calls both tun and tap devices.
pub const KIND: &str = "tun";
/// The first argument of the executable where it is to make a device only.
const HELPER: &str = "make-device";
/// How long that may take.
const HELPER_LIMIT: Duration = Duration::from_secs(10);
/// It is there where SELinux is switched on.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// The context of the next program that this thread starts.
const NEXT_CONTEXT: &str = "/proc/thread-self/attr/exec";

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The container's namespace.
    #[error(transparent)]
    NetNs(#[from] NetNsError),
    /// The ioctls.
    #[error("cannot make tap device {name}: {why}{}", hint())]
    Make {
        /// Its name.
        name: String,
        /// The system's reason.
        why: String,
    },
    /// `selinuxContext`.
    #[error("selinuxContext: cannot start a program in the context {context:?}: {source}")]
    Context {
        /// As configured.
        context: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// The device that should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name.
    pub name: IfName,
    /// It can be opened several times, for a queue each.
    pub multi_queue: bool,
    /// The user that may open it.
    pub owner: Option<u32>,
    /// The group that may open it.
    pub group: Option<u32>,
}

/// True where SELinux is switched on; elsewhere contexts mean nothing.
pub fn has_selinux() -> bool {
    Path::new(SELINUX).exists()
}

/// Says whether the kernel makes tap devices.
pub fn is_supported() -> Result<(), DeviceError> {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    opened.map(drop).map_err(|error| DeviceError::Make { name: "/dev/net/tun".to_owned(), why: error.to_string() })
}

/// Makes the device in the namespace, down. In the SELinux context, if one is given and SELinux is switched on. Not idempotent.
pub fn make(spec: &TapSpec, namespace: &NetNs, context: Option<&str>) -> Result<(), DeviceError> {
    match context.filter(|_| has_selinux()) {
        Some(context) => namespace.run(|| make_in_context(spec, context))?,
        None => namespace.run(|| make_here(spec))?,
    }
}

fn make_here(spec: &TapSpec) -> Result<(), DeviceError> {
    let failed = |why: String| DeviceError::Make { name: spec.name.to_string(), why };
    // The device's file is registered with a runtime as soon as it is open.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    let _context = runtime.enter();
    let mut builder = TunBuilder::new().name(spec.name.as_str()).tap().persist();
    // With two it has IFF_MULTI_QUEUE; both are closed at once, and the device stays.
    if spec.multi_queue {
        builder = builder.queues(2);
    }
    // The kernel takes 32 bits; which sign they have doesn't matter.
    if let Some(owner) = spec.owner {
        builder = builder.owner(owner.cast_signed());
    }
    if let Some(group) = spec.group {
        builder = builder.group(group.cast_signed());
    }
    builder.build().map(drop).map_err(|error| failed(error.to_string()))
}

fn make_in_context(spec: &TapSpec, context: &str) -> Result<(), DeviceError> {
    let refused = |source| DeviceError::Context { context: context.to_owned(), source };
    fs::write(NEXT_CONTEXT, context).map_err(refused)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(HELPER).args(spec.to_args()).stdin(Stdio::null()).env_clear();
    let ended = child::run(command, HELPER_LIMIT);
    // Nothing else is started in it; an empty line takes it back.
    fs::write(NEXT_CONTEXT, "\n").map_err(refused)?;
    let output = ended.map_err(|error| refused(io::Error::other(error)))?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
}

/// What the executable does as its own helper, if it was started as that.
pub fn as_helper() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != HELPER {
        return None;
    }
    let made = TapSpec::from_args(args).ok_or_else(|| "unexpected arguments".to_owned());
    match made.and_then(|spec| make_here(&spec).map_err(|error| error.to_string())) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(why) => {
            eprintln!("{why}");
            Some(ExitCode::FAILURE)
        }
    }
}

impl TapSpec {
    fn to_args(&self) -> [String; 4] {
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        [self.name.to_string(), self.multi_queue.to_string(), id(self.owner), id(self.group)]
    }

    fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let id = |text: String| if text == "-" { Some(None) } else { text.parse().ok().map(Some) };
        let name = args.next()?.parse().ok()?;
        let multi_queue = args.next()?.parse().ok()?;
        Some(Self { name, multi_queue, owner: id(args.next()?)?, group: id(args.next()?)? })
    }
}

/// What is missing where the device's file is.
fn hint() -> &'static str {
    if Path::new("/dev/net/tun").exists() { "" } else { "; /dev/net/tun is missing: load the kernel module tun" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_understands_what_it_is_told() {
        for (owner, group) in [(None, None), (Some(0), Some(u32::MAX))] {
            let spec = TapSpec { name: "tap0".parse().unwrap(), multi_queue: owner.is_some(), owner, group };
            assert_eq!(TapSpec::from_args(spec.to_args().into_iter()), Some(spec));
        }
        assert_eq!(TapSpec::from_args(["tap0", "maybe", "-", "-"].map(str::to_owned).into_iter()), None);
    }
}
