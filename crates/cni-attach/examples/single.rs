//! An interface plugin to copy: a macvlan link in the container, on a link of the node, with IPAM or layer 2 only.
//!
//! `{"type": "single", "master": "eth0", "mtu": 1400, "ipam": {...}}`

use std::process::ExitCode;

use cni_attach::check::result_of_add;
use cni_attach::ipam::{self, Addresses};
use cni_attach::{LinkCheck, Place, Sides, mtu, single};
use cni_net::{Link, LinkSpec, MacVlan, MacVlanMode, Netlink};
use cni_plugin::{
    Attachment, CniError, CniResult, Detachment, Difference, DnsConfig, IpamConfig, Owner, Plugin, Request,
    SpecVersion, Undo, verdict,
};
use serde::Deserialize;

/// What a link of this plugin is.
const KIND: &str = "macvlan";

/// The keys of the configuration, as they are written.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    /// The node's link that the container's is on.
    master: String,
    /// In bytes; 0 is the master's.
    mtu: i64,
    ipam: IpamConfig,
    dns: DnsConfig,
}

fn master(host: &Netlink, config: &Config) -> Result<Link, CniError> {
    let found = host.link_by_name(&config.master)?;
    found.ok_or_else(|| CniError::plugin(format!("master: there is no link {:?} on the node", config.master)))
}

fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let (config, owner) = (&request.config, &attachment.owner);
    let mtu = mtu::configured(config.mtu, &config.ipam)?;
    let ipam = ipam::configured(request, &config.ipam)?;
    let sides = Sides::open(&attachment.netns)?;
    let kind = MacVlan::new(master(&sides.host, config)?.index, MacVlanMode::Bridge);
    sides.refuse_repeat(attachment, undo)?;

    // 2. IPAM works while the link is made.
    let addresses = Addresses::start(ipam, &config.ipam, undo)?;

    // 3. The link, and what IPAM says about it.
    let spec = LinkSpec { mtu, ..LinkSpec::new(owner.ifname.clone(), &kind) };
    let link = single::create(&sides, owner, &spec, Place::Node, undo)?;
    let dns = config.dns.configured();
    let result = single::configure(request, attachment, &sides, &link, addresses, dns, undo)?;
    Ok(request.with_prev_result(result))
}

fn check(request: &Request<Config>, attachment: &Attachment) -> Result<(), CniError> {
    let mtu = mtu::configured(request.config.mtu, &request.config.ipam)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    let result = result_of_add(request, attachment, ipam.is_some())?;
    let sides = Sides::open(&attachment.netns)?;
    let (link, mut differences) = single::check(&sides, &LinkCheck::new(attachment, KIND, mtu, result))?;
    let master = master(&sides.host, &request.config)?;
    if link.is_some_and(|link| link.peer_index != Some(master.index)) {
        differences.push(Difference::new("master", &master.name, "another link"));
    }
    verdict(&differences)?;
    ipam.map_or(Ok(()), |ipam| ipam.check())
}

fn del(request: &Request<Config>, detachment: &Detachment) -> Result<(), CniError> {
    single::del(request, detachment, KIND, &request.config.ipam)
}

fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    single::gc(request, valid, &request.config.ipam)
}

fn status(request: &Request<Config>) -> Result<(), CniError> {
    mtu::configured(request.config.mtu, &request.config.ipam)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    master(&Netlink::open()?, &request.config).map_err(CniError::unavailable)?;
    ipam.map_or(Ok(()), |ipam| ipam.status())
}

fn main() -> ExitCode {
    let versions = SpecVersion::ALL;
    cni_plugin::main(&Plugin { name: "single", release: "v0.1.0", versions, add, del, check, gc, status })
}
