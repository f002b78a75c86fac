//! The content of a reservation's file: read as the Go plugin reads it, and never as another's.

use super::{Network, ip, owner};
use crate::store::Holder;

/// `data` is the content of 10.0.0.2, the first address that would be given.
pub(super) fn holds(data: &[u8]) {
    let holder = Holder::parse(data);
    reads_as_go_does(data, holder.as_ref());
    let network = Network::new();
    network.write("10.0.0.2", data);
    let victim = owner("victim", "eth0");

    // Held, it is given to no other owner; free, it isn't lost.
    let free = holder.is_none();
    let given = network.add(&owner("first", "eth0")).unwrap();
    assert_eq!(given, ip(if free { 2 } else { 3 }));
    if free {
        assert_eq!(network.files()[&given], b"first\r\neth0");
        return;
    }
    assert_eq!(network.files()[&ip(2)], data);

    // Only its holder's DEL removes it, whether prevResult reports it or not.
    let named = match &holder {
        Some(Holder::Attachment(id, ifname)) => Some(owner(id.as_str(), ifname.as_str())),
        Some(Holder::Container(id)) => Some(owner(id.as_str(), "any")),
        Some(Holder::Note(_)) | None => None,
    };
    for other in [&victim, &owner("victim", "eth1"), &owner("first", "eth1")] {
        let is_holder = named.as_ref().is_some_and(|named| {
            named.container_id == other.container_id
                && (named.ifname == other.ifname || matches!(holder, Some(Holder::Container(_))))
        });
        if !is_holder {
            assert_eq!(network.del(other, &[ip(2), given]), []);
        }
    }
    // A note stays, whatever is valid; a reservation goes with its holder.
    let Some(named) = named else {
        network.place.create().unwrap().retain(&[]).unwrap();
        assert_eq!(network.files().into_iter().collect::<Vec<_>>(), [(ip(2), data.to_vec())]);
        return;
    };
    network.place.create().unwrap().retain(std::slice::from_ref(&named)).unwrap();
    assert_eq!(network.files()[&ip(2)], data);
    assert!(network.del(&named, &[]).contains(&ip(2)));
    assert!(!network.files().contains_key(&ip(2)));
}

fn reads_as_go_does(data: &[u8], holder: Option<&Holder>) {
    // What Go compares: the text without the white space around it.
    let text = String::from_utf8_lossy(data);
    match holder {
        Some(Holder::Attachment(id, ifname)) => assert_eq!(text.trim(), format!("{id}\r\n{ifname}")),
        Some(Holder::Container(id)) => assert_eq!(text.trim(), id.as_str()),
        Some(Holder::Note(_)) | None => {}
    }
    if let Some(Holder::Attachment(id, ifname)) = holder {
        // Written again and read again it is the same.
        let owner = owner(id.as_str(), ifname.as_str());
        let (of, content) = Holder::of(&owner);
        assert_eq!(Some(&of), holder);
        assert_eq!(Holder::parse(content.as_bytes()).as_ref(), holder);
        assert!(of.is(&owner) && !of.is_container_of(&owner));
    }
}
