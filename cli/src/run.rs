//! Runs a pipeline until it is told to stop, or until it is drained.

use tarn_model::config::Config;
use tokio::sync::oneshot;

/// How a pipeline runs.
#[derive(Debug, Default)]
pub(crate) struct RunOptions {
    /// Ends by itself when every bounded source is read to the end it had at start and all of it is in the lake.
    pub(crate) drain: bool,
    /// Neither progress bars nor words on the terminal; the caller speaks.
    pub(crate) quiet: bool,
    /// Stops like SIGTERM does, once this is sent or its sender is dropped.
    pub(crate) stop: Option<oneshot::Receiver<()>>,
}

/// Runs `config`. SIGTERM and Ctrl-C stop it cleanly.
#[expect(clippy::unused_async, reason = "skeleton")]
pub(crate) async fn run(config: Config, options: RunOptions) -> anyhow::Result<()> {
    let RunOptions { drain, quiet, stop } = options;
    drop((config, drain, quiet, stop));
    anyhow::bail!("running is not wired yet")
}
