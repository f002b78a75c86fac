//! ADD: moves the device into the container and gives it what IPAM says.

use cni_attach::ipam::Addresses;
use cni_attach::{Sides, ipam, result, single};
use cni_plugin::{Attachment, CniError, CniResult, Request, SpecVersion, Undo};

use crate::config::Config;
use crate::device::{self, Device};
use crate::moving;
use crate::saved::{self, Store};
use crate::settings::Settings;

/// Attaches the container.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    // 1. Refuse what can't be done while nothing has been touched.
    let settings = Settings::resolve(&request.config)?;
    let ipam = ipam::configured(request, &request.config.ipam)?;
    let sides = Sides::open(&attachment.netns)?;
    sides.refuse_repeat(attachment, undo)?;
    device::find(&settings, &sides.host, saved::held_by)?;

    // 2. IPAM works while the device is moved.
    let addresses = Addresses::start(ipam, &request.config.ipam, undo)?;

    // 3. The device, looked for again: calls that move one take turns.
    let store = Store::make()?;
    let link = match device::find(&settings, &sides.host, |_| String::new())? {
        Device::Userspace => return userspace(request, attachment, &settings, addresses, undo),
        Device::Link(link) => moving::reclaim(&store, &sides.host, *link)?,
    };
    let link = moving::take(&store, &sides, attachment, &link, undo)?;
    drop(store);

    // 4. What IPAM says about it.
    let result = single::configure(request, attachment, &sides, &link, addresses, settings.dns.clone(), undo)?;
    Ok(with_pci_id(request, &settings, request.with_prev_result(result)))
}

/// A device without a link gets its addresses from a program of the container: they are only reported.
fn userspace(
    request: &Request<Config>,
    attachment: &Attachment,
    settings: &Settings,
    addresses: Addresses,
    undo: &mut Undo,
) -> Result<CniResult, CniError> {
    let ipam = addresses.finish(undo)?.unwrap_or_default();
    let interface = cni_plugin::Interface {
        name: attachment.owner.ifname.to_string(),
        sandbox: attachment.netns.to_string_lossy().into_owned(),
        ..Default::default()
    };
    let result = result::with_interfaces(vec![interface], 0, ipam, settings.dns.clone());
    Ok(with_pci_id(request, settings, request.with_prev_result(result)))
}

/// The PCI device behind the interface, which results have from 1.1.0 on.
fn with_pci_id(request: &Request<Config>, settings: &Settings, mut result: CniResult) -> CniResult {
    if let Some(interface) = result.interfaces.first_mut().filter(|_| request.version >= SpecVersion::V1_1_0) {
        interface.pci_id = settings.bus_id.clone().filter(|id| device::is_on_pci(id)).unwrap_or_default();
    }
    result
}
