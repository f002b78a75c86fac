//! What comments of [`cni_plugin::Owner::comment`] say of an element's owner.

use std::collections::HashSet;

use cni_plugin::{NetworkName, Owner};

/// The owner's key, which begins the comment.
pub(crate) fn key(comment: &str) -> &str {
    comment.split(',').next().unwrap_or_default()
}

/// A test for comments of owners of `network` that are not `valid`.
pub(crate) fn is_stale(network: &NetworkName, valid: &[Owner]) -> impl Fn(&str) -> bool + use<> {
    let network = Owner::network_key(network);
    let valid: HashSet<String> = valid.iter().map(Owner::key).collect();
    move |comment| comment.starts_with(&network) && !valid.contains(key(comment))
}

/// The holder that a comment names, in the words of a message.
pub(crate) fn holder(comment: &str) -> String {
    let field =
        |name: &str| comment.split(", ").find_map(|part| part.strip_prefix(name)).filter(|value| !value.is_empty());
    match (field("id: "), field("if: "), field("net: ")) {
        (Some(id), Some(ifname), Some(network)) => format!("container {id} ({ifname}) of network {network}"),
        (Some(id), Some(ifname), None) => format!("container {id} ({ifname})"),
        (Some(id), None, None) => format!("container {id}"),
        _ if comment.is_empty() => "an owner that left no comment on it".to_owned(),
        _ => format!("{comment:?}"),
    }
}

/// The container that a comment names, unless the name may have been cut.
pub(crate) fn container(comment: &str) -> Option<&str> {
    let (id, rest) = comment.split_once(", id: ")?.1.split_once(", ")?;
    rest.starts_with("if: ").then_some(id)
}

/// The comment of an owner, with the name of what it shares behind the key, where it is never cut.
pub(crate) fn with_share(comment: &str, name: &str) -> String {
    let key = key(comment);
    let mut text = format!("{key}, share: {name}{}", comment.get(key.len()..).unwrap_or_default());
    while text.len() > Owner::COMMENT_MAX {
        text.pop();
    }
    text
}

/// The name that [`with_share`] has put into a comment.
pub(crate) fn share_name(comment: &str) -> Option<&str> {
    comment.split(", ").nth(1)?.strip_prefix("share: ")
}

/// True if both comments begin with the same owner's key.
pub(crate) fn same_owner(one: &str, other: &str) -> bool {
    key(one) == key(other)
}

/// True if both comments name the same container, in full.
pub(crate) fn same_container(one: &str, other: &str) -> bool {
    container(one).is_some_and(|id| container(other) == Some(id))
}

#[cfg(test)]
mod tests {
    use super::{container, holder, key, share_name, with_share};

    #[test]
    fn a_comment_contains_what_is_shared() {
        let comment = with_share("k, id: c1, if: eth0, net: n", "web");
        assert_eq!(comment, "k, share: web, id: c1, if: eth0, net: n");
        assert_eq!((share_name(&comment), key(&comment)), (Some("web"), "k"));
        assert_eq!(holder(&comment), "container c1 (eth0) of network n");
        assert_eq!(share_name("k, id: share: x, if: eth0"), None);
        let long = with_share(&format!("k, id: {}", "f".repeat(200)), &"n".repeat(64));
        assert_eq!((long.len(), share_name(&long)), (128, Some("n".repeat(64).as_str())));
    }

    #[test]
    fn a_comment_names_its_container_unless_it_was_cut() {
        assert_eq!(container("k, id: c1, if: eth0, net: n"), Some("c1"));
        assert_eq!(container("k, id: c1, if: e"), Some("c1"));
        for cut in ["k, id: c1", "k, id: c1, i", "by hand", ""] {
            assert_eq!(container(cut), None, "{cut}");
        }
    }

    #[test]
    fn a_comment_names_its_holder() {
        assert_eq!(holder("k, id: c1, if: eth0, net: n"), "container c1 (eth0) of network n");
        assert_eq!(holder("k, id: c1, if: eth0, ne"), "container c1 (eth0)");
        assert_eq!(holder("by hand"), "\"by hand\"");
        assert_eq!(holder(""), "an owner that left no comment on it");
    }
}
