//! All tables of this process, by topic.

use std::sync::Arc;

use tarn_lake::Lake;
use tarn_model::Result;

use crate::cut::TopicHub;

/// Topics with their hubs, and the lake that their files lie in; clones share it.
#[derive(Debug, Clone)]
pub struct Catalog {}

#[expect(unused_variables, reason = "skeleton")]
impl Catalog {
    /// An empty catalog over `lake`.
    pub fn new(lake: Lake) -> Catalog {
        unimplemented!()
    }

    /// A catalog of everything that lies in `lake`, with empty tails: the lake at rest.
    pub async fn at_rest(lake: Lake) -> Result<Catalog> {
        unimplemented!()
    }

    /// The lake.
    pub fn lake(&self) -> &Lake {
        unimplemented!()
    }

    /// The hub of `topic`, created when absent.
    pub fn hub(&self, topic: &str) -> Arc<TopicHub> {
        unimplemented!()
    }

    /// All hubs, by topic name.
    pub fn hubs(&self) -> Vec<Arc<TopicHub>> {
        unimplemented!()
    }

    /// Says that every tail has reached the committed end found at open.
    pub fn set_ready(&self) {
        unimplemented!()
    }

    /// Whether SQL may answer.
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }
}
