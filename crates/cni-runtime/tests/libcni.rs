//! Plugins get from this library what they get from libcni, byte for byte, and the cache's files are the same:
//! `recorded/NAME.calls` is what libcni 1.3.0 did with `recorded/NAME.conflist` (`recorded/record.sh`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cni_runtime::{Attachment, Cache, NetworkList, Runtime};
use serde_json::json;

/// Where the recordings had plugins.
const RECORDED_PATH: &str = "CNI_PATH=/mnt/bin:/other";

/// Runs the list's verbs as `record.sh` does, and returns what its plugins wrote down.
fn replay(conflist: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (bin, record, cache) = (dir.path().join("bin"), dir.path().join("record"), dir.path().join("cni"));
    fs::create_dir(&bin).unwrap();
    let script = include_str!("recorded/plugin.sh").replacen('\n', &format!("\nRECORD={}\n", record.display()), 1);
    for name in ["first", "second"] {
        fs::write(bin.join(name), &script).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let note = |text: &str| {
        let before = fs::read_to_string(&record).unwrap_or_default();
        fs::write(&record, format!("{before}{text}\n")).unwrap();
    };
    let list = NetworkList::read(conflist).unwrap();
    let runtime = Runtime::new([bin.clone(), "/other".into()]).with_cache(Cache::in_dir(&cache));
    let attachment = Attachment::new("cnitool-df26705e2e4ffd095eb1".parse().unwrap(), "eth0".parse().unwrap())
        .in_namespace("/run/netns/blue")
        .with_arg("IgnoreUnknown", "1")
        .with_arg("K8S_POD_NAME", "a")
        .with_capability("portMappings", json!([{"hostPort": 8080, "containerPort": 80}]))
        .with_capability("mac", json!("02:00:00:00:00:01"))
        .with_capability("none", json!(1));
    for verb in ["add", "check", "del", "add", "gc", "status"] {
        note(&format!("# {verb}"));
        let outcome = match verb {
            "add" => runtime.add(&list, &attachment).map(drop),
            "check" => runtime.check(&list, &attachment),
            "del" => runtime.del(&list, &attachment),
            "gc" => runtime.gc(&list, None),
            _ => runtime.status(&list),
        };
        if let Err(error) = outcome {
            // The way out, which libcni doesn't name.
            let text = error.to_string();
            note(&format!("failed: {}", text.split(": it needs").next().unwrap()));
        }
        for file in runtime.cache.path().read_dir().into_iter().flatten() {
            let path = file.unwrap().path();
            note(&format!("cache {}: {}", path.file_name().unwrap().display(), fs::read_to_string(&path).unwrap()));
        }
    }
    let own_path = format!("CNI_PATH={}:/other", bin.display());
    fs::read_to_string(&record).unwrap().replace(&own_path, RECORDED_PATH)
}

#[test]
fn calls_are_those_of_libcni() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut compared = 0;
    for file in recorded.read_dir().unwrap() {
        let conflist = file.unwrap().path();
        if conflist.extension().is_none_or(|extension| extension != "conflist") {
            continue;
        }
        let expected = fs::read_to_string(conflist.with_extension("calls")).unwrap();
        // This process's environment has none; cninet's test has one.
        let expected = expected.lines().filter(|line| !line.starts_with("TRACEPARENT="));
        let replayed = replay(&conflist);
        let (mut expected, mut found) = (expected.enumerate(), replayed.lines());
        loop {
            match (expected.next(), found.next()) {
                (None, None) => break,
                (Some((line, wanted)), found) => {
                    assert_eq!(Some(wanted), found, "{}, line {line}", conflist.display());
                }
                (None, more) => panic!("{}: more calls than libcni makes: {more:?}", conflist.display()),
            }
        }
        compared += 1;
    }
    assert!(compared >= 10, "all recordings are compared");
}
