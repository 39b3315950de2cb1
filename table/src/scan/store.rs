//! The lake's store as the only one that a session can reach.

use std::fmt;
use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::object_store::ObjectStore;

use super::lake_url;

/// The lake's store, under its one URL.
pub struct OnlyTheLake(pub Arc<dyn ObjectStore>);

impl fmt::Debug for OnlyTheLake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnlyTheLake")
    }
}

impl ObjectStoreRegistry for OnlyTheLake {
    fn register_store(&self, _: &url::Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &url::Url) -> Result<Arc<dyn ObjectStore>> {
        if url.as_str().starts_with(lake_url().as_str()) {
            return Ok(self.0.clone());
        }
        Err(DataFusionError::Plan("only the lake can be read".to_owned()))
    }
}
