//! What comments of [`cni_plugin::Owner::comment`] say of an element's owner.

/// The holder that a comment of [`cni_plugin::Owner::comment`] names, in the words of a message.
pub(super) fn holder(comment: &str) -> String {
    let field =
        |name: &str| comment.split(", ").find_map(|part| part.strip_prefix(name)).filter(|value| !value.is_empty());
    match (field("id: "), field("if: "), field("net: ")) {
        (Some(id), Some(ifname), Some(network)) => format!("container {id} ({ifname}) of network {network}"),
        (Some(id), Some(ifname), None) => format!("container {id} ({ifname})"),
        (Some(id), None, None) => format!("container {id}"),
        _ if comment.is_empty() => "somebody who left no comment on it".to_owned(),
        _ => format!("{comment:?}"),
    }
}

/// The container that a comment names, unless the name may have been cut.
pub(super) fn container(comment: &str) -> Option<&str> {
    let (id, rest) = comment.split_once(", id: ")?.1.split_once(", ")?;
    rest.starts_with("if: ").then_some(id)
}

/// True if both comments begin with the same owner's key.
pub(super) fn same_owner(one: &str, other: &str) -> bool {
    one.split(',').next() == other.split(',').next()
}

/// True if both comments name the same container, in full.
pub(super) fn same_container(one: &str, other: &str) -> bool {
    container(one).is_some_and(|id| container(other) == Some(id))
}

#[cfg(test)]
mod tests {
    use super::{container, holder};

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
        assert_eq!(holder(""), "somebody who left no comment on it");
    }
}
