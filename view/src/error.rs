//! DataFusion's errors in Tarn's words.

use std::error::Error as StdError;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::object_store;
use tarn_model::{Error, Kind};

/// What went wrong, without DataFusion's wrapping.
pub fn from_datafusion(error: DataFusionError) -> Error {
    let root = error.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(ours) = inner.downcast_ref::<Error>()
    {
        let copy = Error::new(ours.kind(), ours.to_string());
        return match ours.hint() {
            Some(hint) => copy.with_hint(hint),
            None => copy,
        };
    }
    let message = root.message().trim().trim_end_matches('.').to_owned();
    match root {
        DataFusionError::ResourcesExhausted(_) => {
            Error::unavailable("the states of a view need more memory than they may have")
                .with_hint("raise `serving.view_memory`, or group by less")
                .with_source(error)
        }
        _ if is_gone(&error) => Error::unavailable("a file of the lake is gone").with_source(error),
        DataFusionError::ParquetError(_) => Error::corrupt("a file cannot be read").with_source(error),
        DataFusionError::ArrowError(arrow, _) if matches!(**arrow, ArrowError::ParquetError(_)) => {
            Error::corrupt("a file cannot be read").with_source(error)
        }
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::unavailable("the lake cannot be read").with_source(error)
        }
        DataFusionError::Internal(_) | DataFusionError::ExecutionJoin(_) => {
            Error::internal(message).with_source(error)
        }
        _ => Error::invalid(message),
    }
}

/// Whether what was read is not what was written: bytes that differ, or a file that is gone.
pub fn is_damage(error: &Error) -> bool {
    error.kind() == Kind::Corrupt || is_gone(error)
}

/// The same of an error that a plan ends with.
pub(crate) fn is_read_damage(error: &DataFusionError) -> bool {
    let root = error.find_root();
    is_gone(error)
        || matches!(root, DataFusionError::ParquetError(_))
        || matches!(root, DataFusionError::ArrowError(arrow, _) if matches!(**arrow, ArrowError::ParquetError(_)))
}

/// Whether the states of a view have outgrown what memory they may have.
pub fn is_too_large(error: &Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<DataFusionError>() {
            return matches!(error.find_root(), DataFusionError::ResourcesExhausted(_));
        }
        cause = error.source();
    }
    false
}

/// Whether the object store has said that a file is not there.
fn is_gone(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if matches!(error.downcast_ref::<object_store::Error>(), Some(object_store::Error::NotFound { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use datafusion::parquet::errors::ParquetError;

    use super::*;

    fn not_found() -> object_store::Error {
        object_store::Error::NotFound { path: "v@v1/a.parquet".to_owned(), source: "no such file".into() }
    }

    #[test]
    fn a_file_that_is_gone_is_told_by_its_kind_however_it_is_wrapped() {
        let parquet = ParquetError::External(Box::new(not_found()));
        for error in [
            DataFusionError::ObjectStore(Box::new(not_found())),
            DataFusionError::ParquetError(Box::new(parquet)),
            DataFusionError::External(Box::new(not_found())).context("while reading"),
        ] {
            let error = from_datafusion(error);
            assert!(is_damage(&error), "{error:?}");
            assert_eq!(error.kind(), Kind::Unavailable, "its rows may only have been rewritten: {error:?}");
        }
    }

    #[test]
    fn words_alone_are_no_damage() {
        let planned = DataFusionError::Plan("table 'x' not found".to_owned());
        assert!(!is_damage(&from_datafusion(planned)));
        assert!(!is_damage(&Error::unavailable("the page was not found")));
        let torn = DataFusionError::ParquetError(Box::new(ParquetError::General("bad magic".to_owned())));
        assert!(is_damage(&from_datafusion(torn)));
        let torn = ArrowError::ParquetError("bad page".to_owned());
        assert!(is_damage(&from_datafusion(DataFusionError::ArrowError(Box::new(torn), None))));
    }
}
