//! firewalld, over D-Bus: the containers' addresses become sources of a zone.
//!
//! Such sources last until firewalld reloads or ends, like everything that isn't in its files.

use std::net::IpAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cni_plugin::{Difference, deadline};
use zbus::blocking::connection::{Builder, Connection};
use zbus::message::Body;
use zbus::names::{BusName, WellKnownName};

const NAME: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const ZONE_INTERFACE: &str = "org.fedoraproject.FirewallD1.zone";
/// firewalld answers no calls while it reloads, which takes seconds.
const PATIENCE: Duration = deadline::TOOL;

/// Why firewalld could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum FirewalldError {
    /// No system bus.
    #[error("backend is firewalld, but the D-Bus system bus cannot be reached: {0}")]
    NoBus(#[source] Box<zbus::Error>),
    /// The bus accepts connections and doesn't answer.
    #[error(
        "the D-Bus system bus has not answered for {seconds} s: check whether dbus-daemon or dbus-broker is stopped"
    )]
    Silent {
        /// How long the call waited.
        seconds: u64,
    },
    /// firewalld doesn't run.
    #[error("backend is firewalld, but no program has the name {NAME} on the D-Bus system bus: start firewalld")]
    NotRunning,
    /// It refused an addition.
    #[error("failed to add the address {address} to {zone} zone: {source}")]
    Add {
        /// The source.
        address: String,
        /// The zone.
        zone: String,
        /// firewalld's message.
        source: Box<zbus::Error>,
    },
    /// It refused another call.
    #[error("firewalld cannot {what} in zone {zone}: {source}")]
    Call {
        /// What was asked.
        what: String,
        /// The zone.
        zone: String,
        /// firewalld's message.
        source: Box<zbus::Error>,
    },
}

/// A running firewalld and the zone to use.
#[derive(Debug)]
pub struct Firewalld {
    bus: Connection,
    zone: String,
}

impl Firewalld {
    /// Finds it on the system bus; the error says what is missing.
    pub fn find(zone: &str) -> Result<Self, FirewalldError> {
        let bus = connect()?;
        let name = BusName::from(WellKnownName::from_static_str_unchecked(NAME));
        let proxy = zbus::blocking::fdo::DBusProxy::new(&bus).map_err(no_bus)?;
        match proxy.name_has_owner(name) {
            Ok(true) => Ok(Self { bus, zone: zone.to_owned() }),
            Ok(false) => Err(FirewalldError::NotRunning),
            Err(error) => Err(no_bus(error.into())),
        }
    }

    /// Makes the addresses sources of the zone. Idempotent; one that is a source of another zone is an error.
    pub fn add(&self, addresses: &[IpAddr]) -> Result<(), FirewalldError> {
        for address in addresses {
            let address = host(*address);
            match self.call("addSource", &address) {
                Err(source) if !is(&source, "ZONE_ALREADY_SET") => {
                    return Err(FirewalldError::Add { address, zone: self.zone.clone(), source: Box::new(source) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The addresses that are no sources of the zone.
    pub fn check(&self, addresses: &[IpAddr]) -> Result<Vec<Difference>, FirewalldError> {
        let mut differences = Vec::new();
        for address in addresses {
            let address = host(*address);
            let answer = self.call("querySource", &address).and_then(|body| body.deserialize::<bool>());
            match answer {
                Ok(true) => {}
                Ok(false) => {
                    differences.push(Difference::missing(format!("source {address} of firewalld zone {}", self.zone)));
                }
                Err(source) => {
                    let what = format!("look for the source {address}");
                    return Err(FirewalldError::Call { what, zone: self.zone.clone(), source: Box::new(source) });
                }
            }
        }
        Ok(differences)
    }

    /// Removes the addresses from the zone. Idempotent: an address that isn't a source of it is left alone.
    pub fn remove(&self, addresses: &[IpAddr]) -> Result<(), FirewalldError> {
        for address in addresses {
            let address = host(*address);
            match self.call("removeSource", &address) {
                Err(source)
                    if !["UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE", "ZONE_CONFLICT"]
                        .iter()
                        .any(|text| is(&source, text)) =>
                {
                    let what = format!("remove the source {address}");
                    return Err(FirewalldError::Call { what, zone: self.zone.clone(), source: Box::new(source) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Fails if the zone doesn't exist, which a query for a source shows.
    pub fn usable(&self) -> Result<(), FirewalldError> {
        self.check(&[IpAddr::from([192, 0, 2, 1])]).map(drop)
    }

    fn call(&self, method: &str, source: &str) -> zbus::Result<Body> {
        let arguments = (self.zone.as_str(), source);
        self.bus.call_method(Some(NAME), PATH, Some(ZONE_INTERFACE), method, &arguments).map(|reply| reply.body())
    }
}

/// Connects, in a thread if one can be made: the library has no timeout for the handshake.
fn connect() -> Result<Connection, FirewalldError> {
    let patience = deadline::at_most(PATIENCE);
    let build = move || Builder::system().and_then(|builder| builder.method_timeout(patience).build());
    let (sender, receiver) = mpsc::channel();
    let connected = match thread::Builder::new().spawn(move || sender.send(build())) {
        Ok(_) => receiver.recv_timeout(patience).map_err(|_| FirewalldError::Silent { seconds: patience.as_secs() })?,
        Err(_) => build(),
    };
    connected.map_err(no_bus)
}

fn no_bus(error: zbus::Error) -> FirewalldError {
    FirewalldError::NoBus(Box::new(error))
}

/// The source for one address. It has to be written the same in all calls, for firewalld compares the texts.
fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// firewalld's errors begin with one of its codes, a colon and more words.
fn is(error: &zbus::Error, code: &str) -> bool {
    matches!(error, zbus::Error::MethodError(_, Some(text), _) if text.contains(code))
}
