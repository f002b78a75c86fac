//! Ethernet addresses that we choose ourselves.

use std::io;

use cni_plugin::MacAddr;
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
    bytes[0] = (bytes[0] | 0x02) & 0xfe;
    Ok(MacAddr(bytes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_local_unicast_and_differ() {
        let (a, b) = (super::random_mac().unwrap(), super::random_mac().unwrap());
        assert_eq!(a.0[0] & 0x03, 0x02);
        assert_ne!(a, b);
    }
}
