//! The operator's command: networks and attachments of a node's containers, whatever runtime made them.
//!
//! The truth is on the node: the configuration directories, libcni's cache of results, which all runtimes on libcni write, and the owners
//! that plugins write on what they make. Each command is a file; nothing needs a daemon.

mod args;
mod attached;
mod connect;
mod create;
mod failure;
mod inspect;
mod leaks;
mod ls;
mod node;
mod output;
mod ps;
mod reload;
mod subnets;
mod verbs;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Arguments, Command};
use failure::Failure;
use node::Node;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_printed() {
                eprintln!("{failure}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { json, no_trunc, command } = arguments;
    let node = Node::from_environment();
    match command {
        None | Some(Command::Help { command: None }) => {
            output::print(Arguments::command().render_help().to_string().as_bytes())
        }
        Some(Command::Help { command: Some(name) }) => help(name),
        Some(Command::Ls) => ls::ls(&node, *json, *no_trunc),
        Some(Command::Inspect { names }) => inspect::inspect(&node, names),
        Some(Command::Ps(filter)) => ps::ps(&node, filter, *json, *no_trunc),
        Some(Command::Leaks(scope)) => leaks::leaks(&node, scope, *json, *no_trunc),
        Some(Command::Connect(wanted)) => connect::connect(&node, wanted, *json),
        Some(Command::Disconnect(wanted)) => connect::disconnect(&node, wanted),
        Some(Command::Create(wanted)) => create::create(&node, wanted),
        Some(Command::Rm(wanted)) => create::rm(&node, wanted),
        Some(Command::Prune { yes }) => create::prune(&node, *yes),
        Some(Command::Gc(wanted)) => leaks::gc(&node, wanted, *json),
        Some(Command::Reload { network }) => reload::reload(&node, network.as_deref()),
        Some(Command::Why(wanted)) => why::why(wanted, *json),
        Some(Command::Add(target)) => verbs::add(&node, target),
        Some(Command::Check(target)) => verbs::check(&node, target),
        Some(Command::Del(target)) => verbs::del(&node, target),
        Some(Command::Status { network, .. }) => verbs::status(&node, network),
        Some(Command::Completions { shell }) => completions(*shell),
        Some(Command::Man) => man(),
    }
}

fn help(name: &str) -> Result<(), Failure> {
    let mut command = Arguments::command();
    command.build();
    let found = command.find_subcommand_mut(name);
    let found = found.ok_or_else(|| Failure::new(format!("there is no command {name:?}: cninet help lists all")))?;
    output::print(found.render_help().to_string().as_bytes())
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "cninet", &mut text);
    output::print(&text)
}

/// The manual page: the overview, and behind it each command's options.
fn man() -> Result<(), Failure> {
    let mut command = Arguments::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).section("8").render(&mut text)?;
    for subcommand in command.get_subcommands().filter(|of| of.get_name() != "help") {
        let page = clap_mangen::Man::new(subcommand.clone());
        text.extend(format!(".SH \"cninet {}\"\n", subcommand.get_name()).into_bytes());
        page.render_synopsis_section(&mut text)?;
        page.render_description_section(&mut text)?;
        page.render_options_section(&mut text)?;
    }
    output::print(&text)
}
