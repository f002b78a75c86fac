//! Finding the device on the node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cni_net::{Link, NetError, Netlink};

use crate::settings::{Selector, Settings};

const PCI: &str = "/sys/bus/pci/devices";
const AUXILIARY: &str = "/sys/bus/auxiliary/devices";
/// Drivers that give a PCI device to programs such as DPDK's: the kernel has no link for it.
const USERSPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// The longest name that isn't an alternative one (`IFNAMSIZ`, less the zero at its end).
const NAME_MAX: usize = 15;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No link has the name.
    #[error("device: the node has no link {name:?}{held}")]
    NoName {
        /// As configured.
        name: String,
        /// Which container has it, if one does.
        held: String,
    },
    /// No link has the hardware address.
    #[error("hwaddr: the node has no link with the hardware address {mac}{held}")]
    NoMac {
        /// As configured.
        mac: String,
        /// Which container has it, if one does.
        held: String,
    },
    /// The device isn't there.
    #[error("{key}: there is no device {id:?} in {bus}")]
    NoDevice {
        /// The key.
        key: &'static str,
        /// As configured.
        id: String,
        /// Where it was looked for.
        bus: String,
    },
    /// The device is there, and no link of the node is its.
    #[error("{path:?} has no network device on the node: is it in a container, or is its driver missing?")]
    NoLink {
        /// The device's directory.
        path: PathBuf,
    },
}

/// What was found.
#[derive(Debug)]
pub enum Device {
    /// A link, to be moved.
    Link(Box<Link>),
    /// A PCI device that a driver of user space has: there is no link to be moved.
    Userspace,
}

/// Finds the device. `held_by` says in words which container has the link of this name or hardware address.
///
/// # Errors
/// [`DeviceError`].
pub fn find(
    settings: &Settings,
    host: &Netlink,
    held_by: impl FnOnce(&Selector) -> String,
) -> Result<Device, DeviceError> {
    if is_in_userspace(settings) {
        return Ok(Device::Userspace);
    }
    let link = match &settings.device {
        selector @ Selector::Name(name) => {
            by_name(host, name)?.ok_or_else(|| DeviceError::NoName { name: name.clone(), held: held_by(selector) })?
        }
        selector @ Selector::Mac(mac) => {
            // A VLAN or macvlan often has the address of the link below it, which is the device.
            let mut links: Vec<Link> = host.links()?.into_iter().filter(|link| link.mac == Some(*mac)).collect();
            links.sort_by_key(|link| link.kind.is_some());
            let none = || DeviceError::NoMac { mac: mac.to_string(), held: held_by(selector) };
            links.into_iter().next().ok_or_else(none)?
        }
        Selector::KernelPath(path) => below(host, path)?,
        Selector::Pci(id) => below(host, &on_bus("pciBusID", id, &[PCI])?)?,
        Selector::DeviceId(id) => below(host, &on_bus("runtimeConfig.deviceID", id, &[PCI, AUXILIARY])?)?,
    };
    Ok(Device::Link(Box::new(link)))
}

fn by_name(host: &Netlink, name: &str) -> Result<Option<Link>, NetError> {
    if name.len() > NAME_MAX { host.link_by_altname(name) } else { host.link_by_name(name) }
}

fn on_bus(key: &'static str, id: &str, buses: &[&str]) -> Result<PathBuf, DeviceError> {
    let found = buses.iter().map(|bus| Path::new(bus).join(id)).find(|path| path.exists());
    found.ok_or_else(|| DeviceError::NoDevice { key, id: id.to_owned(), bus: buses.join(" and ") })
}

/// The first link of the device with this directory; one on virtio's bus has its links a directory deeper.
fn below(host: &Netlink, path: &Path) -> Result<Link, DeviceError> {
    let children = names(path).unwrap_or_default();
    let virtio = children.iter().filter(|name| name.starts_with("virtio")).map(|name| path.join(name).join("net"));
    let names = [path.join("net")].into_iter().chain(virtio).filter_map(|dir| names(&dir).ok()).flatten();
    for name in names {
        // Where sysfs shows another namespace, the node may have no such link.
        if let Some(link) = host.link_by_name(&name)? {
            return Ok(link);
        }
    }
    Err(DeviceError::NoLink { path: path.to_owned() })
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// True if a driver of user space has the device: there is no link.
pub fn is_in_userspace(settings: &Settings) -> bool {
    let Some(id) = &settings.bus_id else { return false };
    let driver = fs::read_link(Path::new(PCI).join(id).join("driver")).ok();
    let name = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    name.is_some_and(|name| USERSPACE_DRIVERS.contains(&name))
}

/// True if the PCI bus has a device of this name.
pub fn is_on_pci(id: &str) -> bool {
    Path::new(PCI).join(id).exists()
}
