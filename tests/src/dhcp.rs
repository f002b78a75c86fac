//! DHCP servers on a bridge, links of containers to it, and the daemons that keep leases.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use crate::netns::{self, Netns};
use crate::parallel::until;
use crate::sandbox::Sandbox;
use crate::{kernel, verdict};

/// Where the daemon listens if nobody says otherwise.
pub const SOCKET: &str = "/run/cni/dhcp.sock";
/// What dnsmasq has leased, a line for each.
pub const LEASED: &str = "/run/cni-test/leases";

/// Servers and daemons. They end with it, and so do the daemons that calls have started, which outlive their calls.
#[derive(Debug, Default)]
pub struct Processes(Vec<Child>);

impl Processes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a process without streams; its number.
    pub fn start(&mut self, command: &mut Command) -> u32 {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        self.adopt(child);
        pid
    }

    /// Takes charge of the end of a process.
    pub fn adopt(&mut self, child: Child) {
        self.0.push(child);
    }

    /// dnsmasq on the bridge, with leases of two minutes, which is the least that it gives.
    pub fn dnsmasq(&mut self, options: &[&str]) {
        bridge();
        self.dnsmasq_of("--dhcp-range=10.9.0.100,10.9.0.120,255.255.255.0,2m", options);
    }

    fn dnsmasq_of(&mut self, range: &str, options: &[&str]) {
        fs::create_dir_all("/run/cni-test").unwrap();
        let file = format!("--dhcp-leasefile={LEASED}");
        let fixed = ["--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--pid-file=", "--user=root"];
        // By default it asks with a ping whether an address is free, and waits for three seconds.
        let of_bridge = ["--interface=br-dhcp", "--bind-interfaces", "--dhcp-authoritative", "--no-ping", &file, range];
        self.start(Command::new("dnsmasq").args(fixed).args(of_bridge).args(options));
        until("dnsmasq listens", || netns::sh(&["ss", "-Hlun", "sport", "=", ":67"]).contains(":67"));
    }

    /// udhcpd on the bridge, with leases of this many seconds.
    pub fn udhcpd(&mut self, seconds: u32) -> u32 {
        bridge();
        let conf = format!(
            "start 10.9.0.100\nend 10.9.0.120\ninterface br-dhcp\nlease_file /run/udhcpd.leases\npidfile /run/udhcpd.pid\n\
             min_lease 1\noption subnet 255.255.255.0\noption router 10.9.0.1\noption lease {seconds}\n"
        );
        fs::write("/run/udhcpd.conf", conf).unwrap();
        fs::write("/run/udhcpd.leases", "").unwrap();
        self.start(Command::new("udhcpd").args(["-f", "/run/udhcpd.conf"]))
    }

    /// The daemon under test, started as an administrator does.
    pub fn daemon(&mut self, sb: &Sandbox) {
        if !sb.has("dhcp") {
            verdict::skip("no dhcp here");
        }
        fs::create_dir_all("/run/cni").unwrap();
        self.start(Command::new(sb.dir().join("dhcp")).args(["daemon"]));
        until("the daemon listens", || fs::exists(SOCKET).unwrap());
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        daemons().into_iter().for_each(kill);
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The process numbers of the daemons of this sandbox: it has a mount namespace of its own.
pub fn daemons() -> Vec<u32> {
    let here = fs::metadata("/proc/thread-self/ns/mnt").unwrap().ino();
    let is_daemon = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let there = fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|file| file.ino());
        there.is_ok_and(|there| there == here) && words.windows(7).any(|word| word == b"\0daemon")
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_daemon).collect()
}

/// Ends a process at once.
pub fn kill(pid: u32) {
    netns::sh(&["sh", "-c", &format!("kill -9 {pid} 2>/dev/null || true")]);
}

/// The bridge `br-dhcp`, with an address of each family.
pub fn bridge() {
    netns::sh(&["ip", "link", "add", "br-dhcp", "type", "bridge"]);
    netns::sh(&["ip", "address", "add", "10.9.0.1/24", "dev", "br-dhcp"]);
    netns::sh(&["ip", "address", "add", "fd00:9::1/64", "dev", "br-dhcp", "nodad"]);
    netns::sh(&["ip", "link", "set", "br-dhcp", "up"]);
}

/// A container `name` with a link of its own to the bridge: what the plugin is given by others.
pub fn linked(sb: &Sandbox, name: &str) -> Netns {
    let ns = sb.container(name);
    let host = format!("v-{name}");
    netns::sh(&["ip", "link", "add", &host, "type", "veth", "peer", "name", "eth0", "netns", name]);
    netns::sh(&["ip", "link", "set", &host, "master", "br-dhcp", "up"]);
    ns
}

/// What a sweep over all plugins needs: a server and a daemon that was started by hand, as Go's plugin needs one too. Addresses
/// begin with 10.77.0.2, the router is 10.77.0.1, and option 121 has a route to 10.6.0.0/16 by it.
pub fn network(sb: &Sandbox) -> Processes {
    let mut processes = Processes::new();
    // With an address of its own, for else it has that of its ports, and none without one.
    netns::sh(&["ip", "link", "add", "br-dhcp", "address", "0a:00:00:00:09:01", "type", "bridge"]);
    netns::sh(&["ip", "address", "add", "10.77.0.1/24", "dev", "br-dhcp"]);
    up("br-dhcp", &Netns::node());
    let options = ["--dhcp-sequential-ip", "--dhcp-option=3,10.77.0.1", "--dhcp-option=121,10.6.0.0/16,10.77.0.1"];
    processes.dnsmasq_of("--dhcp-range=10.77.0.2,10.77.0.250,255.255.255.0,2m", &options);
    processes.daemon(sb);
    processes
}

/// A link `eth0` to the bridge of [`network`], unless the container has one. It is up, as it is after an ADD.
pub fn link(ns: &Netns) {
    if ns.name == "node" || kernel::link(ns, "eth0").is_some() {
        return;
    }
    let host = format!("v-{}", ns.name);
    // The peer in an earlier namespace of the same name may not be gone yet.
    unlink(&ns.name);
    netns::sh(&["ip", "link", "add", &host, "type", "veth", "peer", "name", "eth0", "netns", &ns.name]);
    netns::sh(&["ip", "link", "set", &host, "master", "br-dhcp"]);
    up(&host, &Netns::node());
    up("eth0", ns);
}

/// Removes the node's end of [`link`] at once, which the kernel would do a while after the namespace is gone.
pub fn unlink(container: &str) {
    let _ = Netns::node().holds(&["ip", "link", "del", &format!("v-{container}")]);
}

/// Sets a link up without a link-local address, which would come later, when duplicates have been looked for.
fn up(link: &str, ns: &Netns) {
    ns.sh(&["ip", "link", "set", link, "addrgenmode", "none", "up"]);
}
