//! Work that can wait, on threads that give way to all others of the process.
//!
//! *Why*: a commit encodes files for a second, while somebody asks what takes a millisecond. On a machine of few cores the kernel
//! would share the time out evenly between them, and the question would be answered ten times as late. These threads have a
//! lower priority, so whoever waits for an answer goes first; what is left is theirs, which on most machines is nearly all.
//!
//! *Why a runtime of its own*: a thread inherits its priority from the one that starts it, so nothing that runs here may make the
//! main runtime start threads.
//!
//! *Invariants*: work that runs here waits for no other blocking work that runs here, so that however few threads there are, all
//! of it ends.
//!
//! *Not here*: what somebody waits for, such as decoding a record that was just acknowledged.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// What is added to the niceness of the process: beside a thread that is not niced, one of these gets about a quarter.
const NICER: i32 = 5;
/// The highest niceness that there is.
const NICEST: i32 = 19;
/// Threads for blocking work at once; what is more waits. Some of it waits for a store.
const MAX_BLOCKING: usize = 64;

/// Runs `work`, which may block, on a thread of the background; an error when it has panicked.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    ended(match runtime() {
        Some(runtime) => runtime.spawn_blocking(work),
        None => tokio::task::spawn_blocking(work),
    })
    .await
}

/// Runs `work`, which may keep its thread busy, on the threads of the background; an error when it has panicked.
pub async fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    ended(match runtime() {
        Some(runtime) => runtime.spawn(work),
        None => tokio::spawn(work),
    })
    .await
}

async fn ended<T>(work: JoinHandle<T>) -> Result<T> {
    work.await.map_err(|error| Error::internal("work in the background broke off").with_source(error))
}

/// Never dropped: what still runs when the process ends is as if it had been killed, which everything here is made for.
fn runtime() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        // On Linux both are of the calling thread alone. Where they are refused, all works all the same.
        let niceness = rustix::process::getpriority_process(None).unwrap_or(0);
        let niceness = (niceness + NICER).min(NICEST);
        let built = Builder::new_multi_thread()
            .thread_name("tarn-background")
            .max_blocking_threads(MAX_BLOCKING)
            .on_thread_start(move || _ = rustix::process::setpriority_process(None, niceness))
            .enable_all()
            .build();
        built.map_err(|error| tracing::warn!(%error, "there are no threads for work in the background")).ok()
    });
    runtime.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_threads_of_the_background_give_way() {
        let niceness = || rustix::process::getpriority_process(None).expect("a niceness");
        let before = niceness();
        let nicer = (before + NICER).min(NICEST);
        assert_eq!(run(niceness).await.expect("it runs"), nicer);
        assert_eq!(spawn(async move { niceness() }).await.expect("it runs"), nicer);
        // What they start is of the background, too, and no nicer still.
        let started =
            spawn(async move { tokio::task::spawn_blocking(niceness).await }).await.expect("it runs");
        assert_eq!(started.expect("it runs"), nicer);
        assert_eq!(niceness(), before, "this thread is as it was");
        let beside = tokio::task::spawn_blocking(niceness).await.expect("it runs");
        assert_eq!(beside, before, "and so are those of other runtimes");
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert!(run(|| assert_eq!(1, 2, "on purpose")).await.is_err());
    }
}
