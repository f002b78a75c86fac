//! What the tests of several crates share. A dev-dependency only.

pub mod golden;
pub mod ipam;
pub mod private;
