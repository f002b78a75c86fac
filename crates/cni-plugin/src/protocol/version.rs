//! The versions of the CNI specification.

use std::fmt;

/// A published version of the specification, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: adds CHECK
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0: adds GC and STATUS
    V1_1_0,
}

impl SpecVersion {
    /// Every version, oldest first.
    pub const ALL: &'static [Self] =
        &[Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest version that this library speaks.
    pub const NEWEST: Self = Self::V1_1_0;

    /// The version as the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version with exactly this text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.as_str() == text)
    }

    /// The shape of this version's results.
    pub(crate) fn shape(self) -> ResultShape {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => ResultShape::Ip4Ip6,
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => ResultShape::VersionedIps,
            Self::V1_0_0 | Self::V1_1_0 => ResultShape::Current,
        }
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The three shapes that results have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResultShape {
    /// 0.1.0 and 0.2.0: `ip4` and `ip6`, one address each.
    Ip4Ip6,
    /// 0.3.0 to 0.4.0: lists, and each address says its version.
    VersionedIps,
    /// From 1.0.0.
    Current,
}
