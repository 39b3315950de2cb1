//! What producers send: what of it is refused, and how, and that its times are found.

use super::*;

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_its_code() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let good = bench.batch(&["x"], -1, 0).await;
    let mended = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    };
    let mut torn = good.to_vec();
    torn[40] ^= 1;
    for (batch, code) in [
        (Bytes::from(torn), 2),
        (Bytes::new(), 2),
        (mended(&|b| b[22] = 7), 76),
        (mended(&|b| b[22] |= 0x20), 87),
        // What only the log says: the time of the append, a horizon of tombstones, what nobody knows.
        (mended(&|b| b[22] |= 0x08), 32),
        (mended(&|b| b[22] |= 0x40), 87),
        (mended(&|b| b[21] |= 0x04), 87),
        (mended(&|b| b[60] = 9), 87),
        (mended(&|b| b.resize(2 << 20, 0)), 10),
    ] {
        let answer = wire.ask(&produce(&topic, 9, -1, &batch), 9).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, code);
    }
    let answer = wire.ask(&produce(&topic, 9, 3, &good), 9).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 21, "acks 3");
    assert_eq!(bench.log.span("t", 0).expect("span").to, 0);
    // acks 0 is never answered: the next answer is that of the next request.
    wire.send(&produce(&topic, 9, 0, &good), 9).await;
    let answer = wire.ask(&fetch(&topic, 12, 0, 5000), 12).await;
    assert_eq!(answer.responses[0].partitions[0].high_watermark, 1);
    // With acks 0, the end of the connection says that something was refused.
    wire.send(&produce(&topic, 9, 0, &mended(&|b| b[22] = 7)), 9).await;
    assert_eq!(wire.frame().await, None);
}

#[tokio::test]
async fn a_time_is_found_by_the_records_whatever_the_header_says_of_them() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let zeros = vec![0; 1_000_000];
    let record = |timestamp_ms| RecordRef { timestamp_ms, key: None, value: Some(&zeros), headers: &[] };
    // Much of them fits into one step; each is above what is unpacked at once.
    for first_ms in [1_000_000, 2_000_000, 3_000_000] {
        let records: Vec<RecordRef<'_>> = (0..10).map(|n| record(first_ms + n)).collect();
        let batch = tarn_log::record_batch(&records, Compression::Zstd).expect("a batch");
        let mut batch = batch.to_vec();
        batch[35..43].copy_from_slice(&first_ms.to_be_bytes());
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let answer = wire.ask(&produce(&topic, 9, -1, &batch.into()), 9).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }
    for (time, found) in [(1_000_003, 3), (2_000_009, 19), (3_000_009, 29), (3_000_010, -1)] {
        let partition = list_offsets_request::ListOffsetsPartition::default().with_timestamp(time);
        let of = list_offsets_request::ListOffsetsTopic::default()
            .with_name(name("t"))
            .with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![of]);
        let answer = wire.ask(&request, 7).await;
        let answer = &answer.topics[0].partitions[0];
        assert_eq!((answer.error_code, answer.offset), (0, found), "{time}");
    }
}
