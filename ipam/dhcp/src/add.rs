//! ADD: gets a lease.

use cni_plugin::{Attachment, CniError, CniResult, Request, Undo};

use crate::client::Daemon;
use crate::config::Config;
use crate::settings;
use crate::wire::{Answer, Call, OwnerName, Wanted};

/// How long the server is asked, in seconds. The plugin that waits for this one gives it 40 s.
const SECONDS: u64 = 30;

/// Requests a lease from the daemon, and starts a daemon if none runs. The link need not exist yet: the calling plugin may create
/// it while this one runs. Idempotent: an owner that has a lease for the same link gets it again.
pub fn add(request: &Request<Config>, attachment: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    let socket = settings::socket(&request.config)?;
    let options = settings::options(&request.config, Some((&attachment.owner, &attachment.args)))?;
    let owner = OwnerName::from(&attachment.owner);
    let daemon = Daemon::connect_or_start(&socket)?;
    let (taken_back, at) = (owner.clone(), socket.clone());
    undo.push("the lease", move || Daemon::connect_or_start(&at)?.call(&Call::Del(taken_back)).map(drop));
    let wanted = Wanted { owner, netns: attachment.netns.clone(), options };
    match daemon.call(&Call::Add { wanted, seconds: SECONDS })? {
        Answer::Granted(granted) => {
            Ok(CniResult { ips: granted.ips, routes: granted.routes, dns: granted.dns, ..CniResult::default() })
        }
        other => Err(other.unexpected()),
    }
}
