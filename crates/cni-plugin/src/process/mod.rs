//! What one call shares with the other processes of the node: how long it may wait, the processes that it starts, one that
//! outlives it, the locks that it takes, and what it takes back when it fails.

pub mod child;
pub mod companion;
pub mod deadline;
pub(crate) mod lock;
pub(crate) mod overlap;
pub(crate) mod procfs;
pub(crate) mod stdout;
pub(crate) mod undo;
