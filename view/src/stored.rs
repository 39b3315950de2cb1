//! States as the lake keeps them: types that every engine reads, and back again bit by bit.
//!
//! *Why*: Delta knows no unsigned integers, no times of day, and only microseconds UTC; DataFusion's states hold `UInt64`
//! (averages, variances, digests). Eight-byte types without a place are kept as the BIGINT of the same bits.
//!
//! *Layout*: `g0, g1, …` are the group keys, `s0, s1, …` the states, in the order of the state schema; all take NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result as DfResult};

/// How states of one plan are stored.
#[derive(Debug, Clone)]
pub struct StoredStates {
    states: SchemaRef,
    stored: SchemaRef,
}

impl StoredStates {
    /// The stored form of `states`, whose first `keys` columns are group keys; or which type has none.
    pub(crate) fn of(states: &SchemaRef, keys: usize) -> Result<StoredStates, String> {
        let fields = states.fields().iter().enumerate().map(|(at, field)| {
            let name = if at < keys { format!("g{at}") } else { format!("s{}", at - keys) };
            let stored = stored_type(field.data_type())
                .ok_or_else(|| format!("a state of type `{}` cannot be stored", field.data_type()))?;
            Ok(Field::new(name, stored, true))
        });
        let stored = Arc::new(Schema::new(fields.collect::<Result<Vec<_>, String>>()?));
        Ok(StoredStates { states: Arc::clone(states), stored })
    }

    /// Columns in the lake.
    pub fn schema(&self) -> &SchemaRef {
        &self.stored
    }

    /// Columns in memory.
    pub fn states(&self) -> &SchemaRef {
        &self.states
    }

    /// States as the lake keeps them.
    pub fn store(&self, states: &RecordBatch) -> DfResult<RecordBatch> {
        convert_all(states, &self.stored)
    }

    /// States as they were before [`StoredStates::store`]; columns by position.
    pub fn restore(&self, stored: &RecordBatch) -> DfResult<RecordBatch> {
        convert_all(stored, &self.states)
    }
}

fn convert_all(batch: &RecordBatch, schema: &SchemaRef) -> DfResult<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        return Err(DataFusionError::Internal("states have other columns than their plan".to_owned()));
    }
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| convert(column, field.data_type()));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<Vec<_>, ArrowError>>()?)?)
}

fn stored_type(from: &DataType) -> Option<DataType> {
    Some(match from {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32 => from.clone(),
        DataType::Null => DataType::Boolean,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Decimal128(_, scale) if *scale >= 0 => from.clone(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        eight_bytes if is_eight_bytes(eight_bytes) => DataType::Int64,
        DataType::List(item) => {
            DataType::List(Arc::new(Field::new("element", stored_type(item.data_type())?, true)))
        }
        DataType::Dictionary(_, values) => stored_type(values)?,
        _ => return None,
    })
}

fn is_eight_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::UInt64
            | DataType::Timestamp(..)
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Duration(_)
    )
}

fn convert(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = array.data_type();
    if from == to {
        return Ok(Arc::clone(array));
    }
    match (from, to) {
        (DataType::Null, _) | (_, DataType::Null) => Ok(new_null_array(to, array.len())),
        (DataType::Int64, to) if is_eight_bytes(to) => same_bits(array, to),
        (from, DataType::Int64) if is_eight_bytes(from) => same_bits(array, to),
        (DataType::Timestamp(a, Some(_)), DataType::Timestamp(b, Some(_))) if a == b => same_bits(array, to),
        (DataType::List(_), DataType::List(item)) => {
            let list: &ListArray = array.as_list();
            let values = convert(list.values(), item.data_type())?;
            let list =
                ListArray::try_new(Arc::clone(item), list.offsets().clone(), values, list.nulls().cloned())?;
            Ok(Arc::new(list))
        }
        _ => cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

/// The same bytes under another type of the same width.
fn same_bits(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let data = array.to_data().into_builder().data_type(to.clone()).build()?;
    Ok(arrow::array::make_array(data))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringViewArray, TimestampNanosecondArray, UInt64Array};
    use arrow::buffer::OffsetBuffer;

    use super::*;

    #[test]
    fn states_come_back_bit_by_bit() {
        let items = Arc::new(Field::new_list_field(DataType::UInt64, true));
        let list = ListArray::new(
            Arc::clone(&items),
            OffsetBuffer::from_lengths([2, 0, 1]),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)])),
            Some(vec![true, false, true].into()),
        );
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringViewArray::from(vec![Some("é"), None, Some("")]))),
            ("count", Arc::new(UInt64Array::from(vec![Some(1 << 63), None, Some(u64::MAX)]))),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![Some(i64::MIN), None, Some(7)]))),
            ("float", Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(f64::NAN)]))),
            ("list", Arc::new(list)),
            ("null", new_null_array(&DataType::Null, 3)),
        ];
        let states = RecordBatch::try_from_iter(columns).expect("a batch");
        let stored = StoredStates::of(&states.schema(), 1).expect("all can be stored");
        let kept = stored.store(&states).expect("stored");
        assert!(kept.schema().fields().iter().all(|field| field.is_nullable()));
        let back = stored.restore(&kept).expect("restored");
        assert_eq!(back.schema().fields().len(), states.schema().fields().len());
        for (a, b) in back.columns().iter().zip(states.columns()) {
            assert_eq!(a.to_data(), b.to_data());
        }
    }
}
