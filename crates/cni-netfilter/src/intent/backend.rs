//! The backends, and what they are used for.

use std::fmt;

/// What carries the rules out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The `iptables` and `ip6tables` tools, one restore transaction per family.
    Iptables,
    /// nf_tables over netlink, in tables of our own; no process is started.
    Nftables,
}

/// What rules are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Masquerading what containers send.
    Masquerade,
    /// Published ports.
    Ports,
    /// Accepting what is forwarded from and to containers.
    Forwarding,
}

/// A backend that doesn't exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: unknown backend {value:?}; {key} is \"iptables\" or \"nftables\"")]
pub struct UnknownBackend {
    /// The key of the configuration.
    pub key: &'static str,
    /// As configured.
    pub value: String,
}

impl Backend {
    /// The value of `key`, such as `ipMasqBackend`: `None` if it is empty, for then the node decides.
    pub fn configured(key: &'static str, value: &str) -> Result<Option<Self>, UnknownBackend> {
        match value {
            "" => Ok(None),
            "iptables" => Ok(Some(Self::Iptables)),
            "nftables" => Ok(Some(Self::Nftables)),
            other => Err(UnknownBackend { key, value: other.to_owned() }),
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Iptables => Self::Nftables,
            Self::Nftables => Self::Iptables,
        }
    }
}

/// As configurations name it.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

impl Purpose {
    /// The table of iptables that the rules are in.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Masquerade | Self::Ports => "nat",
            Self::Forwarding => "filter",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_exactly_these_names() {
        assert_eq!(Backend::configured("backend", ""), Ok(None));
        for backend in [Backend::Iptables, Backend::Nftables] {
            assert_eq!(Backend::configured("backend", &backend.to_string()), Ok(Some(backend)));
            assert_eq!(backend.other().other(), backend);
        }
        for bad in ["pf", "NFTABLES", " "] {
            let error = Backend::configured("ipMasqBackend", bad).unwrap_err().to_string();
            assert!(error.starts_with("ipMasqBackend: ") && error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
