use super::*;

/// CRC-32C of RFC 3720, appendix B.4.
#[test]
fn crc32c_agrees_with_the_rfc() {
    assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(crc32c::crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    assert_eq!(crc32c::crc32c(&(0..32).rev().collect::<Vec<u8>>()), 0x113f_db5c);
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

/// Bit by bit from the polynomial, so that the golden batch does not lean on the crate that it tests.
fn crc32c_by_hand(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 },
        )
    })
}

/// Two records, written out by hand from Kafka's documentation of the format.
#[test]
fn a_batch_has_the_bytes_that_kafka_documents() {
    let mut batch = vec![0; HEADER_BYTES];
    put_record(&mut batch, 0, 0, Some(b"k1"), Some(b"hello"), &[("h", b"v")]);
    put_record(&mut batch, 1, 5, None, Some(b"x"), &[]);
    seal(&mut batch, 0, 2, 1000, 1005);
    place(&mut batch, 42, 7);

    let records: Vec<u8> = [
        &[0x22, 0x00, 0x00, 0x00][..], // length 17, attributes, timestamp delta 0, offset delta 0
        &[0x04],                       // key of 2 bytes
        b"k1",
        &[0x0a], // value of 5 bytes
        b"hello",
        &[0x02, 0x02], // 1 header, name of 1 byte
        b"h",
        &[0x02],
        b"v",
        &[0x0e, 0x00, 0x0a, 0x02, 0x01, 0x02], // length 7, attributes, +5 ms, +1, no key, value of 1 byte
        b"x",
        &[0x00], // no header
    ]
    .concat();
    let body: Vec<u8> = [
        &[0x00, 0x00][..],                                 // attributes
        &[0x00, 0x00, 0x00, 0x01],                         // last offset delta
        &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xe8], // base timestamp 1000
        &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xed], // max timestamp 1005
        &[0xff; 14],                                       // no producer
        &[0x00, 0x00, 0x00, 0x02],                         // 2 records
        &records,
    ]
    .concat();
    let golden: Vec<u8> = [
        &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2a][..], // base offset 42
        &u32::try_from(9 + body.len()).expect("short").to_be_bytes(),
        &[0x00, 0x00, 0x00, 0x07], // leader epoch 7
        &[0x02],                   // magic
        &crc32c_by_hand(&body).to_be_bytes(),
        &body,
    ]
    .concat();
    assert_eq!(batch, golden);
    assert_eq!(golden.len(), 61 + 18 + 8);

    let header = Header::parse(&golden).expect("header");
    assert_eq!((header.base_offset, header.bytes, header.records), (42, golden.len(), 2));
    assert_eq!((header.next_offset(), header.producer_id, header.base_sequence), (44, -1, -1));
    assert_eq!(checksum(&golden), header.crc);
}

#[test]
fn records_come_back_as_they_went() {
    let mut bytes = Vec::new();
    put_record(&mut bytes, 0, -3, Some(b""), None, &[("a", b""), ("b", b"2")]);
    let mut rest = &bytes[..];
    let record = take_record(&mut rest).expect("record");
    assert!(rest.is_empty());
    assert_eq!((record.timestamp_delta, record.offset_delta), (-3, 0));
    assert_eq!((record.key, record.value), (Some(&b""[..]), None));
    assert!(headers_are_whole(record.headers));
    for torn in 0..bytes.len() {
        assert!(take_record(&mut &bytes[..torn]).is_none(), "torn after {torn} bytes");
    }
}

#[test]
fn a_header_out_of_bounds_is_refused() {
    let mut batch = vec![0; HEADER_BYTES];
    put_record(&mut batch, 0, 0, None, Some(b"x"), &[]);
    seal(&mut batch, 0, 1, 0, 0);
    let broken = |at: usize, bytes: &[u8]| {
        let mut copy = batch.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        Header::parse(&copy).expect_err("refused")
    };
    assert_eq!(broken(16, &[1]), "a batch whose magic is not 2");
    assert_eq!(broken(8, &[0x7f, 0xff, 0xff, 0xff]), "a batch length out of bounds");
    assert_eq!(broken(8, &[0, 0, 0, 3]), "a batch length out of bounds");
    assert_eq!(broken(8, &[0xff; 4]), "a negative batch length");
    assert_eq!(broken(0, &[0xff; 8]), "a negative offset or count");
    assert_eq!(Header::parse(&batch[..60]), Err("a torn batch header"));
}
