//! `watermark('t')`: how far table `t` has come in event time, at the statement's vector.
//!
//! *Why one function per statement*: its value is a fact about the vector that the statement was given, as the tables in it
//! are. So whoever takes the vector also gives the values. A definition of a view knows the name, and is refused for it: what it
//! keeps must not change with the vector.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tarn_model::Error;

/// The function's name.
pub const WATERMARK: &str = "watermark";

/// Table, as the statement writes it → watermark, µs since 1970 UTC.
pub type Watermarks = BTreeMap<String, Option<i64>>;

/// The function with the values of one statement.
pub fn watermark_function(values: Watermarks) -> Arc<ScalarUDF> {
    let signature = Signature::variadic_any(Volatility::Stable);
    Arc::new(ScalarUDF::new_from_impl(WatermarkFunction { values, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WatermarkFunction {
    values: Watermarks,
    signature: Signature,
}

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn table_of<'v>(arguments: &[Option<&'v ScalarValue>]) -> DfResult<&'v str> {
    match arguments {
        [
            Some(
                ScalarValue::Utf8(Some(name))
                | ScalarValue::Utf8View(Some(name))
                | ScalarValue::LargeUtf8(Some(name)),
            ),
        ] => Ok(name),
        _ => Err(DataFusionError::External(Box::new(
            Error::invalid("`watermark` takes the name of a table, as a text")
                .with_hint("`watermark('clicks')`"),
        ))),
    }
}

impl ScalarUDFImpl for WatermarkFunction {
    fn name(&self) -> &str {
        WATERMARK
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(time())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        table_of(args.scalar_arguments)?;
        Ok(Arc::new(Field::new(WATERMARK, time(), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let constants: Vec<Option<&ScalarValue>> = args
            .args
            .iter()
            .map(|arg| match arg {
                ColumnarValue::Scalar(value) => Some(value),
                ColumnarValue::Array(_) => None,
            })
            .collect();
        let table = table_of(&constants)?;
        let Some(at) = self.values.get(table) else {
            return internal_err!("the watermark of `{table}` was not taken with the statement's vector");
        };
        Ok(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(*at, Some("UTC".into()))))
    }
}
