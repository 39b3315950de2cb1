//! What can go wrong in the log, and what its callers should do about each.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tarn_model::{Error, Kind, Offset};

/// A cause; cheap to clone, because one failed commit answers many appends.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LogError {
    #[error("the log is closed")]
    Closed,
    #[error("the log has stopped: {cause}")]
    Stopped { cause: String },
    #[error("the log has no room on `{}`", path.display())]
    Full { path: PathBuf, source: Arc<io::Error> },
    #[error("cannot {doing} `{}`: too many files are open", path.display())]
    TooManyFiles { doing: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("cannot {doing} `{}`", path.display())]
    Io { doing: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("cannot {doing} the log's ledger")]
    Ledger { doing: &'static str, source: Arc<rusqlite::Error> },
    #[error("{0:?}")]
    Injected(Arc<Error>),
    #[error("cannot tell whether the commit was made")]
    Undecided { source: Arc<rusqlite::Error> },
    #[error("`{}` is in use by another process{}", path.display(), holder.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked { path: PathBuf, holder: Option<String> },
    #[error("`{}` has the format `{found}`, which this version of Tarn does not know", path.display())]
    Format { path: PathBuf, found: String },
    #[error("segment `{}` is corrupt at offset {offset} (byte {position}): {what}", segment.display())]
    Segment { segment: PathBuf, offset: Offset, position: u64, what: String },
}

impl LogError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_owned();
        move |source| {
            if is_full(&source) {
                LogError::Full { path, source: Arc::new(source) }
            } else if is_out_of_files(&source) {
                LogError::TooManyFiles { doing, path, source: Arc::new(source) }
            } else {
                LogError::Io { doing, path, source: Arc::new(source) }
            }
        }
    }

    pub(crate) fn ledger(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> LogError {
        move |source| LogError::Ledger { doing, source: Arc::new(source) }
    }

    /// Whether the log can go on by itself once the cause is gone: the disk was full, too many files were open,
    /// or a test said so.
    pub(crate) fn passes(&self) -> bool {
        match self {
            LogError::Full { .. } | LogError::TooManyFiles { .. } | LogError::Injected(_) => true,
            cause => cause.is_full_ledger(),
        }
    }

    /// Whether the ledger had no room on the disk.
    pub(crate) fn is_full_ledger(&self) -> bool {
        let LogError::Ledger { source, .. } = self else { return false };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }

    fn kind(&self) -> Kind {
        match self {
            LogError::Format { .. } => Kind::Invalid,
            LogError::Segment { .. } => Kind::Corrupt,
            LogError::Ledger { source, .. } if is_corrupt(source) => Kind::Corrupt,
            _ => Kind::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            LogError::Closed | LogError::Injected(_) => return None,
            LogError::Stopped { .. } | LogError::Undecided { .. } => {
                "look at the disk, then start Tarn again: it goes on from what is committed".to_owned()
            }
            LogError::Full { path, .. } => {
                format!(
                    "free space on the file system of `{}`; appends go on by themselves then",
                    path.display()
                )
            }
            LogError::TooManyFiles { .. } => {
                "raise the limit of open files (`ulimit -n`, `LimitNOFILE=`); appends go on by themselves once there are some"
                    .to_owned()
            }
            LogError::Io { .. } => "look at the disk and at the folder's permissions".to_owned(),
            cause if cause.is_full_ledger() => {
                "free space on the file system of `data_dir`; appends go on by themselves then".to_owned()
            }
            LogError::Ledger { .. } => "look at the disk of `data_dir`".to_owned(),
            LogError::Locked { path, .. } => {
                format!(
                    "stop the other process, or give this one another `data_dir` than `{}`",
                    path.display()
                )
            }
            LogError::Format { .. } => {
                "use the version of Tarn that wrote it, or another `data_dir`".to_owned()
            }
            LogError::Segment { segment, .. } => format!(
                "keep a copy of `{}`; restore it from a backup, or move `data_dir` away and begin anew",
                segment.display()
            ),
        })
    }
}

/// Whether an error means that the file system is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error means that the process, or the system, has too many files open.
fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE].iter().any(|known| code == Some(known.raw_os_error()))
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

impl From<LogError> for Error {
    fn from(cause: LogError) -> Error {
        let mut error = Error::new(cause.kind(), cause.to_string());
        if let Some(hint) = cause.hint() {
            error = error.with_hint(hint);
        }
        match cause {
            LogError::Full { source, .. }
            | LogError::TooManyFiles { source, .. }
            | LogError::Io { source, .. } => error.with_source(source),
            LogError::Ledger { source, .. } | LogError::Undecided { source } => error.with_source(source),
            _ => error,
        }
    }
}
