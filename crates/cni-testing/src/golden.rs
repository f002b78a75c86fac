//! Golden files: what a plan prints is compared with a file that was read before it was committed.
//!
//! ```no_run
//! use cni_testing::golden;
//!
//! # fn plan(_: serde_json::Value) -> String { String::new() }
//! let golden = golden::dir(env!("CARGO_MANIFEST_DIR"));
//! golden.compare_examples("tuning", |example| plan(example.config));
//! ```
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The directory `golden` of a crate.
pub struct GoldenDir(PathBuf);

/// The golden files of the crate in this directory, `env!("CARGO_MANIFEST_DIR")`.
pub fn dir(crate_dir: &str) -> GoldenDir {
    GoldenDir(Path::new(crate_dir).join("golden"))
}

impl GoldenDir {
    /// Compares `printed` with the file `name`. With `UPDATE_GOLDEN=1` in the environment the file is written instead.
    ///
    /// # Panics
    /// If they differ, or there is no such file.
    #[track_caller]
    pub fn compare(&self, name: &str, printed: &str) {
        let path = self.0.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(&self.0).unwrap();
            fs::write(&path, printed).unwrap();
        }
        let expected = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
        assert!(printed == expected, "{} says\n{expected}\nand the plan is\n{printed}", path.display());
    }

    /// Compares what `print` makes of each plugin of this type in `conf-examples/` with the file `<example>.plan`.
    ///
    /// # Panics
    /// If one differs, or there is a `.plan` file for which there is no example, or no example at all.
    #[track_caller]
    pub fn compare_examples(&self, plugin: &str, print: impl Fn(Example) -> String) {
        let examples = examples(plugin);
        assert!(!examples.is_empty(), "no example has {plugin}");
        let names: BTreeSet<String> = examples.iter().map(|example| format!("{}.plan", example.name)).collect();
        for (name, example) in names.iter().zip(examples) {
            self.compare(name, &print(example));
        }
        let files = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let plans: BTreeSet<String> = files.filter(|name| name.ends_with(".plan")).collect();
        assert_eq!(plans, names, "golden files and examples");
    }
}

/// A plugin's part of a file of `conf-examples/`.
#[derive(Debug, Clone)]
pub struct Example {
    /// The file's name without `.conflist`.
    pub name: String,
    /// The plugin's configuration as a runtime sends it: with the list's `cniVersion` and `name`, and without `capabilities`.
    /// The test adds `runtimeConfig` and `prevResult` where the plan depends on them.
    pub config: Value,
}

/// Those of the examples that have a plugin of this type, in the order of the files' names.
///
/// # Panics
/// If a file cannot be read.
pub fn examples(plugin: &str) -> Vec<Example> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conf-examples");
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conflist"));
    files.sort();
    let examples = files.iter().filter_map(|file| {
        let list: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let mut config = list["plugins"].as_array().unwrap().iter().find(|config| config["type"] == plugin)?.clone();
        for key in ["cniVersion", "name"] {
            config[key] = list[key].clone();
        }
        config.as_object_mut().unwrap().remove("capabilities");
        Some(Example { name: file.file_stem().unwrap().to_str().unwrap().to_owned(), config })
    });
    examples.collect()
}
