//! What is heard on a link, by `tcpdump`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::netns::Netns;

/// Starts `tcpdump` on a link of a namespace, and returns once it listens.
pub fn listen(ns: &Netns, link: &str, filter: &str) -> Child {
    let words = ["-n", "-l", "-e", "-i", link, "--immediate-mode", "-Z", "root", filter];
    let mut child = ns
        .run(|| Command::new("tcpdump").args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
        .expect("tcpdump");
    // It says when it listens.
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    while !said.contains("listening") {
        let mut byte = [0];
        if stderr.read(&mut byte).unwrap_or(0) == 0 {
            panic!("tcpdump: {said}");
        }
        said.push(char::from(byte[0]));
    }
    // It has more to say, and a closed pipe would end it.
    child.stderr = Some(stderr);
    child
}

/// What has been heard once all of `wanted` was, each of them a line's words; or after some seconds.
pub fn heard(mut child: Child, wanted: &[&[&str]]) -> String {
    let stdout = child.stdout.take().unwrap();
    let (lines, received) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
    });
    let mut text = String::new();
    let is_in = |text: &str, words: &&[&str]| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
    while !wanted.iter().all(|words| is_in(&text, words)) {
        let Ok(line) = received.recv_timeout(Duration::from_secs(5)) else { break };
        text += &(line + "\n");
    }
    drop(received);
    let _ = child.kill();
    let _ = child.wait();
    let _ = reader.join();
    text
}
