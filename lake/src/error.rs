//! The one place where causes become [`tarn_model::Error`]s: each with what to do about it.

use std::error::Error as StdError;
use std::io;

use object_store::path::Path;
use tarn_model::{Error, Kind};

/// What a failed operation on the object store means to its caller.
///
/// A full disk, a read-only file system and a lost connection pass, so all of them are [`Kind::Unavailable`]; only the
/// hint differs.
pub(crate) fn store(doing: &str, path: &Path, source: object_store::Error) -> Error {
    let message = format!("{doing} failed: path=`{path}`");
    let cause = io_cause(&source).map(io::Error::kind);
    let hint = match (&source, cause) {
        (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => {
            "the lake's disk is full: free some space, or vacuum; writing goes on by itself then"
        }
        (_, Some(io::ErrorKind::ReadOnlyFilesystem)) => {
            "the lake's file system is mounted read-only: remount it for writing; writing goes on by itself then"
        }
        (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }, _)
        | (_, Some(io::ErrorKind::PermissionDenied)) => {
            "give this process the right to read and write below the lake's url"
        }
        (object_store::Error::NotFound { .. }, _) => {
            "the file is gone: was the lake cleaned by another program? reload the table, or restore the file"
        }
        (object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. }, _) => {
            return Error::new(Kind::Invalid, message)
                .with_source(source)
                .with_hint("this object store lacks an operation that a lake needs");
        }
        _ => "the lake cannot be reached now: check the disk or the network; it is tried again",
    };
    Error::unavailable(message).with_source(source).with_hint(hint)
}

/// An error of reading or writing Parquet in memory, or of arrow arithmetic over rows of ours.
pub(crate) fn internal(doing: &str, source: impl StdError + Send + Sync + 'static) -> Error {
    Error::internal(format!("{doing} failed")).with_source(source)
}

/// A task of ours that panicked or was cancelled by a runtime that shuts down.
pub(crate) fn task(source: tokio::task::JoinError) -> Error {
    if source.is_cancelled() {
        Error::unavailable("the runtime shuts down").with_source(source)
    } else {
        Error::internal("a task of the lake panicked").with_source(source)
    }
}

fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            // `io::Error::other(source)` hides the cause that has the errno one level down.
            return io.get_ref().and_then(|inner| io_cause(inner)).or(Some(io));
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(kind: io::ErrorKind) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: Box::new(io::Error::from(kind)) }
    }

    #[test]
    fn a_full_disk_and_a_read_only_lake_are_unavailable_and_say_so() {
        let full = store("write", &Path::from("t/a"), wrapped(io::ErrorKind::StorageFull));
        assert_eq!(full.kind(), Kind::Unavailable);
        assert!(full.hint().is_some_and(|hint| hint.contains("disk is full")));
        let read_only = store("write", &Path::from("t/a"), wrapped(io::ErrorKind::ReadOnlyFilesystem));
        assert_eq!(read_only.kind(), Kind::Unavailable);
        assert!(read_only.hint().is_some_and(|hint| hint.contains("read-only")));
    }
}
