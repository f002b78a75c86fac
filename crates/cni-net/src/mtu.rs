//! The MTU of a pair or a bridge, as configurations have it.

use ipnetwork::IpNetwork;

/// What the kernel takes for a veth or a bridge (`ETH_MIN_MTU` and `ETH_MAX_MTU` in `include/uapi/linux/if_ether.h`).
const MIN: i64 = 68;
const MAX: i64 = 65535;
/// The least that IPv6 works with (RFC 8200, section 5): a link with less has none at all (`ipv6_add_dev` in
/// `net/ipv6/addrconf.c`).
pub(crate) const IPV6_MIN: u32 = 1280;

/// Why an MTU is refused.
#[derive(Debug, thiserror::Error)]
pub enum MtuError {
    /// No link can have it.
    #[error("mtu: {0} is out of range: at least {MIN} and at most {MAX}, and 0 leaves it to the kernel")]
    Range(i64),
    /// It is too small for an address.
    #[error(
        "mtu: {mtu} is too small for IPv6, which needs {IPV6_MIN} (RFC 8200): choose a larger one, or no IPv6 address \
         ({address})"
    )]
    TooSmallForIpv6 {
        /// As configured.
        mtu: u32,
        /// The address, or the subnet that it will be of.
        address: IpNetwork,
    },
}

/// The MTU that the key `mtu` asks for; `None`, also for negative numbers, as the Go plugins have it, leaves it to the
/// kernel.
pub fn configured(mtu: i64) -> Result<Option<u32>, MtuError> {
    match mtu {
        ..=0 => Ok(None),
        MIN..=MAX => Ok(u32::try_from(mtu).ok()),
        _ => Err(MtuError::Range(mtu)),
    }
}

/// Refuses IPv6 addresses on a link that is too small for them.
pub fn refuse_ipv6(mtu: Option<u32>, addresses: impl IntoIterator<Item = IpNetwork>) -> Result<(), MtuError> {
    let Some(mtu) = mtu.filter(|mtu| *mtu < IPV6_MIN) else { return Ok(()) };
    match addresses.into_iter().find(IpNetwork::is_ipv6) {
        Some(address) => Err(MtuError::TooSmallForIpv6 { mtu, address }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_range_and_nothing_at_all() {
        let found = [-1, 0, 68, 65535].map(|mtu| configured(mtu).unwrap());
        assert_eq!(found, [None, None, Some(68), Some(65535)]);
        for bad in [1, 67, 65536, i64::MAX] {
            let error = configured(bad).unwrap_err().to_string();
            assert!(error.starts_with("mtu: ") && error.contains(&bad.to_string()), "{error}");
        }
    }

    #[test]
    fn ipv6_needs_1280() {
        let addresses: Vec<IpNetwork> = ["10.0.0.5/24", "fd00::5/64"].map(|address| address.parse().unwrap()).into();
        for (mtu, fits) in [(None, true), (Some(1280), true), (Some(1279), false)] {
            assert_eq!(refuse_ipv6(mtu, addresses.clone()).is_ok(), fits, "{mtu:?}");
        }
        assert!(refuse_ipv6(Some(68), addresses.into_iter().take(1)).is_ok());
    }
}
