//! Long polls: what wakes them, and what they are answered.

use super::*;

#[tokio::test]
async fn a_long_poll_is_woken_by_the_record_it_waits_for() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let (mut reader, mut writer) = (bench.connect().await, bench.connect().await);
    reader.send(&fetch(&topic, 12, 0, 60_000), 12).await;
    let batch = bench.batch(&["awaited"], -1, 0).await;
    writer.ask(&produce(&topic, 9, 1, &batch), 9).await;
    let (_, answer) = reader.receive::<FetchResponse>(12).await;
    assert_eq!(answer.responses[0].partitions[0].records.as_ref().expect("records").len(), batch.len());
    // And ends by itself when nothing comes.
    let answer = reader.ask(&fetch(&topic, 12, 1, 50), 12).await;
    assert!(answer.responses[0].partitions[0].records.as_ref().is_none_or(Bytes::is_empty));
}

#[tokio::test]
async fn a_long_poll_for_many_bytes_has_them_all_and_at_its_end_what_there_is() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let (mut reader, mut writer) = (bench.connect().await, bench.connect().await);
    let batch = bench.batch(&["one of some"], -1, 0).await;
    let records = |answer: &FetchResponse| {
        answer.responses[0].partitions[0].records.as_ref().map_or(0, Bytes::len) / batch.len()
    };
    writer.ask(&produce(&topic, 9, 1, &batch), 9).await;
    let three = i32::try_from(3 * batch.len()).expect("small");
    reader.send(&fetch(&topic, 12, 0, 60_000).with_min_bytes(three), 12).await;
    for _ in 0..2 {
        writer.ask(&produce(&topic, 9, 1, &batch), 9).await;
    }
    assert_eq!(records(&reader.receive::<FetchResponse>(12).await.1), 3);
    reader.send(&fetch(&topic, 12, 1, 500).with_min_bytes(2 * three), 12).await;
    writer.ask(&produce(&topic, 9, 1, &batch), 9).await;
    let at_its_end = records(&reader.receive::<FetchResponse>(12).await.1);
    assert!((2..=3).contains(&at_its_end), "what was there, and the last if it came in time: {at_its_end}");
}

#[tokio::test]
async fn a_long_poll_does_not_go_on_in_another_topic_of_the_name() {
    let bench = Bench::new().await;
    let topic = bench.topic("t", 1).await;
    let mut reader = bench.connect().await;
    reader.send(&fetch(&topic, 13, 0, 60_000), 13).await;
    bench.log.delete_topic("t").await.expect("deleted");
    let new = bench.topic("t", 1).await;
    let batch = bench.batch(&["of the new one"], -1, 0).await;
    bench.connect().await.ask(&produce(&new, 9, 1, &batch), 9).await;
    let (_, answer) = reader.receive::<FetchResponse>(13).await;
    // That it is gone, or (when the fetch came late) that no topic has the id.
    let partition = &answer.responses[0].partitions[0];
    assert!([3, 100].contains(&partition.error_code), "{partition:?}");
}
