//! `why`: what keeps a packet away, compared with real packets.

pub(crate) mod causes;
pub(crate) mod matrix;
pub(crate) mod probe;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use cni_tests::packets::Proto;
use cni_tests::{Netns, Sandbox, verdict};
use serde_json::Value;

/// The answer to `why FROM TO` as JSON.
fn why(sb: &Sandbox, from: &Netns, to: &str, proto: Proto) -> Value {
    let from = if from.name == "node" { "node".to_owned() } else { from.path() };
    let mut options = vec!["--json"];
    if proto == Proto::Udp {
        options.push("--udp");
    }
    let out = command(sb).args(&options).args([&from, to]).output().expect("why starts");
    let text = String::from_utf8_lossy(&out.stdout);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("why {from} {to}: {error}: {text}{}", String::from_utf8_lossy(&out.stderr));
    });
    log(sb, &options[1..], &from, to);
    answer
}

/// `why`, or `cninet why`: whichever is in the directory under test.
fn command(sb: &Sandbox) -> Command {
    if sb.has("why") {
        return Command::new(sb.dir().join("why"));
    }
    if !sb.has("cninet") {
        verdict::skip("neither why nor cninet in the directory under test");
    }
    let mut command = Command::new(sb.dir().join("cninet"));
    command.arg("why");
    command
}

/// With `CNI_TEST_WHY`, a file's path, what people read is appended there.
fn log(sb: &Sandbox, options: &[&str], from: &str, to: &str) {
    let Some(path) = std::env::var_os("CNI_TEST_WHY") else { return };
    let out = command(sb).args(options).args([from, to]).output().expect("why starts");
    let case = std::thread::current().name().unwrap_or_default().to_owned();
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("the log");
    writeln!(file, "# {case}\n{}", String::from_utf8_lossy(&out.stdout)).expect("the log");
}

/// `ADDRESS:PORT`, in brackets if it is IPv6.
fn place(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// True if the answer says that the packet gets through, the answer included.
fn arrives(answer: &Value) -> bool {
    answer["verdict"] == "arrives"
}
