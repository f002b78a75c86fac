//! Namespaces: opening, refusing, entering and coming back; and sysctls, which depend on where one is.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them only directly in #[test] functions.

mod common;

use std::io::ErrorKind;
use std::path::Path;

use cni_net::{NetNs, NetNsError, Netlink, SysctlError, VethEnd, VethSpec, sysctl};
use common::{namespace, run};

/// The calling thread's namespace, in the kernel's words.
fn here() -> String {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string()
}

private_tests! {
    fn what_is_no_network_namespace_is_refused() {
        run("mkfifo /run/fifo");
        std::fs::write("/run/file", "").unwrap();
        let open = |path: &str| NetNs::open(Path::new(path)).unwrap_err();
        assert!(matches!(open("/run/netns/blue"), NetNsError::NotFound { .. }));
        assert!(matches!(open("/run/file/blue"), NetNsError::NotFound { .. }));
        assert!(matches!(open(""), NetNsError::NotFound { .. }));
        assert_eq!(open("/run/netns/blue").to_string(), "network namespace \"/run/netns/blue\" does not exist: has the container ended?");
        for path in ["/run/file", "/run/fifo", "/run", "/dev/null"] {
            assert!(matches!(open(path), NetNsError::NotANamespace { .. }), "{path}");
            assert!(NetNs::open_if_there(Some(Path::new(path))).unwrap().is_none(), "{path}");
        }
        assert!(NetNs::open_if_there(None).unwrap().is_none());
        assert!(NetNs::open_if_there(Some(Path::new("/run/netns/blue"))).unwrap().is_none());
        namespace("blue");
        assert!(NetNs::open_if_there(Some(Path::new("/run/netns/blue"))).unwrap().is_some());
    }

    fn a_namespace_of_another_type_shows_when_it_is_entered() {
        let before = here();
        // procfs and nsfs, so that they open.
        for path in ["/proc/self/ns/uts", "/proc/self/status"] {
            let ns = NetNs::open(Path::new(path)).unwrap();
            let error = ns.run(|| panic!("entered {path}")).unwrap_err();
            assert!(matches!(&error, NetNsError::NotANamespace { path: named, .. } if named == Path::new(path)), "{error}");
            assert!(Netlink::open_in(&ns).is_err());
        }
        assert_eq!(here(), before);
    }

    fn a_closure_runs_inside_and_the_thread_comes_back() {
        let blue = namespace("blue");
        let before = here();
        let inside = blue.run(here).unwrap();
        assert_ne!(inside, before);
        assert_eq!(inside, run("ip netns exec blue readlink /proc/self/ns/net").trim());
        assert_eq!(here(), before);
        let failed: Result<(), &str> = blue.run(|| Err("no")).unwrap();
        assert_eq!((failed, here()), (Err("no"), before.clone()));
        let nested = blue.run(|| blue.run(here).unwrap()).unwrap();
        assert_eq!((nested, here()), (inside, before));
    }

    fn a_panic_comes_back_too() {
        let blue = namespace("blue");
        let before = here();
        let caught = std::panic::catch_unwind(|| blue.run(|| panic!("on purpose")));
        assert!(caught.is_err());
        assert_eq!(here(), before);
    }

    fn namespaces_are_compared_by_device_and_inode() {
        let blue = namespace("blue");
        let green = namespace("green");
        let again = NetNs::open(Path::new("/var/run/netns/../netns/blue")).unwrap();
        assert!(blue.is_same(&again) && again.is_same(&blue));
        assert!(!blue.is_same(&green));
        let current = NetNs::current().unwrap();
        assert!(current.is_same(&NetNs::open(Path::new("/proc/thread-self/ns/net")).unwrap()));
        assert!(blue.run(|| NetNs::current().unwrap().is_same(&blue) && !NetNs::current().unwrap().is_same(&current)).unwrap());
    }

    fn a_socket_stays_where_it_was_opened() {
        let blue = namespace("blue");
        let host = Netlink::open().unwrap();
        let inside = Netlink::open_in(&blue).unwrap();
        let end = |name: &str| VethEnd::named(name.parse().unwrap());
        blue.run(|| host.create_veth(&VethSpec::new(end("veth0"), end("eth0"), &blue)).unwrap()).unwrap();
        assert!(host.link_by_name("veth0").unwrap().is_some());
        assert!(host.link_by_name("eth0").unwrap().is_none());
        assert!(inside.link_by_name("eth0").unwrap().is_some());
        run("ip link show dev veth0");
        // The open socket keeps the namespace alive; a closed one does not.
        drop(blue);
        run("ip netns del blue");
        assert!(inside.link_by_name("eth0").unwrap().is_some());
        drop(inside);
        let gone = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            host.link_by_name("veth0").unwrap().is_none()
        });
        assert!(gone, "the namespace and the veth pair outlive the socket");
    }

    fn a_socket_can_move_to_another_thread() {
        let netlink = Netlink::open().unwrap();
        let moved = std::thread::spawn(move || netlink.link_by_name("lo").unwrap().is_some());
        assert!(moved.join().unwrap());
    }

    fn sysctls_are_those_of_the_namespace() {
        let blue = namespace("blue");
        let key = "net/ipv4/ip_forward";
        sysctl::write(key, "1").unwrap();
        assert_eq!(sysctl::read(key).unwrap(), "1");
        assert_eq!(blue.run(|| sysctl::read(key).unwrap()).unwrap(), "0");
        assert!(!sysctl::ensure(key, "1").unwrap());
        assert!(blue.run(|| sysctl::ensure(key, "1").unwrap()).unwrap());
        assert_eq!(run("ip netns exec blue sysctl -n net.ipv4.ip_forward").trim(), "1");
    }

    fn interfaces_with_dots_have_sysctls() {
        run("ip link add br-1.100 type bridge");
        sysctl::write("net/ipv4/conf/br-1.100/arp_notify", "1").unwrap();
        assert_eq!(run("cat /proc/sys/net/ipv4/conf/br-1.100/arp_notify").trim(), "1");
        assert_eq!(sysctl::read("net/ipv4/conf/br-1.100/arp_notify").unwrap(), "1");
    }

    fn sysctls_that_fail() {
        let missing = "net/ipv4/conf/eth7/arp_notify";
        for error in [sysctl::read(missing).unwrap_err(), sysctl::write(missing, "1").unwrap_err()] {
            assert!(matches!(&error, SysctlError::NotFound { path } if path == missing), "{error}");
        }
        let error = sysctl::write("net/ipv4/ip_forward", "yes").unwrap_err();
        assert!(matches!(&error, SysctlError::Write { source, .. } if source.kind() == ErrorKind::InvalidInput), "{error}");
        assert_eq!(error.to_string(), "cannot set sysctl net/ipv4/ip_forward to \"yes\": Invalid argument (os error 22)");
        assert!(matches!(sysctl::read("kernel/hostname"), Err(SysctlError::Path { .. })));
        assert!(matches!(sysctl::write("net/../kernel/hostname", "x"), Err(SysctlError::Path { .. })));
    }

    fn a_right_value_needs_no_write() {
        sysctl::write("net/ipv4/ip_forward", "1").unwrap();
        run("mount -o bind,ro /proc/sys /proc/sys");
        assert!(!sysctl::ensure("net/ipv4/ip_forward", "1").unwrap());
        let error = sysctl::ensure("net/ipv4/ip_forward", "0").unwrap_err();
        assert!(matches!(&error, SysctlError::Write { source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem), "{error}");
    }
}
