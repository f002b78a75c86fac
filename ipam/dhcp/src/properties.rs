//! Properties that must hold for any input on stdin, in a server's message and on the daemon's socket. The fuzz target calls it, and a test
//! with every seed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "properties are assertions")]

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use std::fmt::Debug;

use cni_plugin::companion::read_line;
use cni_plugin::{CniResult, Family, IpConfig, MacAddr, Plugin, SpecVersion};
use dhcproto::{v4 as messages4, v6 as messages6};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::daemon::link::LinkId;
use crate::daemon::{v4, v6};
use crate::settings;
use crate::wire::{Call, Granted, LONGEST};

target!("dhcp", holds);

/// The client that the messages are for.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const IAID: u32 = 7;

/// The first line says what the rest is: a server's message, a call to the daemon, or by its verb the configuration.
fn holds(data: &[u8]) {
    if let Some(message) = data.strip_prefix(b"v4\n") {
        v4_holds(message);
    } else if let Some(message) = data.strip_prefix(b"v6\n") {
        v6_holds(message);
    } else if let Some(mut line) = data.strip_prefix(b"call\n") {
        let _ = read_line::<Call>(&mut line, LONGEST);
    } else {
        stdin::holds(&PROBE, data);
    }
}

/// The plugin without a daemon.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        let options = settings::options(&request.config, Some((&attachment.owner, &attachment.args)))?;
        assert!(options.v4 || options.v6, "an address of some family is asked for");
        assert!(options.provide.iter().all(|(code, value)| (1..255).contains(code) && value.len() <= 255));
        assert!(options.request.iter().all(|code| (1..255).contains(code)));
        assert!(settings::socket(&request.config)?.is_absolute());
        Ok(CniResult::default())
    },
    check: |request, attachment| {
        settings::options(&request.config, Some((&attachment.owner, &attachment.args)))?;
        Ok(settings::socket(&request.config).map(drop)?)
    },
    del: |request, _| Ok(settings::socket(&request.config).map(drop)?),
    status: |request| Ok(settings::options(&request.config, None).map(drop)?),
    ..stdin::probe("dhcp")
};

/// Whatever a server sends as an offer or an acknowledgement: it is ignored, or gives what a container can use.
fn v4_holds(message: &[u8]) {
    let mut message = message.to_vec();
    // Chosen by the client, which the fuzzer can't know.
    let xid = message.get(4..8).map_or(0, |xid| u32::from_be_bytes(xid.try_into().expect("four bytes")));
    if let Some(chaddr) = message.get_mut(28..34) {
        chaddr.copy_from_slice(&MAC);
    }
    let link = LinkId { namespace: 1, index: 2, ifname: "eth0".parse().unwrap(), mac: MacAddr(MAC) };
    for wanted in [messages4::MessageType::Offer, messages4::MessageType::Ack] {
        let Some(v4::Reply::Lease(lease)) = v4::reply(&message, &link, xid, wanted) else { continue };
        let times = lease.times;
        assert!(times.renew <= times.rebind && times.rebind <= times.end, "{times:?}");
        kept(&*lease);
        let mut granted = Granted::default();
        lease.grant(&mut granted, 0);
        usable(&granted, Family::V4);
    }
}

/// The same for DHCPv6.
fn v6_holds(message: &[u8]) {
    let xid = message.get(1..4).map_or([0; 3], |xid| xid.try_into().expect("three bytes"));
    for wanted in [messages6::MessageType::Advertise, messages6::MessageType::Reply] {
        let Some(lease) = v6::reply(message, &DUID, IAID, xid, wanted) else { continue };
        let times = lease.times;
        assert!(times.renew <= times.rebind && times.rebind <= times.end, "{times:?}");
        kept(&lease);
        let mut granted = Granted::default();
        lease.grant(&mut granted);
        usable(&granted, Family::V6);
    }
}

/// What the daemon writes down is what the next one reads.
fn kept<T: Serialize + DeserializeOwned + PartialEq + Debug>(lease: &T) {
    let text = serde_json::to_vec(lease).expect("JSON");
    assert_eq!(serde_json::from_slice::<T>(&text).expect("a lease"), *lease);
}

/// One address that an interface can have, routes by hosts, names that are words; and it is a result.
fn usable(granted: &Granted, family: Family) {
    assert_eq!(granted.ips.len(), 1, "{granted:?}");
    for ip in &granted.ips {
        ip.refuse_unusable().unwrap();
        assert_eq!(Family::of(ip.address.ip()), family);
    }
    for route in &granted.routes {
        let by = IpConfig { gateway: route.gw, ..granted.ips[0].clone() };
        by.refuse_unusable().unwrap();
    }
    let dns = &granted.dns;
    let names = dns.nameservers.iter().chain(&dns.search).chain(Some(&dns.domain).filter(|name| !name.is_empty()));
    for name in names {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
    let Granted { ips, routes, dns } = granted.clone();
    let result = CniResult { ips, routes, dns, ..CniResult::default() };
    let text = result.to_json(SpecVersion::V1_1_0).expect("a result");
    let read = CniResult::from_prev(serde_json::from_slice(&text).expect("JSON"), SpecVersion::V1_1_0);
    assert_eq!(read.expect("what is written can be read"), result);
}
