//! One owner's leases, kept by a thread of their own: acquired, prolonged in time, given up with the link, and released.

use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cni_net::NetNs;

use super::link::LinkId;
use super::place::{Place, Record};
use super::times::{Due, Times, now};
use super::{Client, ExchangeError, Pace, log, v4, v6};
use crate::wire::Granted;

/// Between two looks whether the link is still there.
const LOOK: Duration = Duration::from_secs(5);

/// The state that the lease's thread shares with the calls that request the lease.
#[derive(Default)]
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// It is to end.
    stops: bool,
    /// Its thread has ended, and its file is gone.
    has_ended: bool,
    /// What it gives, or why it gives nothing; none as long as the server is asked.
    granted: Option<Result<Granted, String>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the lease gives now, after the first answer of the server.
    pub fn granted(&self) -> Result<Granted, String> {
        let asked = |state: &mut State| state.granted.is_none() && !state.has_ended;
        let state = self.changed.wait_while(self.state(), asked).unwrap_or_else(PoisonError::into_inner);
        state.granted.clone().unwrap_or_else(|| Err("the lease was ended while the server was being asked".to_owned()))
    }

    /// Asks the lease to end, without waiting.
    pub fn stop(&self) {
        self.state().stops = true;
        self.changed.notify_all();
    }

    /// Waits until it has ended.
    pub fn ended(&self) {
        drop(self.changed.wait_while(self.state(), |state| !state.has_ended).unwrap_or_else(PoisonError::into_inner));
    }

    /// True if it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    fn stops(&self) -> bool {
        self.state().stops
    }

    fn set(&self, granted: Result<Granted, String>) {
        self.state().granted = Some(granted);
        self.changed.notify_all();
    }

    /// Ends: there is no lease, and no thread requests one.
    pub fn fail(&self, why: String) {
        self.set(Err(why));
        self.end();
    }

    fn end(&self) {
        self.state().has_ended = true;
        self.changed.notify_all();
    }

    /// Sleeps for this long, or until the lease is to end.
    fn sleep(&self, limit: Duration) {
        drop(self.changed.wait_timeout_while(self.state(), limit, |state| !state.stops));
    }
}

/// The thread of a lease.
pub struct Keeper<'k> {
    /// What is known of it.
    pub record: Record,
    /// Who asks for it.
    pub shared: &'k Shared,
    /// Where it is written down.
    pub place: &'k Place,
    /// How the server is asked.
    pub pace: Pace,
}

impl Keeper<'_> {
    /// Acquires the leases within this time, if there are none yet, and keeps them until they are to end or the link is gone.
    pub fn run(mut self, limit: Duration) {
        let is_new = self.record.v4.is_none() && self.record.v6.is_none() && !self.record.is_lost;
        match if is_new { self.begin(Instant::now() + limit) } else { Ok(()) } {
            Ok(()) if self.record.is_lost => {
                self.shared.set(Err("the lease was lost before the daemon was started".to_owned()));
                self.keep();
            }
            Ok(()) => {
                self.shared.set(Ok(self.granted()));
                self.keep();
            }
            Err(error) => {
                self.give_back();
                self.shared.set(Err(error.to_string()));
            }
        }
        if let Err(error) = self.place.remove(&self.record) {
            log(format_args!("cannot remove the lease's file: {error}"));
        }
        self.shared.end();
    }

    fn begin(&mut self, until: Instant) -> Result<(), ExchangeError> {
        // From here on a daemon that comes after this one knows of it.
        self.write();
        let wanted = self.record.wanted.clone();
        let stops = || self.shared.stops();
        let link = LinkId::find(&wanted.netns, &wanted.owner.owner().ifname, until, &stops)?;
        self.record.link = Some(link.clone());
        let namespace = NetNs::open(&wanted.netns).map_err(super::link::LinkError::from)?;
        if wanted.options.v4 {
            self.record.v4 = Some(self.inside(&namespace, &link, |client| v4::acquire(client, until))?);
            self.write();
        }
        if wanted.options.v6 {
            self.record.v6 = Some(self.inside(&namespace, &link, |client| v6::acquire(client, until))?);
            self.write();
        }
        Ok(())
    }

    /// Runs an exchange with a server in the link's namespace.
    fn inside<T>(
        &self,
        namespace: &NetNs,
        link: &LinkId,
        exchange: impl FnOnce(&Client<'_>) -> Result<T, ExchangeError>,
    ) -> Result<T, ExchangeError> {
        let stops = || self.shared.stops();
        let options = &self.record.wanted.options;
        let Pace { longest, broadcast } = self.pace;
        let client = Client { link, options, longest, broadcast, stops: &stops };
        namespace.run(|| exchange(&client)).map_err(super::link::LinkError::from)?
    }

    fn keep(&mut self) {
        let Some(link) = self.record.link.clone() else { return };
        let (mut tried4, mut tried6) = (0, 0);
        while !self.shared.stops() {
            let netns = self.record.wanted.netns.clone();
            let Some(namespace) = link.open(&netns) else { return };
            let times = self.record.v4.as_ref().map(|lease| lease.times);
            let next4 = due(times, &mut tried4, |due| self.extend(|record| &mut record.v4, &namespace, &link, due));
            let times = self.record.v6.as_ref().map(|lease| lease.times);
            let next6 = due(times, &mut tried6, |due| self.extend(|record| &mut record.v6, &namespace, &link, due));
            // The namespace must be able to go.
            drop(namespace);
            let next = Duration::from_secs(next4.min(next6).saturating_sub(now()).max(1));
            self.shared.sleep(next.min(LOOK));
        }
        self.give_back();
    }

    /// Prolongs one of the leases, which is in this slot of the record; or gives it up, if it has ended.
    fn extend<L: Prolong>(
        &mut self,
        slot: fn(&mut Record) -> &mut Option<L>,
        namespace: &NetNs,
        link: &LinkId,
        due: Due,
    ) {
        let Some(lease) = slot(&mut self.record).clone() else { return };
        let outcome = match due {
            Due::Ended => Err(ExchangeError::Ended(lease.address())),
            due => self.inside(namespace, link, |client| lease.prolong(client, due == Due::Renew)),
        };
        match outcome {
            Ok(Some(found)) => {
                *slot(&mut self.record) = Some(found);
                self.prolonged();
            }
            Ok(None) => {}
            Err(error) if error.is_final() => {
                *slot(&mut self.record) = None;
                self.lost(namespace, link, &error);
            }
            Err(error) => log(format_args!("{link}: {error}")),
        }
    }

    fn prolonged(&self) {
        self.write();
        if !self.record.is_lost {
            self.shared.set(Ok(self.granted()));
        }
    }

    /// Sets the link down, as the Go plugin does, because the server may assign the address to another host from now on. It stays
    /// down; the container gets an address only by a new ADD.
    fn lost(&mut self, namespace: &NetNs, link: &LinkId, error: &ExchangeError) {
        log(format_args!("{link}: {error}; the link is set down"));
        if let Err(error) = link.set_down(namespace) {
            log(format_args!("{link}: {error}"));
        }
        self.record.is_lost = true;
        self.write();
        self.shared.set(Err(format!("the lease of {link} was lost: {error}")));
    }

    /// Tells the servers, where the link is still there to do so.
    fn give_back(&mut self) {
        let Some(link) = self.record.link.clone() else { return };
        let Some(namespace) = link.open(&self.record.wanted.netns) else { return };
        let wanted = self.record.wanted.options.clone();
        let Pace { longest, broadcast } = self.pace;
        let client = Client { link: &link, options: &wanted, longest, broadcast, stops: &|| false };
        let released = namespace.run(|| {
            let v4 = self.record.v4.as_ref().map_or(Ok(()), |lease| v4::release(&client, lease));
            let v6 = self.record.v6.as_ref().map_or(Ok(()), |lease| v6::release(&client, lease));
            v4.and(v6)
        });
        if let Ok(Err(error)) = released {
            log(format_args!("{link}: the lease was not given back: {error}"));
        }
    }

    fn granted(&self) -> Granted {
        let mut granted = Granted::default();
        let priority = self.record.wanted.options.priority;
        self.record.v4.iter().for_each(|lease| lease.grant(&mut granted, priority));
        self.record.v6.iter().for_each(|lease| lease.grant(&mut granted));
        granted
    }

    fn write(&self) {
        if let Err(error) = self.place.write(&self.record) {
            log(format_args!("cannot write the lease down: {error}"));
        }
    }
}

/// A lease of either protocol.
trait Prolong: Clone {
    /// Its address.
    fn address(&self) -> IpAddr;
    /// Asks its server to prolong it, or any server; `None` if none answers.
    fn prolong(&self, client: &Client<'_>, of_server: bool) -> Result<Option<Self>, ExchangeError>;
}

impl Prolong for v4::Lease {
    fn address(&self) -> IpAddr {
        self.address.into()
    }

    fn prolong(&self, client: &Client<'_>, of_server: bool) -> Result<Option<Self>, ExchangeError> {
        v4::prolong(client, self, of_server)
    }
}

impl Prolong for v6::Lease {
    fn address(&self) -> IpAddr {
        self.address.into()
    }

    fn prolong(&self, client: &Client<'_>, of_server: bool) -> Result<Option<Self>, ExchangeError> {
        v6::prolong(client, self, of_server)
    }
}

/// Does what is due, and says when something is again, in seconds of [`now`].
fn due(times: Option<Times>, tried: &mut u64, extend: impl FnOnce(Due)) -> u64 {
    match times.map(|times| times.due(now(), *tried)) {
        None => u64::MAX,
        Some(Due::Nothing(next)) => next,
        Some(due) => {
            extend(due);
            *tried = now();
            0
        }
    }
}
