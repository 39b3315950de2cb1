//! Where log lines go: stderr, as text or JSON.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command};

/// Starts logging. A filter that makes no sense is said and left aside.
pub(crate) fn start(args: &Args) {
    let (filter, complaint) = filter(args);
    let colored =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colored);
    // Only the first of a process counts; a second would be a test's.
    let started =
        if args.log_json { builder.json().try_init() } else { builder.with_target(false).try_init() };
    drop(started);
    if let Some(complaint) = complaint {
        tracing::warn!("{complaint}");
    }
}

fn filter(args: &Args) -> (EnvFilter, Option<String>) {
    let level = match args.command {
        Command::Run(_) => "info",
        _ => "warn",
    };
    // Libraries say at info what only their developers want to know.
    let default = format!("warn,tarn={level}");
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let wanted = args.log.clone().or_else(|| variable("TARN_LOG")).or_else(|| variable("RUST_LOG"));
    match wanted.map(|wanted| (EnvFilter::try_new(&wanted), wanted)) {
        None => (EnvFilter::new(default), None),
        Some((Ok(filter), _)) => (filter, None),
        Some((Err(error), wanted)) => {
            (EnvFilter::new(default), Some(format!("`{wanted}` is no log filter: {error}")))
        }
    }
}
