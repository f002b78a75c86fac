//! The verbs of the protocol (SPEC.md, "CNI operations").

use std::fmt;

use crate::version::SpecVersion;

/// What the runtime asks for, from `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// Detach it; succeeds if there is nothing to do.
    Del,
    /// Compare what is there with what ADD made.
    Check,
    /// Remove what belongs to attachments that are no longer valid.
    Gc,
    /// Say whether an ADD could succeed now.
    Status,
    /// Say which versions are supported.
    Version,
}

impl Verb {
    /// The verb with exactly this text; verbs are upper case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|verb| verb.as_str() == text)
    }

    /// The verb as `CNI_COMMAND` carries it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version that has the verb, if not all have it.
    pub(crate) fn since(self) -> Option<SpecVersion> {
        match self {
            Self::Check => Some(SpecVersion::V0_4_0),
            Self::Gc | Self::Status => Some(SpecVersion::V1_1_0),
            Self::Add | Self::Del | Self::Version => None,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
