//! host-local's modules for the fuzz targets; the plugin is an executable, so they are compiled here again.
#![allow(dead_code)] // the verbs use the rest

#[path = "../../src/address.rs"]
mod address;
#[path = "../../src/allocator.rs"]
mod allocator;
#[path = "../../src/config.rs"]
mod config;
pub mod properties;
#[path = "../../src/range.rs"]
mod range;
#[path = "../../src/resolv_conf.rs"]
mod resolv_conf;
#[path = "../../src/settings.rs"]
mod settings;
#[path = "../../src/store/mod.rs"]
mod store;
