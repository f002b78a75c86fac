//! One call from top to bottom: environment and stdin in, one JSON document and an exit status out.

use std::ffi::OsStr;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::delegation::Delegates;
use crate::plugin::{Attachment, Detachment, Plugin, Request};
use crate::process::deadline;
use crate::process::stdout;
use crate::process::undo::Undo;
use crate::protocol::args::CniArgs;
use crate::protocol::config::{self, NetConf};
use crate::protocol::env::{self, Parameters, Vars};
use crate::protocol::error::{CniError, code};
use crate::protocol::json::{self, DecodeError};
use crate::protocol::owner::Owner;
use crate::protocol::result::CniResult;
use crate::protocol::verb::{self, Verb};
use crate::protocol::version::SpecVersion;

/// What a call needs at least, in bytes, and for each byte of the configuration.
const MEMORY: usize = 16 << 20;
const MEMORY_PER_BYTE: usize = 32;
/// Few configurations are longer; without a guess std reads 32 bytes at a time first.
const STDIN: usize = 4096;

/// The plugin's environment, streams and namespace. Injected, so that a whole call can be tested without a process.
pub struct Surroundings<'io> {
    /// The environment variables.
    pub vars: Vars,
    /// The configuration comes from here.
    pub stdin: &'io mut dyn Read,
    /// Stdin is a terminal: errors that don't depend on the configuration are reported without waiting for it.
    pub interactive: bool,
    /// The result or the error goes here, and nothing else.
    pub stdout: &'io mut dyn Write,
    /// Everything for a human goes here.
    pub stderr: &'io mut dyn Write,
    /// The namespace that the plugin itself runs in.
    pub own_netns: PathBuf,
}

/// Why GC has removed nothing, and what to do about it.
const NO_LIST: &str = "the configuration has no \"cni.dev/valid-attachments\"; an empty list there removes everything";

/// Runs `plugin` as this process's only purpose.
pub fn main<C: DeserializeOwned>(plugin: &Plugin<C>) -> ExitCode {
    deadline::begin();
    let mut stdout = stdout::open();
    let mut surroundings = Surroundings {
        vars: std::env::vars_os().collect(),
        stdin: &mut std::io::stdin().lock(),
        interactive: std::io::stdin().is_terminal(),
        stdout: &mut stdout,
        stderr: &mut std::io::stderr(),
        own_netns: PathBuf::from("/proc/thread-self/ns/net"),
    };
    // A panic is a bug, or a library's answer to a failed clone(2): rolled back and reported like an error.
    let outcome = catch_unwind(AssertUnwindSafe(|| run(plugin, &mut surroundings)));
    ExitCode::from(outcome.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let msg = format!("the plugin has ended by a panic: {}", why.unwrap_or("see stderr"));
        fail(&mut surroundings, SpecVersion::NEWEST, &CniError::plugin(msg))
    }))
}

/// Fails if there is too little memory for a configuration of this length. Memory that runs out later aborts the process,
/// without an error and without a rollback.
fn refuse_little_memory(stdin: &[u8]) -> Result<(), CniError> {
    let needed = MEMORY + stdin.len().saturating_mul(MEMORY_PER_BYTE);
    Vec::<u8>::new().try_reserve_exact(needed).map_err(|_| {
        CniError::plugin(format!(
            "cannot get {} MiB of memory: raise the limit of the address space (ulimit -v) or the node's memory",
            needed >> 20
        ))
    })
}

/// Runs one call of `plugin` and returns the exit status: 0, or 1 with an error object on stdout.
pub fn run<C: DeserializeOwned>(plugin: &Plugin<C>, io: &mut Surroundings<'_>) -> u8 {
    let parameters = match env::read(&io.vars) {
        Ok(parameters) => parameters,
        Err(_) if env::has_no_verb(&io.vars) => return about(plugin, io),
        Err(error) => {
            let version = version_on_stdin(io);
            return fail(io, version, &error);
        }
    };
    if parameters.verb == Ok(Verb::Version) {
        return write_versions(plugin, io);
    }
    let mut stdin = Vec::with_capacity(STDIN);
    if let Err(error) = io.stdin.read_to_end(&mut stdin) {
        let error = CniError::new(code::IO, format!("cannot read the network configuration from stdin: {error}"));
        return fail(io, SpecVersion::NEWEST, &error);
    }
    if let Err(error) = refuse_little_memory(&stdin) {
        return fail(io, SpecVersion::NEWEST, &error);
    }
    let version = version_in(&stdin);
    match config::parse(&stdin).and_then(|conf| call(plugin, io, parameters, conf, stdin)) {
        Ok(()) => 0,
        Err(error) => fail(io, version, &error),
    }
}

/// A call without a verb is by a person: says what this executable is.
fn about<C>(plugin: &Plugin<C>, io: &mut Surroundings<'_>) -> u8 {
    let versions: Vec<&str> = plugin.versions.iter().map(|version| version.as_str()).collect();
    // Where stderr is closed, nothing can be reported.
    let _ = writeln!(
        io.stderr,
        "CNI {} plugin {}\nCNI protocol versions supported: {}\nRust, cni-plugin {}",
        plugin.name,
        plugin.release,
        versions.join(", "),
        env!("CARGO_PKG_VERSION"),
    );
    0
}

/// The configuration's version, if it is one that we know; else the newest.
fn version_in(stdin: &[u8]) -> SpecVersion {
    let Ok(Value::Object(conf)) = json::parse(stdin) else { return SpecVersion::NEWEST };
    json::get(&conf, "cniVersion").and_then(Value::as_str).and_then(SpecVersion::parse).unwrap_or(SpecVersion::NEWEST)
}

/// As [`version_in`] of stdin, where nothing else of the configuration is looked at.
fn version_on_stdin(io: &mut Surroundings<'_>) -> SpecVersion {
    let mut stdin = Vec::new();
    // What has come until an error is no JSON.
    if !io.interactive {
        let _ = io.stdin.read_to_end(&mut stdin);
    }
    version_in(&stdin)
}

fn write_versions<C>(plugin: &Plugin<C>, io: &mut Surroundings<'_>) -> u8 {
    let versions: Vec<&str> = plugin.versions.iter().map(|version| version.as_str()).collect();
    let asked = version_on_stdin(io);
    let document = serde_json::json!({"cniVersion": asked.as_str(), "supportedVersions": versions});
    match writeln!(io.stdout, "{document}").and_then(|()| io.stdout.flush()) {
        Ok(()) => 0,
        Err(error) => {
            let error = CniError::new(code::IO, format!("cannot write the versions to stdout: {error}"));
            fail(io, asked, &error)
        }
    }
}

fn fail(io: &mut Surroundings<'_>, version: SpecVersion, error: &CniError) -> u8 {
    let document = error.to_json(version.as_str());
    if io.stdout.write_all(&document).and_then(|()| io.stdout.flush()).is_err() {
        let _ = writeln!(io.stderr, "{error}");
    }
    1
}

fn call<C: DeserializeOwned>(
    plugin: &Plugin<C>,
    io: &mut Surroundings<'_>,
    mut parameters: Parameters,
    conf: NetConf,
    stdin: Vec<u8>,
) -> Result<(), CniError> {
    let verb = parameters
        .verb
        .clone()
        .map_err(|text| CniError::new(code::ENVIRONMENT, format!("unknown CNI_COMMAND: {text}")))?;
    let version = verb::gate(&conf.cni_version, verb, plugin.versions)?;
    let vars = without_own_netns(&mut parameters, verb, io)?;
    let valid = if verb == Verb::Gc { config::valid_attachments(&conf)? } else { None };
    let prev_result = prev_result(&conf, version, verb, io)?;
    let (config, ignored) = own_keys::<C>(conf.object, verb, io)?;
    let delegates = Delegates::new(parameters.path.clone(), vars, stdin);
    let request = Request { network: conf.name, version, config, prev_result, delegates };
    match verb {
        Verb::Add => add(plugin, io, &request, &attachment(&request, parameters)?),
        Verb::Check => (plugin.check)(&request, &attachment(&request, parameters)?),
        Verb::Del => (plugin.del)(&request, &detachment(&request, parameters)?),
        Verb::Gc => match valid {
            Some(valid) => (plugin.gc)(&request, &valid).and(collected_all(&ignored)),
            None => {
                let _ = writeln!(io.stderr, "GC removed nothing: {NO_LIST}");
                Ok(())
            }
        },
        Verb::Status => (plugin.status)(&request),
        Verb::Version => Ok(()),
    }
}

/// The plugin's own keys. DEL and GC must work with those that ADD refuses: the runtime calls DEL after that, and a plugin
/// that fails then keeps those before it in the chain from being called. What they remove, they find by its owner. Returns
/// also the errors of the keys that were left out, which it reports on stderr.
fn own_keys<C: DeserializeOwned>(
    object: Map<String, Value>,
    verb: Verb,
    io: &mut Surroundings<'_>,
) -> Result<(C, Vec<DecodeError>), CniError> {
    let decoded = match verb {
        Verb::Del | Verb::Gc => json::decode_without_wrong_keys(object),
        _ => json::decode(Value::Object(object)).map(|config| (config, Vec::new())),
    };
    let (config, ignored) =
        decoded.map_err(|error| CniError::plugin(format!("the network configuration is not valid: {error}")))?;
    for error in &ignored {
        let _ = writeln!(io.stderr, "ignored in the network configuration: {error}");
    }
    Ok((config, ignored))
}

/// GC fails after its work where a key was ignored: it may have led to more to collect, `ipam` above all. Unlike a failed DEL,
/// that delays nothing.
fn collected_all(ignored: &[DecodeError]) -> Result<(), CniError> {
    let Some(error) = ignored.first() else { return Ok(()) };
    Err(CniError::plugin(format!(
        "the network configuration is not valid: {error}: GC removed only what it could find without that key"
    )))
}

fn add<C>(
    plugin: &Plugin<C>,
    io: &mut Surroundings<'_>,
    request: &Request<C>,
    attachment: &Attachment,
) -> Result<(), CniError> {
    let mut undo = Undo::new();
    let result = (plugin.add)(request, attachment, &mut undo)?;
    let document = result.to_json(request.version)?;
    io.stdout
        .write_all(&document)
        .and_then(|()| io.stdout.flush())
        .map_err(|error| CniError::new(code::IO, format!("cannot write the result to stdout: {error}")))?;
    undo.commit();
    Ok(())
}

/// The environment for delegates. ADD is refused in the plugin's own namespace, and DEL is made without a namespace there.
fn without_own_netns(parameters: &mut Parameters, verb: Verb, io: &Surroundings<'_>) -> Result<Vars, CniError> {
    let mut vars = io.vars.clone();
    if parameters.netns_override || !is_own_netns(parameters.netns.as_deref(), &io.own_netns) {
        return Ok(vars);
    }
    match verb {
        Verb::Add => return Err(own_netns(parameters.netns.as_deref())),
        // The container has ended and another process has its process ID: the namespace is gone. Delegates get none
        // either, because the Go plugins refuse this one.
        Verb::Del => {
            parameters.netns = None;
            vars.remove(OsStr::new("CNI_NETNS"));
        }
        _ => {}
    }
    Ok(vars)
}

/// True if `CNI_NETNS` is the namespace that the plugin itself runs in: the node's.
///
/// The Go skeleton makes this test after the verb; made before it, the test protects the node's own interfaces. A path that
/// doesn't exist is left to the plugin: on DEL it is no error.
fn is_own_netns(netns: Option<&Path>, own: &Path) -> bool {
    let metadata = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    netns.and_then(metadata).is_some_and(|given| metadata(own) == Some(given))
}

fn own_netns(netns: Option<&Path>) -> CniError {
    let path = netns.unwrap_or(Path::new(""));
    let msg = format!("CNI_NETNS {path:?} is the network namespace that the plugin itself runs in");
    CniError::new(code::OWN_NETNS, msg).details("set CNI_NETNS_OVERRIDE=1 to allow it")
}

/// In DEL, which must work with whatever is left, a previous result that can't be read counts as none.
fn prev_result(
    conf: &NetConf,
    version: SpecVersion,
    verb: Verb,
    io: &mut Surroundings<'_>,
) -> Result<Option<CniResult>, CniError> {
    let Some(value) = json::get(&conf.object, "prevResult").filter(|value| value.is_object()) else {
        return Ok(None);
    };
    match CniResult::from_prev(value.clone(), version) {
        Ok(result) => Ok(Some(result)),
        Err(error) if verb == Verb::Del => {
            let _ = writeln!(io.stderr, "prevResult is ignored: {error}");
            Ok(None)
        }
        Err(error) => Err(CniError::plugin(format!("cannot read prevResult: {error}"))),
    }
}

fn owner<C>(request: &Request<C>, parameters: &Parameters) -> Result<Owner, CniError> {
    match (&parameters.container_id, &parameters.ifname) {
        (Some(container_id), Some(ifname)) => {
            Ok(Owner { network: request.network.clone(), container_id: container_id.clone(), ifname: ifname.clone() })
        }
        _ => Err(CniError::new(code::ENVIRONMENT, "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing")),
    }
}

fn attachment<C>(request: &Request<C>, parameters: Parameters) -> Result<Attachment, CniError> {
    let owner = owner(request, &parameters)?;
    let netns = parameters
        .netns
        .ok_or_else(|| CniError::new(code::ENVIRONMENT, "required env variables [CNI_NETNS] missing"))?;
    Ok(Attachment { owner, netns, args: CniArgs(parameters.args) })
}

fn detachment<C>(request: &Request<C>, parameters: Parameters) -> Result<Detachment, CniError> {
    let owner = owner(request, &parameters)?;
    Ok(Detachment { owner, netns: parameters.netns, args: CniArgs(parameters.args) })
}
