//! Properties that must hold for any input on stdin, and for any message at the resolver. The fuzz target calls them, and a test with
//! every seed.

#[macro_use]
#[path = "../../../tests/fuzz/stdin.rs"]
mod stdin;

use std::net::IpAddr;

use cni_plugin::{Attachment, CniError, Plugin, Request};

use crate::config::Config;
use crate::plan::{NodeLink, Plan, redirect_of};
use crate::resolver::answer::{Verdict, answer, end_of_question};
use crate::resolver::upstream::Random;
use crate::resolver::zone::Zone;
use crate::settings::Settings;

target!("dnsname", |data| {
    stdin::holds(&PROBE, data);
    message_holds(data);
});

/// The plugin without the kernel.
const PROBE: Plugin<Config> = Plugin {
    add: |request, attachment, _| {
        planned(request, attachment)?;
        Ok(request.require_prev_result()?.clone())
    },
    check: planned,
    status: |request| Ok(Settings::resolve(&request.config, &request.network).map(drop)?),
    ..stdin::probe("dnsname")
};

fn planned(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let settings = Settings::resolve(&request.config, &request.network)?;
    let result = request.require_prev_result()?;
    let name = "cni0".parse().map_err(|_| CniError::plugin("cni0"))?;
    let link = NodeLink { name, addresses: result.ips.iter().filter_map(|ip| ip.gateway).collect() };
    let plan = Plan::new(&settings, &attachment.owner, &attachment.args, result, &[link])?;
    assert_eq!(redirect_of(&plan.record), plan.redirect, "DEL finds what ADD made");
    assert!(!plan.record.servers.is_empty());
    let dns = plan.dns(&result.dns);
    assert_eq!(plan.dns(&dns), dns, "a second ADD changes nothing");
    let text = serde_json::to_vec(&plan.record)?;
    assert_eq!(serde_json::from_slice::<crate::record::Record>(&text)?, plan.record, "the file says it all");
    message_of(&plan.record);
    Ok(())
}

/// What is asked by a container with this record is answered from it.
fn message_of(record: &crate::record::Record) {
    let mut zone = Zone::default();
    let directory = crate::place::directory_name(&record.network);
    zone.insert(&directory, "key", record.clone());
    let held = zone.entry(&directory, "key");
    assert!(held.is_some());
    for (name, found) in held.map(|held| zone.found_by(held)).unwrap_or_default() {
        assert!(record.addresses.iter().all(|address| found.contains(&address.ip())), "{name}");
    }
    zone.remove(&directory, "key");
    assert!(zone.is_empty() && zone.servers().next().is_none());
}

/// Whatever a container sends: an answer is one to its question, and fits.
fn message_holds(data: &[u8]) {
    let record = serde_json::json!({
        "network": "net", "containerId": "c1", "ifname": "eth0", "interface": "cni0", "addresses": ["10.0.0.2/24", "fd00::2/64"],
        "servers": ["10.0.0.1", "fd00::1"], "names": ["web", "a.b"], "domain": "dns.test", "hasWayOut": false, "intercept": false,
    });
    let Ok(record) = serde_json::from_value(record) else { return };
    let mut zone = Zone::default();
    zone.insert("net", "key", record);
    let (server, client): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    for is_datagram in [true, false] {
        if let Verdict::Answer(answer) = answer(&zone, server, client, data, is_datagram, &mut Random::new()) {
            assert!(answer.len() >= 12 && answer[..2] == data[..2] && answer[2] & 0x80 != 0);
            assert!(!is_datagram || answer.len() <= 1232);
            // An error repeats whatever was asked, also what the library has no word for.
            assert!(answer.len() == 12 || end_of_question(&answer).is_some(), "{answer:?}");
        }
    }
}
