//! What only sysfs tells of a link. Each mount of it shows one namespace: that of whoever mounted it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::Link;

/// Somebody has set the address (`NET_ADDR_SET` in `include/uapi/linux/netdevice.h`).
const NET_ADDR_SET: &str = "3";

/// True if somebody has set the hardware address of this link, which is one of the calling thread's namespace. `None`
/// if that can't be told. Constant time.
pub fn mac_was_set(link: &Link) -> Option<bool> {
    let assigned = |root: io::Result<OwnedFd>| addr_assign_type(&root.ok()?, link);
    let found = assigned(open(CWD, "/sys")).or_else(|| assigned(mount()));
    Some(found? == NET_ADDR_SET)
}

/// Where this sysfs shows another namespace it has no such link, or another one of that name.
fn addr_assign_type(root: &OwnedFd, link: &Link) -> Option<String> {
    let directory = open(root, &format!("class/net/{}", link.name)).ok()?;
    let is_the_link = attribute(&directory, "ifindex").ok()? == link.index.to_string()
        && attribute(&directory, "address").ok()? == link.mac?.to_string();
    if is_the_link { attribute(&directory, "addr_assign_type").ok() } else { None }
}

fn open(place: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    Ok(openat(place, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn attribute(directory: &OwnedFd, name: &str) -> io::Result<String> {
    let mut text = [0; 64];
    let file = openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel gives all of an attribute with one read.
    let length = File::from(file).read(&mut text)?;
    Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim_end().to_owned())
}

/// A mount of this namespace's that nobody else sees, and that goes when it is closed.
fn mount() -> io::Result<OwnedFd> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}
