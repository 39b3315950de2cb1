use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;

/// A broker that answers the first request with these bytes behind a length, whatever that is, and is gone.
fn broker(length: i32, body: &'static [u8]) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut length_of_request = [0; 4];
        stream.read_exact(&mut length_of_request).expect("a request");
        let mut request = vec![0; usize::try_from(i32::from_be_bytes(length_of_request)).expect("a length")];
        stream.read_exact(&mut request).expect("all of it");
        let _ = stream.write_all(&length.to_be_bytes());
        let _ = stream.write_all(body);
    });
    (address, thread)
}

async fn refused(length: i32, body: &'static [u8]) -> String {
    let (address, thread) = broker(length, body);
    let error = Connection::open(&address, &Access::default()).await.expect_err("no answer that can be read");
    thread.join().expect("the broker");
    let told = error.chain();
    assert!(told.contains(&address), "{told} does not say which broker");
    told
}

#[tokio::test]
async fn an_answer_that_claims_more_than_it_has_is_an_error_that_names_the_broker_and_costs_no_memory() {
    assert!(refused(i32::MAX, b"").await.contains("are more than"));
    assert!(refused(-1, b"").await.contains("a negative length"));
    // A length within the bound, and no bytes: what was allocated is one step.
    assert!(refused(60 << 20, b"\0\0\0\x01").await.contains("broke"));
    // Two thousand million versions of APIs in ten bytes.
    let counted = refused(10, b"\0\0\0\x01\0\0\x7f\xff\xff\xff").await;
    assert!(counted.contains("an array that passes its end"), "{counted}");
    let torn = refused(14, b"\0\0\0\x01\0\0\0\0\0\x01\0\0\0\0").await;
    assert!(torn.contains("a field that passes its end"), "{torn}");
    assert!(refused(4, b"\0\0\0\x07").await.contains("another request"));
}
