//! What every end-to-end test needs: a folder, a process in it, HTTP to that process, and a model of what it owes us.

mod folder;
mod http;
mod process;
mod proof;
mod wait;

pub use folder::{Folder, gzip};
pub use http::{Client, VECTOR};
pub use process::{Ended, Running};
pub use proof::{count, exactly_once};
pub use wait::{seconds, wait_for};
