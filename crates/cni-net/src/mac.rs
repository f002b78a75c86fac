//! Ethernet addresses that we choose ourselves.

use std::io;
use std::os::unix::fs::MetadataExt;

use cni_plugin::{MacAddr, sha512_hex};
use rustix::rand::{GetRandomFlags, getrandom};

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

/// An address for the link with this index of the calling thread's namespace: the same one whoever asks until the node
/// is booted again, so that two who give it to the link at the same moment agree. On no other link, as a random one.
///
/// # Errors
/// As [`random_mac`], which it is where the system has no name for a boot.
pub fn mac_of_link(index: u32) -> io::Result<MacAddr> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino());
    let (Ok(boot), Ok(namespace)) = (boot, namespace) else { return random_mac() };
    let digits = sha512_hex(&[&boot, &namespace.to_string(), &index.to_string()], 12);
    let byte = |n: usize| u8::from_str_radix(digits.get(2 * n..2 * n + 2).unwrap_or_default(), 16).unwrap_or_default();
    Ok(local_unicast([0, 1, 2, 3, 4, 5].map(byte)))
}

fn local_unicast(mut bytes: [u8; 6]) -> MacAddr {
    bytes[0] = (bytes[0] | 0x02) & 0xfe;
    MacAddr(bytes)
}

/// Why no interface can have this address (`is_valid_ether_addr` in `include/linux/etherdevice.h`); `None` if one can.
pub fn unusable(mac: MacAddr) -> Option<&'static str> {
    match mac.0 {
        [0, 0, 0, 0, 0, 0] => Some("it is all zeros"),
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Some("it is the broadcast address"),
        [first, ..] if first & 1 == 1 => Some("it is a multicast address, for its first byte is odd"),
        _ => None,
    }
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
        assert_eq!(super::unusable(of(7)), None);
    }

    #[test]
    fn addresses_that_no_interface_can_have() {
        for (mac, named) in
            [("00:00:00:00:00:00", "zero"), ("ff:ff:ff:ff:ff:ff", "broadcast"), ("01:00:5e:00:00:01", "multicast")]
        {
            assert!(super::unusable(mac.parse().unwrap()).unwrap().contains(named));
        }
        assert_eq!(super::unusable("00:00:00:00:00:01".parse().unwrap()), None);
    }
}
