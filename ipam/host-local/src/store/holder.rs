//! What a reservation's file says: who holds the address.

use std::fmt;

use cni_plugin::{ContainerId, IfName, Owner};

/// Between container ID and interface name; the Go plugin writes and wants exactly this.
const SEPARATOR: &str = "\r\n";

/// The holder of an address, out of the content of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An attachment: ID, carriage return, line feed, interface name.
    Attachment(ContainerId, IfName),
    /// A container with any interface: what plugins before 0.8 wrote.
    Container(ContainerId),
    /// Text that no plugin wrote: an administrator's note, who wants the address left alone.
    Note(String),
}

impl Holder {
    /// Reads a file's content. `None` is no reservation: nothing was written, or a write broke off at the separator, or
    /// a power cut left zeros where the text should be.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let blank = content.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0);
        if blank || content.contains(&0) {
            return None;
        }
        let text = String::from_utf8_lossy(content);
        let trimmed = text.trim();
        if let Ok(id) = trimmed.parse() {
            // An ID that ends in a carriage return was going to be followed by an interface name.
            return (!text.trim_start().strip_prefix(trimmed).is_some_and(|rest| rest.starts_with('\r')))
                .then_some(Self::Container(id));
        }
        match trimmed.split_once(SEPARATOR).map(|(id, ifname)| (id.parse(), ifname.parse())) {
            Some((Ok(id), Ok(ifname))) => Some(Self::Attachment(id, ifname)),
            _ => Some(Self::Note(trimmed.chars().take(80).collect())),
        }
    }

    /// The holder that `owner` is, and the content of its reservations.
    pub(crate) fn of(owner: &Owner) -> (Self, String) {
        let content = format!("{}{SEPARATOR}{}", owner.container_id, owner.ifname);
        (Self::Attachment(owner.container_id.clone(), owner.ifname.clone()), content)
    }

    /// What the index knows the holder by, if it is one that something can be released for.
    pub(crate) fn key(&self) -> Option<String> {
        match self {
            Self::Attachment(id, ifname) => Some(format!("{id}{SEPARATOR}{ifname}")),
            Self::Container(id) => Some(id.to_string()),
            Self::Note(_) => None,
        }
    }

    /// True if it is `owner`'s, interface and all.
    pub(crate) fn is(&self, owner: &Owner) -> bool {
        matches!(self, Self::Attachment(id, ifname) if *id == owner.container_id && *ifname == owner.ifname)
    }

    /// True if it names `owner`'s container without an interface.
    pub(crate) fn is_container_of(&self, owner: &Owner) -> bool {
        matches!(self, Self::Container(id) if *id == owner.container_id)
    }
}

/// As messages name it.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment(id, ifname) => write!(f, "container {id} ({ifname})"),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Note(text) => write!(f, "a file that says {text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_no_reservation() {
        for content in ["", " ", "\r\n", "\0\0\0\0", "c1\r", "c1\r\n", "c1\0\0\0\0"] {
            assert_eq!(Holder::parse(content.as_bytes()), None, "{content:?}");
        }
    }

    #[test]
    fn holders_are_compared_as_the_go_plugin_does() {
        let attachment = Holder::Attachment("c1".parse().unwrap(), "eth0".parse().unwrap());
        assert_eq!(Holder::parse(b"c1\r\neth0"), Some(attachment.clone()));
        assert_eq!(Holder::parse(b" c1\r\neth0\n"), Some(attachment));
        assert_eq!(Holder::parse(b"c1"), Some(Holder::Container("c1".parse().unwrap())));
        assert_eq!(Holder::parse(b"c1\n"), Some(Holder::Container("c1".parse().unwrap())));
        // No carriage return: the Go plugin doesn't release it either.
        assert_eq!(Holder::parse(b"c1\neth0"), Some(Holder::Note("c1\neth0".into())));
        assert_eq!(Holder::parse(b"for the printer"), Some(Holder::Note("for the printer".into())));
    }
}
