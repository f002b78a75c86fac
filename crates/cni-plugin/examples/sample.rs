//! A chained plugin to copy: writes the container's addresses to a file, for a monitoring system or a name server.
//!
//! `{"type": "sample", "directory": "/run/sample"}` after a plugin that makes an interface. docs/authors.md walks through it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cni_plugin::{
    Attachment, CniError, CniResult, Detachment, Difference, Owner, Plugin, Request, SpecVersion, Undo, verdict,
};
use serde::Deserialize;

/// The plugin's keys, as they stand in the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    directory: String,
}

fn main() -> ExitCode {
    let release = concat!("v", env!("CARGO_PKG_VERSION"));
    cni_plugin::main(&Plugin { name: "sample", release, versions: SpecVersion::ALL, add, del, check, gc, status })
}

/// Writes the file and passes the result of the plugins before on. Repeatable: the file is replaced.
fn add(request: &Request<Config>, to: &Attachment, undo: &mut Undo) -> Result<CniResult, CniError> {
    let result = request.require_prev_result()?;
    let path = file(&request.config, &to.owner)?;
    let new = path.with_extension("new");
    // The reverse is pushed first: a write may fail half way.
    let written = [path.clone(), new.clone()];
    undo.push("the address file", move || written.iter().try_for_each(|path| remove(path)));
    fs::write(&new, text(result, &to.owner))
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|error| CniError::plugin(format!("cannot write {}: {error}", path.display())))?;
    Ok(result.clone())
}

/// Removes the owner's files. Nothing to remove is success, and so is a configuration without `directory`.
fn del(request: &Request<Config>, from: &Detachment) -> Result<(), CniError> {
    let Ok(path) = file(&request.config, &from.owner) else { return Ok(()) };
    remove(&path)?;
    remove(&path.with_extension("new"))
}

/// Compares the file with what ADD wrote.
fn check(request: &Request<Config>, of: &Attachment) -> Result<(), CniError> {
    let path = file(&request.config, &of.owner)?;
    let expected = text(request.require_result_of_add()?, &of.owner);
    match fs::read_to_string(&path) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => verdict(&[Difference::new(path.display(), format!("{expected:?}"), format!("{found:?}"))]),
        Err(_) => verdict(&[Difference::missing(path.display())]),
    }
}

/// Removes the files of this network's attachments that are not among the valid ones.
fn gc(request: &Request<Config>, valid: &[Owner]) -> Result<(), CniError> {
    let keep: Vec<String> = valid.iter().map(Owner::key).collect();
    let Ok(entries) = fs::read_dir(&request.config.directory) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let key = name.split('.').next().unwrap_or_default();
        if key.starts_with(&Owner::network_key(&request.network)) && !keep.iter().any(|kept| kept == key) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// An ADD needs the directory, and permission to write there: try.
fn status(request: &Request<Config>) -> Result<(), CniError> {
    let path = PathBuf::from(&request.config.directory).join(".status");
    fs::write(&path, "")
        .and_then(|()| fs::remove_file(&path))
        .map_err(|error| CniError::plugin(format!("directory {:?}: {error}", request.config.directory)).unavailable())
}

/// The owner's file: the name is the owner's key, so that DEL and GC find it knowing nothing else.
fn file(config: &Config, owner: &Owner) -> Result<PathBuf, CniError> {
    if !config.directory.starts_with('/') {
        return Err(CniError::plugin(format!("directory: an absolute path is expected, not {:?}", config.directory)));
    }
    Ok(PathBuf::from(&config.directory).join(owner.key()))
}

fn text(result: &CniResult, owner: &Owner) -> String {
    let addresses: Vec<String> = result.ips_of(&owner.ifname).iter().map(|ip| ip.address.ip().to_string()).collect();
    format!("{} {}\n", owner.container_id, addresses.join(" "))
}

fn remove(path: &Path) -> Result<(), CniError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CniError::from(error)),
        _ => Ok(()),
    }
}
