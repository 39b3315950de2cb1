//! How the process holds memory: what the C library's allocator keeps, and the pages of the program's own file (`program`).
//!
//! *Why*: batches are allocated by one thread and freed by another, megabytes at a time. By default glibc keeps freed blocks of
//! up to 32 MiB, in as many arenas as eight times the cores: a process that needs 350 MiB comes to hold 490. With a fixed
//! threshold a large block goes back to the system when it is freed; the kernel's work for it costs no time that can be
//! measured (docs/benchmarks.md, a). What the environment says (`MALLOC_ARENA_MAX`, `MALLOC_MMAP_THRESHOLD_`) stays.
//!
//! *Not here*: other C libraries; there this does nothing.

#[cfg(target_os = "linux")]
mod program;

#[cfg(target_os = "linux")]
pub use program::let_go as let_go_of_program;

/// Blocks of this size or more go back to the system when they are freed, bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK: libc::c_int = 1 << 20;
/// Arenas for smaller blocks, per core.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS_PER_CORE: usize = 2;

/// Sets the allocator up. To be called before there are other threads.
pub fn set_up() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let arenas = std::thread::available_parallelism().map_or(2, usize::from) * ARENAS_PER_CORE;
        set("MALLOC_ARENA_MAX", libc::M_ARENA_MAX, libc::c_int::try_from(arenas).unwrap_or(libc::c_int::MAX));
        set("MALLOC_MMAP_THRESHOLD_", libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
    }
}

/// Sets one parameter, unless the environment did.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the C library has no other door to its allocator")]
fn set(variable: &str, parameter: libc::c_int, value: libc::c_int) {
    if std::env::var_os(variable).is_none() {
        // SAFETY: `mallopt` takes two numbers, keeps no pointer, locks what it changes, and refuses what it does not know.
        unsafe { libc::mallopt(parameter, value) };
    }
}
