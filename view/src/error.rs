//! DataFusion's errors in Tarn's words.

use datafusion::error::DataFusionError;
use tarn_model::Error;

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
        DataFusionError::ParquetError(_) => Error::corrupt("a file cannot be read").with_source(error),
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => {
            Error::unavailable("the lake cannot be read").with_source(error)
        }
        DataFusionError::Internal(_) | DataFusionError::ExecutionJoin(_) => {
            Error::internal(message).with_source(error)
        }
        _ => Error::invalid(message),
    }
}
