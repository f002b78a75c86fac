//! Times plugins of several directories, interleaved, each directory on a node of its own.
//!
//! `bench attach|bursts|plugins|ports|firewall|host-local|overlay|names|share [OPTIONS] DIR[=BACKEND]...`; `hack/bench.sh` builds, installs and calls it. The first
//! directory is what the others are compared with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a measuring tool")]

mod attach;
mod bursts;
mod connect;
mod contestant;
mod firewall;
mod floor;
mod host_local;
mod names;
mod node;
mod overlay;
mod plugins;
mod ports;
mod share;
mod statistics;
mod turns;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cni_tests::verdict;

use contestant::Contestant;

/// The newest version that all of the plugins that one may want to compare know.
const VERSION: &str = "1.0.0";

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// ADD and DEL of a chain: bridge with host-local and masquerade, portmap with one port.
    Attach {
        #[command(flatten)]
        common: Common,
        /// Containers that are attached before the measurement (a bridge takes about 1000).
        #[arg(long, default_value_t = 0)]
        population: usize,
        /// Also with IPv6.
        #[arg(long)]
        dual_stack: bool,
    },
    /// ADD and DEL of many such chains at once.
    Bursts(Common),
    /// ADD and DEL of single plugins.
    Plugins {
        #[command(flatten)]
        common: Common,
        /// Only this plugin; more than once: these.
        #[arg(long)]
        only: Vec<String>,
    },
    /// A new TCP connection through a published port while the node publishes more and more.
    Ports(Common),
    /// ADD and DEL of firewall, and new TCP connections, on a node that lets more and more other containers through.
    Firewall {
        #[command(flatten)]
        common: Common,
        /// With the legacy iptables tools.
        #[arg(long)]
        legacy: bool,
    },
    /// ADD, CHECK and DEL of host-local at growing numbers of reservations.
    HostLocal(Common),
    /// Round trips and throughput of a network over two hosts, beside the underlay and a VXLAN made by hand.
    Overlay(Common),
    /// Ports that several containers share: spread, cost, and new connections while a container leaves.
    Share(Common),
    /// Lookups of containers' names beside dnsmasq and aardvark-dns, and what dnsname costs.
    Names(names::Options),
}

/// What every subcommand takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// How often each measurement is repeated.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Directories of plugins, each with the packet filter to ask for or none.
    #[arg(required = true, value_name = "DIR[=BACKEND]")]
    contestants: Vec<Contestant>,
}

fn main() -> ExitCode {
    verdict::install_hook();
    let what = Arguments::parse().what;
    let ended = verdict::caught(|| match what {
        What::Attach { common, population, dual_stack } => attach::run(&common, population, dual_stack),
        What::Bursts(common) => bursts::run(&common),
        What::Plugins { common, only } => plugins::run(&common, &only),
        What::Ports(common) => ports::run(&common),
        What::Share(common) => share::run(&common),
        What::Firewall { common, legacy } => firewall::run(&common, legacy),
        What::Names(options) => names::run(&options),
        What::HostLocal(common) => host_local::run(&common),
        What::Overlay(common) => overlay::run(&common),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            println!("FAILED: {stop:?}");
            ExitCode::FAILURE
        }
    }
}
