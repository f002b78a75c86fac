//! The key `mtu` of a configuration.

use cni_net::{IPV6_MIN_MTU, Link};
use cni_plugin::IpamConfig;
use ipnetwork::IpNetwork;

/// What the kernel takes for a veth or a bridge (`ETH_MIN_MTU` and `ETH_MAX_MTU` in `include/uapi/linux/if_ether.h`).
const MIN: i64 = 68;
const MAX: i64 = 65535;

/// Why an MTU is refused.
#[derive(Debug, thiserror::Error)]
pub enum MtuError {
    /// No link can have it.
    #[error("mtu: {0} is out of range: {MIN} to {MAX}, or 0 for the kernel's default")]
    Range(i64),
    /// Packets of that size don't fit through the link below.
    #[error("mtu: {mtu} is out of range: from 0, which means that of {name}, to {max}, the MTU of {name}")]
    AboveParent {
        /// As configured.
        mtu: i64,
        /// The link below.
        name: String,
        /// Its MTU.
        max: u32,
    },
    /// It is too small for an address.
    #[error(
        "mtu: {mtu} is too small for IPv6, which needs {IPV6_MIN_MTU} (RFC 8200): configure a larger one, or no IPv6 address \
         ({address})"
    )]
    TooSmallForIpv6 {
        /// As configured.
        mtu: u32,
        /// The address, or the subnet that it will be of.
        address: IpNetwork,
    },
}

/// The MTU that the key `mtu` asks for, refused if it is too small for the subnets and addresses that `ipam` names; `None`
/// leaves it to the kernel, as negative numbers do in the Go plugins.
///
/// # Errors
/// [`MtuError`].
pub fn configured(mtu: i64, ipam: &IpamConfig) -> Result<Option<u32>, MtuError> {
    let mtu = in_range(mtu)?;
    refuse_ipv6(mtu, ipam.networks())?;
    Ok(mtu)
}

/// As [`configured`], for a link on another one: that one's MTU is the largest possible, and that of a link for which none is
/// configured.
///
/// # Errors
/// [`MtuError`].
pub fn on_parent(mtu: i64, ipam: &IpamConfig, parent: &Link) -> Result<Option<u32>, MtuError> {
    if mtu < 0 || mtu > i64::from(parent.mtu) {
        return Err(MtuError::AboveParent { mtu, name: parent.name.clone(), max: parent.mtu });
    }
    let mtu = configured(mtu, ipam)?;
    refuse_ipv6(Some(mtu.unwrap_or(parent.mtu)), ipam.networks())?;
    Ok(mtu)
}

fn in_range(mtu: i64) -> Result<Option<u32>, MtuError> {
    match mtu {
        ..=0 => Ok(None),
        MIN..=MAX => Ok(u32::try_from(mtu).ok()),
        _ => Err(MtuError::Range(mtu)),
    }
}

/// Refuses IPv6 addresses on a link that is too small for them.
///
/// # Errors
/// [`MtuError::TooSmallForIpv6`].
pub fn refuse_ipv6(mtu: Option<u32>, addresses: impl IntoIterator<Item = IpNetwork>) -> Result<(), MtuError> {
    let Some(mtu) = mtu.filter(|mtu| *mtu < IPV6_MIN_MTU) else { return Ok(()) };
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
        let found = [-1, 0, 68, 65535].map(|mtu| in_range(mtu).unwrap());
        assert_eq!(found, [None, None, Some(68), Some(65535)]);
        for bad in [1, 67, 65536, i64::MAX] {
            let error = in_range(bad).unwrap_err().to_string();
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
