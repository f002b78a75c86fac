//! The error that a runtime gets (SPEC.md, "Error").

use serde::Serialize;

/// The error codes of the specification and of the Go skeleton.
pub mod code {
    /// The plugin doesn't speak the configuration's version.
    pub const VERSION: u32 = 1;
    /// A required environment variable is missing or malformed, or the verb is unknown.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading stdin or writing stdout failed.
    pub const IO: u32 = 5;
    /// Something could not be decoded: the configuration, a version.
    pub const DECODE: u32 = 6;
    /// The network configuration is not valid.
    pub const CONFIG: u32 = 7;
    /// `CNI_NETNS` is the namespace that the plugin itself runs in (Go's library; not in the spec's table).
    pub const OWN_NETNS: u32 = 8;
    /// STATUS: the plugin is not available, an ADD would fail.
    pub const UNAVAILABLE: u32 = 50;
    /// Everything else that a plugin may report: what the Go library calls an internal error.
    pub const PLUGIN: u32 = 999;
}

/// What goes to stdout when a verb fails.
///
/// Any [`std::error::Error`] becomes one with code 999 by `?`; its causes are appended to the message unless it has
/// them in already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// One of [`code`], or a delegate's own.
    pub code: u32,
    /// What failed, on what, and what to do about it.
    pub msg: String,
    /// More, for a reader; may be empty.
    pub details: String,
}

impl CniError {
    /// An error with this code and message, without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with these details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same error as STATUS reports it: code 50, an ADD would fail.
    #[must_use]
    pub fn unavailable(self) -> Self {
        Self { code: code::UNAVAILABLE, ..self }
    }

    /// An error of the plugin's own kind: code 999.
    pub fn plugin(msg: impl Into<String>) -> Self {
        Self::new(code::PLUGIN, msg)
    }

    pub(crate) fn to_json(&self, version: &str) -> Vec<u8> {
        crate::protocol::json::pretty(&Wire {
            cni_version: version,
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        })
    }
}

/// The message, then the details in brackets: for a log line.
impl std::fmt::Display for CniError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, " ({})", self.details) }
    }
}

impl<E: std::error::Error> From<E> for CniError {
    fn from(error: E) -> Self {
        let mut msg = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !msg.contains(&text) {
                msg = format!("{msg}: {text}");
            }
            cause = error.source();
        }
        Self::plugin(msg)
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_json_object_without_newline() {
        let error = CniError::new(7, "a < b").details("d");
        let text = String::from_utf8(error.to_json("1.1.0")).unwrap();
        assert_eq!(
            text,
            "{\n    \"cniVersion\": \"1.1.0\",\n    \"code\": 7,\n    \"msg\": \"a \\u003c b\",\n    \"details\": \"d\"\n}"
        );
    }

    #[test]
    fn causes_are_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open X")]
        struct Outer(#[source] std::io::Error);
        let inner = std::io::Error::other("no such thing");
        assert_eq!(CniError::from(Outer(inner)).msg, "cannot open X: no such thing");
    }
}
