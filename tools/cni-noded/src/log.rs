//! Lines on stderr, which the service manager keeps.

use std::io::{self, Write};

/// Writes a line. A closed stderr is no error.
pub fn line(text: &str) {
    let _ = writeln!(io::stderr(), "cni-noded: {text}");
}
