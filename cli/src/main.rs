//! The `tarn` binary: the command line, and the wiring behind it.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 the command line or the config is wrong.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one crate that speaks to people")]

mod admin;
mod args;
mod check;
mod dead_letters;
mod demo;
mod door;
mod export;
mod failure;
mod import;
mod imports;
mod kafka;
mod logging;
mod pipeline;
mod progress;
mod queries;
mod render;
mod rest;
mod rows;
mod run;
mod shell;
mod source;
mod sql;
mod status;
mod table;
mod verify;
mod views;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};

fn main() -> ExitCode {
    tarn_malloc::set_up();
    let args = Args::parse();
    logging::start(&args);
    tarn_model::fault::arm_from_environment();
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    if let Command::Check(check) = &args.command {
        return check::check(check);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match args.command {
            Command::Demo(demo) => demo::demo(demo).await,
            Command::Run(options) => {
                let config = args::loader(options.insecure).load(options.file.found()?)?;
                run::run(config, run::RunOptions { drain: options.drain, quiet: false, stop: None }).await
            }
            Command::Check(check) => check::check(&check),
            Command::Sql(sql) => sql::sql(sql).await,
            Command::Status(status) => status::status(status).await,
            Command::Verify(verify) => verify::verify(verify).await,
            Command::Table(table) => table::table(table).await,
            Command::Topic(topic) => kafka::topic(topic).await,
            Command::Group(group) => kafka::group(group).await,
            Command::Produce(produce) => kafka::produce(produce).await,
            Command::Consume(consume) => kafka::consume(consume).await,
            Command::Source(options) => source::source(options).await,
            Command::Eval(eval) => source::eval(eval).await,
            Command::Import(args) => import::import(args).await,
            Command::Export(options) => export::export(options).await,
            Command::View(view) => views::view(view).await,
        }
    });
    // Upkeep that is still under way ends with the process, as a kill would end it. Taking the runtime down first would make
    // threads panic that wait for one of its tasks.
    std::mem::forget(runtime);
    outcome
}
