//! The rows of an answer, wherever they come from: a running process or the lake at rest.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};

/// Columns first, then batches as they come.
pub(crate) struct Rows {
    /// The columns.
    pub(crate) schema: SchemaRef,
    /// What the answer saw, as text.
    pub(crate) vector: String,
    /// The rows.
    pub(crate) batches: BoxStream<'static, anyhow::Result<RecordBatch>>,
}

impl Rows {
    /// Rows out of an Arrow stream; waits for its schema.
    pub(crate) async fn from_ipc(
        vector: String,
        chunks: impl futures::Stream<Item = anyhow::Result<Bytes>> + Send + 'static,
    ) -> anyhow::Result<Rows> {
        let mut reader = IpcReader {
            decoder: StreamDecoder::new(),
            buffer: Buffer::from(&[] as &[u8]),
            chunks: chunks.boxed(),
        };
        let first = reader.next().await?;
        let schema =
            reader.decoder.schema().ok_or_else(|| anyhow::anyhow!("the answer ended before its columns"))?;
        let rest = futures::stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|batch| (batch, reader)))
        });
        let batches = match first {
            Some(first) => futures::stream::iter([Ok(first)]).chain(rest).boxed(),
            None => futures::stream::empty().boxed(),
        };
        Ok(Rows { schema, vector, batches })
    }
}

struct IpcReader {
    decoder: StreamDecoder,
    buffer: Buffer,
    chunks: BoxStream<'static, anyhow::Result<Bytes>>,
}

impl IpcReader {
    /// The next batch; `None` at the end, which must be a proper one.
    async fn next(&mut self) -> anyhow::Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(batch));
            }
            match self.chunks.try_next().await? {
                Some(chunk) => self.buffer = Buffer::from(chunk),
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::ipc::writer::StreamWriter;

    use super::*;

    async fn collected(rows: Rows) -> anyhow::Result<Vec<RecordBatch>> {
        rows.batches.try_collect().await
    }

    #[tokio::test]
    async fn rows_come_out_of_a_stream_cut_anywhere_and_a_torn_one_is_an_error() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &schema).expect("a writer");
        for n in 0..3 {
            let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![n; 100]))]);
            writer.write(&batch.expect("a batch")).expect("written");
        }
        writer.finish().expect("finished");
        drop(writer);
        for size in [1, 7, 64, 100_000] {
            let chunks: Vec<_> = bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let rows = Rows::from_ipc(String::new(), futures::stream::iter(chunks)).await.expect("rows");
            assert_eq!(rows.schema, schema);
            let count: usize =
                collected(rows).await.expect("batches").iter().map(RecordBatch::num_rows).sum();
            assert_eq!(count, 300, "chunks of {size}");
        }
        let torn = vec![Ok(Bytes::copy_from_slice(&bytes[..bytes.len() / 2]))];
        let rows = Rows::from_ipc(String::new(), futures::stream::iter(torn)).await.expect("a schema");
        assert!(collected(rows).await.is_err(), "half an answer is none");
    }
}
