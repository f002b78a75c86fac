//! The file `last_reserved_ip.N`: a hint, whatever it says.

use std::net::IpAddr;

use super::{Network, ip, owner};

/// `data` is the file's content. The addresses .2 to .5 are held.
pub(super) fn holds(data: &[u8]) {
    let network = Network::new();
    for host in 2..6 {
        network.write(&format!("10.0.0.{host}"), format!("c{host}\r\neth0").as_bytes());
    }
    network.write("last_reserved_ip.0", data);
    let before = network.files();
    let hint = network.place.create().unwrap().last_reserved(0);
    let said = std::str::from_utf8(data).ok().and_then(|text| text.parse::<IpAddr>().ok());
    assert_eq!(hint, said.map(Into::into));

    // The round goes on after the hint if that is one of ours, and starts anew otherwise.
    let ours = hint.filter(|hint| (ip(1)..=ip(14)).contains(hint));
    let expected = match ours {
        Some(last) if last >= ip(5) && last < ip(14) => last.after(1),
        _ => ip(6),
    };
    let given = network.add(&owner("new", "eth0")).unwrap();
    assert_eq!(given, expected, "after {hint:?}");
    let mut after = network.files();
    assert_eq!(after.remove(&given), Some(b"new\r\neth0".to_vec()));
    assert_eq!(after, before);

    // What was there before, however long, is gone.
    let path = network.data_dir.path().join("net/last_reserved_ip.0");
    assert_eq!(std::fs::read_to_string(path).unwrap(), given.to_string());
    assert_eq!(network.place.create().unwrap().last_reserved(0), Some(given));
}
