//! What SQL knows beyond DataFusion's own functions, in definitions and in statements alike.

use datafusion::execution::SessionStateBuilder;

use crate::extremes::extremes;
use crate::watermark_function::{Watermarks, watermark_function};
use crate::windows::windows;

/// `builder` with Tarn's functions; to be called after DataFusion's own are there.
pub fn with_functions(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    let (functions, rule) = windows();
    builder.scalar_functions().get_or_insert_default().extend(functions);
    builder.scalar_functions().get_or_insert_default().push(watermark_function(Watermarks::new()));
    builder.aggregate_functions().get_or_insert_default().extend(extremes());
    builder.with_analyzer_rule(rule)
}
