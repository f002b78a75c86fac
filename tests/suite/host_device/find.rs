//! host-device: which device it is, by each key; and devices without a link. The buses are files of the test's own.

use std::fs;
use std::os::unix::fs::symlink;

use cni_tests::kernel::{link, link_names};
use cni_tests::netns::sh;
use cni_tests::plugins::ready;
use cni_tests::{Attachment, Sandbox, conf};
use serde_json::{Value, json};

use super::{attached, call, chain, device, network, reserved};
use crate::case::{Case, common, improved, newer};

const PCI: &str = "0000:00:1f.6";

/// The cases of this theme.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        common("by_hwaddr", |sb| {
            device(sb);
            let mac = link(&sb.node(), "host0").unwrap()["address"].as_str().unwrap().to_uppercase();
            found(sb, &json!({"type": "host-device", "hwaddr": mac}), false);
        }),
        common("by_kernelpath", |sb| {
            device(sb);
            // The directory of all devices without hardware: the first of their links is taken.
            found(sb, &json!({"type": "host-device", "kernelpath": "/sys/devices/virtual"}), false);
        }),
        common("the_name_comes_first", |sb| {
            device(sb);
            bus("pci", PCI, "nothing", "e1000");
            found(sb, &json!({"type": "host-device", "device": "host0", "pciBusID": PCI}), false);
        }),
        improved("by_alternative_name", |sb| {
            device(sb);
            sb.node().sh(&[
                "ip",
                "link",
                "property",
                "add",
                "dev",
                "host0",
                "altname",
                "the-one-that-is-for-containers",
            ]);
            let conf = json!({"type": "host-device", "device": "the-one-that-is-for-containers"});
            let (_ns, at) = attached(sb, &conf, "c1");
            call(sb, "CHECK", &conf, &at).silent();
            call(sb, "DEL", &conf, &at).silent();
            assert!(link(&sb.node(), "host0").is_some());
        }),
        improved("a_device_in_use_below_others_is_taken_itself", below_others),
    ];
    cases.extend(on_buses());
    for driver in ["vfio-pci", "uio_pci_generic", "igb_uio"] {
        cases.push(newer(format!("userspace_driver_{driver}"), move |sb| userspace(sb, driver)));
    }
    for (label, conf, named) in refused() {
        cases.push(improved(format!("refused_{label}"), move |sb| {
            let ns = sb.container("c1");
            let conf = conf::named("1.0.0", conf.clone());
            ready(sb, "host-device", "ADD", "1.0.0", &ns).conf(&conf).run().error().names(named);
            ready(sb, "host-device", "DEL", "1.0.0", &ns).conf(&conf).run().silent();
        }));
    }
    cases
}

fn on_buses() -> Vec<Case> {
    vec![
        common("by_pci_bus_id", |sb| {
            device(sb);
            bus("pci", PCI, "net", "e1000");
            found(sb, &json!({"type": "host-device", "pciBusID": PCI}), true);
        }),
        common("by_pci_bus_id_of_a_virtio_device", |sb| {
            device(sb);
            bus("pci", PCI, "virtio0/net", "virtio-pci");
            found(sb, &json!({"type": "host-device", "pciBusID": PCI}), true);
        }),
        common("by_device_id", |sb| {
            device(sb);
            bus("pci", PCI, "net", "e1000");
            by_device_id(sb, PCI);
        }),
        improved("by_device_id_of_the_auxiliary_bus", |sb| {
            device(sb);
            bus("auxiliary", "mlx5_core.sf.4", "net", "mlx5_core.sf");
            by_device_id(sb, "mlx5_core.sf.4");
        }),
    ]
}

fn refused() -> [(&'static str, Value, &'static [&'static str]); 7] {
    let with = |key: &str, value: &str| json!({"type": "host-device", key: value});
    [
        ("nothing", json!({"type": "host-device"}), &["device", "hwaddr", "kernelpath", "pciBusID"]),
        ("no_such_device", with("device", "nope0"), &["device", "nope0"]),
        ("no_such_hwaddr", with("hwaddr", "02:00:00:00:99:99"), &["hwaddr", "02:00:00:00:99:99"]),
        ("bad_hwaddr", with("hwaddr", "02:00"), &["hwaddr", "02:00"]),
        ("kernelpath_elsewhere", with("kernelpath", "/sys/devices/../class"), &["kernelpath", "/sys/devices/"]),
        ("no_such_pci_device", with("pciBusID", "ffff:ff:1f.7"), &["pciBusID", "ffff:ff:1f.7"]),
        ("pci_path", with("pciBusID", "../../etc"), &["pciBusID", "../../etc"]),
    ]
}

/// A bus with one device, which has `host0` below `net` and this driver.
fn bus(name: &str, id: &str, net: &str, driver: &str) {
    sh(&["mount", "-t", "tmpfs", "tmpfs", "/sys/bus"]);
    let device = format!("/sys/bus/{name}/devices/{id}");
    fs::create_dir_all(format!("{device}/{net}/host0")).unwrap();
    let driver = format!("/sys/bus/{name}/drivers/{driver}");
    fs::create_dir_all(&driver).unwrap();
    symlink(driver, format!("{device}/driver")).unwrap();
}

fn found(sb: &Sandbox, conf: &Value, is_pci: bool) {
    let (ns, at) = attached(sb, conf, "c1");
    assert_eq!(link(&ns, "eth0").unwrap()["ifalias"], "host0");
    let result = at.result.as_ref().unwrap();
    if is_pci && result["cniVersion"] == "1.1.0" {
        assert_eq!(result["interfaces"][0]["pciID"], PCI, "{result}");
    }
    call(sb, "CHECK", conf, &at).silent();
    call(sb, "DEL", conf, &at).silent();
    assert!(link(&sb.node(), "host0").is_some());
}

fn by_device_id(sb: &Sandbox, id: &str) {
    let conf = json!({"type": "host-device", "capabilities": {"deviceID": true}});
    let ns = sb.container("c1");
    let mut at = Attachment::new("c1", &ns).with("deviceID", id.into());
    chain(sb, &conf).add(sb, &mut at);
    assert_eq!(link(&ns, "eth0").unwrap()["ifalias"], "host0");
    call(sb, "CHECK", &conf, &at).silent();
    call(sb, "DEL", &conf, &at).silent();
    assert!(link(&sb.node(), "host0").is_some());
}

/// A macvlan and a VLAN often have the address of the link below them.
fn below_others(sb: &Sandbox) {
    device(sb);
    let node = sb.node();
    let mac = link(&node, "host0").unwrap()["address"].as_str().unwrap().to_owned();
    node.sh(&["ip", "link", "set", "host1", "address", "02:00:00:00:00:01"]);
    let (ns, _) = attached(sb, &json!({"type": "host-device", "hwaddr": mac}), "c1");
    assert_eq!(link(&ns, "eth0").unwrap()["address"], mac.as_str());
}

/// A program of the container drives the device: addresses are reserved and reported, and no link is moved.
fn userspace(sb: &Sandbox, driver: &str) {
    device(sb);
    bus("pci", PCI, "nothing", driver);
    let mut conf = network();
    conf.as_object_mut().unwrap().remove("device");
    conf["pciBusID"] = PCI.into();
    let (ns, at) = attached(sb, &conf, "c1");
    let result = at.result.as_ref().unwrap();
    assert_eq!(result["ips"][0]["address"], "10.23.0.2/24");
    assert_eq!(
        (&result["interfaces"][0]["name"], &result["interfaces"][0]["sandbox"]),
        (&json!("eth0"), &json!(ns.path()))
    );
    assert_eq!(link_names(&ns), ["lo"]);
    assert!(link(&sb.node(), "host0").is_some());
    call(sb, "CHECK", &conf, &at).silent();
    call(sb, "DEL", &conf, &at).silent();
    assert!(reserved().is_empty(), "{:?}", reserved());
}
