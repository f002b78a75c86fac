//! Ethernet addresses: those that we choose ourselves, and whether a link's own was set or chosen by the kernel.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use cni_plugin::{MacAddr, sha512_hex};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::rand::{GetRandomFlags, getrandom};

use super::Link;

/// A random unicast address, locally administered (IEEE 802: second bit of the first byte set, first bit clear).
///
/// A link that is created with an address keeps it: the kernel notes who chose it (`NET_ADDR_SET`), and udev leaves such
/// a link's address alone.
///
/// # Errors
/// The system's, where it has no random numbers yet.
pub fn random_mac() -> io::Result<MacAddr> {
    let mut bytes = [0; 6];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(local_unicast(bytes))
}

/// An address for the link with this index of the calling thread's namespace: the same one in each call until the node
/// is booted again, so that two processes that set it at the same time set the same. No other link gets it, as with a random one.
///
/// # Errors
/// As [`random_mac`], which it is where the system has no name for a boot.
pub fn mac_of_link(index: u32) -> io::Result<MacAddr> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino());
    let (Ok(boot), Ok(namespace)) = (boot, namespace) else { return random_mac() };
    Ok(mac_of(&[&boot, &namespace.to_string(), &index.to_string()]))
}

/// An address that follows from a text, whose parts are joined: the same one for the same text. Unicast and locally
/// administered, as a random one.
pub fn mac_of(text: &[&str]) -> MacAddr {
    let digits = sha512_hex(text, 12);
    let byte = |n: usize| u8::from_str_radix(digits.get(2 * n..2 * n + 2).unwrap_or_default(), 16).unwrap_or_default();
    local_unicast([0, 1, 2, 3, 4, 5].map(byte))
}

fn local_unicast(mut bytes: [u8; 6]) -> MacAddr {
    bytes[0] = (bytes[0] | 0x02) & 0xfe;
    MacAddr(bytes)
}

/// Why no interface can have this address (`is_valid_ether_addr` in `include/linux/etherdevice.h`); `None` if one can.
pub fn unusable_mac(mac: MacAddr) -> Option<&'static str> {
    match mac.0 {
        [0, 0, 0, 0, 0, 0] => Some("it is all zeros"),
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Some("it is the broadcast address"),
        [first, ..] if first & 1 == 1 => Some("it is a multicast address, for its first byte is odd"),
        _ => None,
    }
}

/// The address was set after the link was created, or with it (`NET_ADDR_SET` in `include/uapi/linux/netdevice.h`).
const NET_ADDR_SET: &str = "3";

/// True if the hardware address of this link, which is one of the calling thread's namespace, was set by a user and not
/// chosen by the kernel. `None` if that can't be determined. Constant time.
///
/// Only sysfs has it, and each mount of sysfs shows one namespace: that of the process that mounted it.
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

/// A mount of sysfs for this namespace that is visible to this process only, and unmounted when it is closed.
fn mount() -> io::Result<OwnedFd> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_local_unicast_and_differ() {
        let (a, b) = (super::random_mac().unwrap(), super::random_mac().unwrap());
        assert_eq!(a.0[0] & 0x03, 0x02);
        assert_ne!(a, b);
    }

    #[test]
    fn a_link_has_one_address_and_another_link_another() {
        let of = |index| super::mac_of_link(index).unwrap();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert_eq!(super::unusable_mac(of(7)), None);
    }

    #[test]
    fn addresses_that_no_interface_can_have() {
        for (mac, named) in
            [("00:00:00:00:00:00", "zero"), ("ff:ff:ff:ff:ff:ff", "broadcast"), ("01:00:5e:00:00:01", "multicast")]
        {
            assert!(super::unusable_mac(mac.parse().unwrap()).unwrap().contains(named));
        }
        assert_eq!(super::unusable_mac("00:00:00:00:00:01".parse().unwrap()), None);
    }
}
