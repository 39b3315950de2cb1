//! Named fault points: where a test kills the process or makes a step fail.
//!
//! Each point between "bytes written" and "tail dropped", and each step of an export, is one call of [`point`]. Without the feature `failpoints` a
//! call compiles to nothing. With it, the environment variable `FAILPOINTS` arms points, in the syntax of the crate
//! `fail`: `FAILPOINTS='lake.commit.after=3*off->return(kill)'` lets three calls pass and kills the process at the
//! fourth. Actions that a point knows: `return(kill)` (SIGKILL, no destructor runs) and `return(error)`.
//!
//! Points come in pairs around a step: `.before` with `error` is "the step failed", `.after` with `error` is "the step
//! succeeded but its caller was told that it failed".

use crate::error::{Error, Result};

/// All points of the way of a record, in its order. Tests go through this list, so a point that is not here is not
/// tested.
pub const POINTS: &[&str] = &[
    "log.append.before",
    "log.append.after",
    "log.sync.before",
    "log.sync.after",
    "log.commit.before",
    "log.commit.after",
    "log.transaction.before",
    "log.transaction.after",
    "log.roll.before",
    "log.roll.after",
    "log.trim.before",
    "log.trim.after",
    "log.compact.before",
    "log.compact.after",
    "log.delete_topic.before",
    "log.delete_topic.after",
    "kafka.groups.before",
    "kafka.groups.after",
    "spool.rename.before",
    "spool.rename.after",
    "lake.upload.before",
    "lake.upload.after",
    "lake.commit.before",
    "lake.commit.after",
    "lake.dead_letters.before",
    "lake.dead_letters.after",
    "lake.optimize.before",
    "lake.optimize.after",
    "lake.checkpoint.before",
    "lake.checkpoint.after",
    "lake.vacuum.before",
    "lake.vacuum.after",
    "lake.event_time.before",
    "lake.event_time.after",
    "import.begin.before",
    "import.begin.after",
    "import.upload.before",
    "import.upload.after",
    "import.commit.before",
    "import.commit.after",
    "import.end.before",
    "import.end.after",
    "table.release.before",
    "table.release.after",
    "view.create.before",
    "view.create.after",
    "view.upload.before",
    "view.upload.after",
    "view.commit.before",
    "view.commit.after",
    "view.merge.before",
    "view.merge.after",
    "view.swap.before",
    "view.swap.after",
    "view.rollback.before",
    "view.rollback.after",
    "view.drop.before",
    "view.drop.after",
    "export.begin.before",
    "export.begin.after",
    "export.stage.before",
    "export.stage.after",
    "export.move.before",
    "export.move.after",
];

/// Passes, fails, or kills the process, as armed.
#[inline]
pub fn point(name: &'static str) -> Result<()> {
    debug_assert!(POINTS.contains(&name), "fault point `{name}` is not in the list");
    fail::fail_point!(name, |action| act(name, action.as_deref()));
    Ok(())
}

/// Reads `FAILPOINTS`; called once by the binary.
pub fn arm_from_environment() {
    if fail::has_failpoints() {
        // The scenario must outlive every point: it is never torn down.
        std::mem::forget(fail::FailScenario::setup());
    }
}

#[cfg_attr(not(feature = "failpoints"), allow(dead_code))]
fn act(name: &str, action: Option<&str>) -> Result<()> {
    if action == Some("kill") {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
    tracing::warn!(point = name, "fault injected at `{name}`");
    Err(Error::unavailable(format!("fault injected at `{name}`")))
}
