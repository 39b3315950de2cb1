use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::fixture::{Shop, options};
use crate::{Engine, EngineOptions};

mod tools;

/// A client that says exactly what it is told to, byte by byte.
struct Client {
    stream: TcpStream,
    process: i32,
    secret: i32,
}

/// What the server said: kind and body.
type Said = Vec<(u8, Vec<u8>)>;

impl Client {
    async fn connect(server: &PostgresServer) -> Client {
        let (mut client, said) = Client::begin(server, "ann", "tarn").await;
        assert_eq!(said.last().map(|(tag, _)| *tag), Some(b'Z'), "{said:?}");
        let key = said.iter().find(|(tag, _)| *tag == b'K').expect("a key");
        let mut key = &key.1[..];
        (client.process, client.secret) = (key.get_i32(), key.get_i32());
        client
    }

    async fn begin(server: &PostgresServer, user: &str, database: &str) -> (Client, Said) {
        let stream = TcpStream::connect(server.address()).await.expect("a connection");
        let mut client = Client { stream, process: 0, secret: 0 };
        // Encryption is refused, and the client goes on without it.
        client.stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.expect("sent");
        assert_eq!(client.stream.read_u8().await.expect("an answer"), b'N');
        let mut body = BytesMut::new();
        body.put_i32(3 << 16);
        for word in ["user", user, "database", database, "DateStyle", "ISO", "TimeZone", "Europe/Oslo", ""] {
            body.put_slice(word.as_bytes());
            body.put_u8(0);
        }
        let length = i32::try_from(body.len() + 4).expect("short");
        client.stream.write_all(&[&length.to_be_bytes()[..], &body].concat()).await.expect("sent");
        let said = client.until_ready().await;
        (client, said)
    }

    async fn send(&mut self, tag: u8, body: &[u8]) {
        let length = i32::try_from(body.len() + 4).expect("short");
        self.stream.write_all(&[&[tag][..], &length.to_be_bytes(), body].concat()).await.expect("sent");
    }

    async fn said(&mut self) -> Option<(u8, Vec<u8>)> {
        let tag = self.stream.read_u8().await.ok()?;
        let length = usize::try_from(self.stream.read_i32().await.ok()?).expect("a length") - 4;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((tag, body))
    }

    async fn until_ready(&mut self) -> Said {
        let mut all = Vec::new();
        while let Some((tag, body)) = self.said().await {
            all.push((tag, body));
            if tag == b'Z' {
                break;
            }
        }
        all
    }

    async fn query(&mut self, sql: &str) -> Said {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat()).await;
        self.until_ready().await
    }

    /// The rows of an answer, as texts.
    async fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let said = self.query(sql).await;
        assert!(fields(&said).is_none(), "{sql}: {:?}", fields(&said));
        rows(&said).into_iter().map(|row| row.into_iter().map(|value| value.map(text)).collect()).collect()
    }

    /// The error of a statement: its fields by their letters.
    async fn error(&mut self, sql: &str) -> HashMap<char, String> {
        let said = self.query(sql).await;
        fields(&said).unwrap_or_else(|| panic!("`{sql}` was answered: {said:?}"))
    }

    async fn parse(&mut self, name: &str, sql: &str, types: &[u32]) {
        let mut body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
        body.put_u16(u16::try_from(types.len()).expect("few"));
        types.iter().for_each(|oid| body.put_u32(*oid));
        self.send(b'P', &body).await;
    }

    /// Values in format `format`, results in format `results`.
    async fn bind(&mut self, portal: &str, name: &str, format: i16, values: &[Option<&[u8]>], results: i16) {
        let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0"].concat();
        body.put_u16(1);
        body.put_i16(format);
        body.put_u16(u16::try_from(values.len()).expect("few"));
        for value in values {
            body.put_i32(value.map_or(-1, |value| i32::try_from(value.len()).expect("short")));
            body.put_slice(value.unwrap_or_default());
        }
        body.put_u16(1);
        body.put_i16(results);
        self.send(b'B', &body).await;
    }

    async fn execute(&mut self, portal: &str, most: i32) {
        self.send(b'E', &[portal.as_bytes(), b"\0", &most.to_be_bytes()].concat()).await;
    }

    async fn sync(&mut self) -> Said {
        self.send(b'S', b"").await;
        self.until_ready().await
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("a text")
}

fn tags(said: &Said) -> String {
    said.iter().map(|(tag, _)| char::from(*tag)).collect()
}

fn rows(said: &Said) -> Vec<Vec<Option<Vec<u8>>>> {
    let row = |body: &Vec<u8>| {
        let mut body = &body[..];
        let count = body.get_u16();
        let value = |_| {
            let length = usize::try_from(body.get_i32()).ok()?;
            Some(body.copy_to_bytes(length).to_vec())
        };
        (0..count).map(value).collect()
    };
    said.iter().filter(|(tag, _)| *tag == b'D').map(|(_, body)| row(body)).collect()
}

/// Name and type of each column.
fn described(said: &Said) -> Vec<(String, u32)> {
    let body = said.iter().find(|(tag, _)| *tag == b'T').expect("a description");
    let mut body = &body.1[..];
    let count = body.get_u16();
    let column = |_| {
        let end = body.iter().position(|byte| *byte == 0).expect("a name");
        let name = text(body.copy_to_bytes(end).to_vec());
        body.advance(7);
        let oid = body.get_u32();
        body.advance(8);
        (name, oid)
    };
    (0..count).map(column).collect()
}

fn fields(said: &Said) -> Option<HashMap<char, String>> {
    let (_, body) = said.iter().find(|(tag, _)| *tag == b'E')?;
    let fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    Some(fields.map(|field| (char::from(field[0]), text(field[1..].to_vec()))).collect())
}

async fn serve(shop: &Shop) -> PostgresServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    PostgresServer::start(listener, shop.engine.clone()).expect("a server")
}

async fn shop_with(rows: i64) -> Shop {
    let shop = Shop::open().await;
    shop.publish(0, rows);
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_answered_with_types_and_texts() {
    let shop = shop_with(3).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    let said = client
        .query("SELECT _timestamp, word, n, day, n * 1.5 AS f, n > 1 AS b FROM clicks ORDER BY n")
        .await;
    assert_eq!(tags(&said), "TDDDCZ");
    let types: Vec<u32> = described(&said).iter().map(|(_, oid)| *oid).collect();
    assert_eq!(types, [1184, 25, 20, 25, 701, 16]);
    let second: Vec<Option<String>> = rows(&said)[1].iter().cloned().map(|value| value.map(text)).collect();
    let expected = ["2023-11-14 22:13:20.001001+00", "w1", "1", "2026-01-01", "1.5", "f"];
    assert_eq!(second, expected.map(|value| Some(value.to_owned())));
    assert_eq!(rows(&said)[0][3], None, "a NULL");
    assert_eq!(described(&client.query("SELECT count(*), 1 + 1 FROM clicks").await)[0].0, "count");
    assert_eq!(tags(&client.query(" ; ").await), "IZ");
    assert_eq!(
        client.rows("SELECT [1, 2, NULL], arrow_cast('x', 'Binary'), DATE '2024-02-29'").await[0],
        [Some("{1,2,NULL}".to_owned()), Some("\\x78".to_owned()), Some("2024-02-29".to_owned())]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_takes_values_of_its_types() {
    let shop = shop_with(100).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    // The type of the second is the client's word, that of the first follows from the statement.
    client
        .parse("s", "SELECT n, word FROM clicks WHERE n = $1 OR word = upper($2) OR n = $3", &[0, 25, 23])
        .await;
    client.send(b'D', b"Ss\0").await;
    let said = client.sync().await;
    assert_eq!(tags(&said), "1tTZ", "{:?}", fields(&said));
    assert_eq!(said[1].1, [0, 3, 0, 0, 0, 20, 0, 0, 0, 25, 0, 0, 0, 23]);
    assert_eq!(described(&said), [("n".to_owned(), 20), ("word".to_owned(), 25)]);
    client.bind("", "s", 0, &[Some(b"7"), None, Some(b"8")], 0).await;
    client.execute("", 0).await;
    let said = client.sync().await;
    assert_eq!(tags(&said), "2DDCZ", "{:?}", fields(&said));
    client.bind("", "s", 1, &[Some(&9_i64.to_be_bytes()), Some(b"x"), Some(&10_i32.to_be_bytes())], 1).await;
    client.execute("", 0).await;
    let said = client.sync().await;
    let numbers: Vec<Option<Vec<u8>>> = rows(&said).into_iter().map(|row| row[0].clone()).collect();
    assert!(numbers.contains(&Some(9_i64.to_be_bytes().to_vec())), "{said:?}");
    assert!(numbers.contains(&Some(10_i64.to_be_bytes().to_vec())), "{said:?}");
    // A value that does not fit is told, and what follows it is read past until the client says so.
    client.bind("", "s", 0, &[Some(b"seven"), None, None], 0).await;
    client.execute("", 0).await;
    let said = client.sync().await;
    assert_eq!(tags(&said), "EZ");
    assert_eq!(fields(&said).expect("an error")[&'C'], "22P02");
    // Times and decimals.
    client.parse("", "SELECT count(*) FROM clicks WHERE _timestamp < $1 AND n < $2", &[1184, 1700]).await;
    client.bind("", "", 0, &[Some(b"2023-11-14 22:13:20.005+00"), Some(b"3.5")], 0).await;
    client.send(b'D', b"P\0").await;
    client.execute("", 0).await;
    let said = client.sync().await;
    assert_eq!(tags(&said), "12TDCZ", "{:?}", fields(&said));
    assert_eq!(rows(&said)[0][0], Some(b"4".to_vec()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_is_read_bit_by_bit() {
    let shop = shop_with(30).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    client.query("BEGIN").await;
    client.parse("", "SELECT n FROM clicks ORDER BY n", &[]).await;
    client.bind("c", "", 0, &[], 0).await;
    client.execute("c", 20).await;
    let said = client.sync().await;
    assert_eq!(tags(&said), format!("12{}sZ", "D".repeat(20)));
    client.execute("c", 20).await;
    let said = client.sync().await;
    assert_eq!(tags(&said), format!("{}CZ", "D".repeat(10)));
    assert_eq!(rows(&said)[0][0], Some(b"20".to_vec()));
    client.query("DECLARE d CURSOR FOR SELECT n FROM clicks ORDER BY n").await;
    assert_eq!(client.rows("FETCH 2 FROM d").await.len(), 2);
    assert_eq!(tags(&client.query("MOVE 5 IN d").await), "TCZ");
    assert_eq!(client.rows("FETCH FORWARD 1 FROM d").await, [[Some("7".to_owned())]]);
    assert_eq!(client.rows("FETCH ALL FROM d").await.len(), 22);
    assert_eq!(client.rows("FETCH d").await.len(), 0);
    client.query("COMMIT").await;
    assert_eq!(client.error("FETCH d").await[&'C'], "34000", "a cursor ends with its transaction");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_code_place_and_what_to_do() {
    let shop = shop_with(3).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    for (sql, code, place, hint) in [
        ("SELECT wrod FROM clicks", "42703", "8", "did you mean `word`?"),
        ("SELECT *\nFROM clikcs", "42P01", "15", "did you mean `clicks`?"),
        ("SELECT sun(n) FROM clicks", "42883", "8", "did you mean"),
        ("SELECT 1 FORM clicks", "42601", "15", ""),
        ("SELECT CAST('x' AS BIGINT) FROM clicks", "22P02", "13", ""),
        ("SELECT word - n FROM clicks", "42804", "", ""),
        ("SELECT 1 / (n - n) FROM clicks", "22012", "", ""),
    ] {
        let error = client.error(sql).await;
        assert_eq!(error[&'C'], code, "{sql}: {error:?}");
        if !place.is_empty() {
            assert_eq!(error.get(&'P').map(String::as_str), Some(place), "{sql}: {error:?}");
        }
        assert!(
            hint.is_empty() || error.get(&'H').is_some_and(|told| told.contains(hint)),
            "{sql}: {error:?}"
        );
        let told = shop.rows(sql, None).await.expect_err("an error").to_string();
        assert_eq!(error[&'M'], told, "one text over every door");
    }
    assert_eq!(client.error("SELECT $1").await[&'S'], "ERROR");
    assert_eq!(client.rows("SELECT 1").await.len(), 1, "the session goes on");
    // A transaction that failed takes nothing but its end.
    client.query("BEGIN").await;
    client.error("SELECT wrod FROM clicks").await;
    assert_eq!(client.error("SELECT 1").await[&'C'], "25P02");
    let said = client.query("COMMIT").await;
    assert_eq!((&said[0].1[..], &said[1].1[..]), (&b"ROLLBACK\0"[..], &b"I"[..]));
    let (_, said) = Client::begin(&server, "ann", "another").await;
    assert_eq!(fields(&said).expect("an error")[&'C'], "3D000");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_ends_the_statement_and_nothing_else() {
    let shop = shop_with(3).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    let endless = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value < b.value";
    client.send(b'Q', &[endless.as_bytes(), b"\0"].concat()).await;
    while shop.engine.statements().running == 0 {
        tarn_model::clock::pause(Duration::from_millis(5)).await;
    }
    let cancel = |secret: i32| {
        let (address, process) = (server.address(), client.process);
        async move {
            let mut visit = TcpStream::connect(address).await.expect("a connection");
            let words = [16, 80_877_102, process, secret].map(i32::to_be_bytes).concat();
            visit.write_all(&words).await.expect("sent");
            let _ = visit.read_u8().await;
        }
    };
    cancel(client.secret.wrapping_add(1)).await;
    assert_eq!(shop.engine.statements().running, 1, "a wrong secret does nothing");
    cancel(client.secret).await;
    let said = client.until_ready().await;
    assert_eq!(fields(&said).expect("an error")[&'C'], "57014");
    assert_eq!(client.rows("SELECT 1").await.len(), 1);
    client.query("SET statement_timeout = '200ms'").await;
    let error = client.error(endless).await;
    assert_eq!(error[&'C'], "57014", "{error:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_write_nothing_and_reach_nothing() {
    let shop = shop_with(3).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    for sql in [
        "COPY clicks TO '/tmp/tarn-copied'",
        "COPY (SELECT 1) TO PROGRAM 'touch /tmp/tarn-copied'",
        "COPY clicks FROM STDIN",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TABLE x (a INT)",
        "CREATE VIEW x AS SELECT 1",
        "INSERT INTO clicks VALUES (1)",
        "DELETE FROM clicks",
        "UPDATE clicks SET n = 1",
        "DROP TABLE clicks",
        "TRUNCATE clicks",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT 1; DROP TABLE clicks",
        "SET datafusion.execution.batch_size = 1",
        "SET data_directory = '/'",
        "ALTER SYSTEM SET x = 1",
        "LOAD 'x'",
        "DO 'x'",
        "LISTEN x",
        "PREPARE x AS DELETE FROM clicks",
        "EXPLAIN ANALYZE INSERT INTO clicks VALUES (1)",
        "DECLARE c CURSOR FOR DELETE FROM clicks",
        "COPY (DELETE FROM clicks) TO STDOUT",
        &format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
    ] {
        let shown = &sql[..sql.len().min(60)];
        let error = client.error(sql).await;
        assert!(error[&'C'] != "XX000", "{shown}: {error:?}");
        client.parse("", sql, &[]).await;
        client.bind("", "", 0, &[], 0).await;
        client.execute("", 0).await;
        assert!(fields(&client.sync().await).is_some(), "prepared: {shown}");
    }
    // A hundred megabytes are read past, and the session goes on.
    client.stream.write_all(&[&b"Q"[..], &(100_000_000_i32 + 4).to_be_bytes()].concat()).await.expect("sent");
    let piece = vec![b'('; 1_000_000];
    for _ in 0..100 {
        client.stream.write_all(&piece).await.expect("sent");
    }
    assert_eq!(fields(&client.until_ready().await).expect("an error")[&'C'], "54000");
    assert_eq!(client.rows("SELECT count(*) FROM clicks").await, [[Some("3".to_owned())]]);
    assert!(!std::path::Path::new("/tmp/tarn-copied").exists());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_as_text_and_csv() {
    let shop = shop_with(2).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    let copied = |said: &Said| -> String {
        assert!(fields(said).is_none(), "{:?}", fields(said));
        said.iter().filter(|(tag, _)| *tag == b'd').map(|(_, body)| text(body.clone())).collect()
    };
    let said = client
        .query("COPY (SELECT n, day, 'a,\"b\"' AS q FROM clicks ORDER BY n) TO STDOUT (FORMAT csv, HEADER)")
        .await;
    assert_eq!(copied(&said), "n,day,q\n0,,\"a,\"\"b\"\"\"\n1,2026-01-01,\"a,\"\"b\"\"\"\n");
    assert_eq!(text(said[said.len() - 2].1.clone()), "COPY 2\0");
    let said = client.query("COPY (SELECT n, day, E'x\\ty\\\\' FROM clicks ORDER BY n) TO STDOUT").await;
    assert_eq!(copied(&said), "0\t\\N\tx\\ty\\\\\n1\t2026-01-01\tx\\ty\\\\\n");
    let said = client.query("COPY (SELECT n, day FROM clicks ORDER BY n) TO STDOUT (FORMAT binary)").await;
    let pieces: Vec<&[u8]> = said.iter().filter(|(tag, _)| *tag == b'd').map(|(_, body)| &body[..]).collect();
    assert_eq!(said[0].1, [1, 0, 2, 0, 1, 0, 1], "both columns are in binary");
    assert_eq!(pieces[0], b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    let (zero, one) = (0_i64.to_be_bytes(), 1_i64.to_be_bytes());
    assert_eq!(pieces[1], [&[0, 2, 0, 0, 0, 8][..], &zero, &[0xff; 4]].concat());
    assert_eq!(pieces[2], [&[0, 2, 0, 0, 0, 8][..], &one, &[0, 0, 0, 10], b"2026-01-01"].concat());
    assert_eq!(pieces[3..], [&[0xff, 0xff][..]]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_slow_readers_hold_nothing_that_others_need() {
    let shop = Shop::open_with(EngineOptions { sql_memory_bytes: 64 << 20, ..options() }).await;
    shop.publish(0, 1000);
    // Small buffers of the kernel are full soon.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(16 << 10).expect("a small buffer");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1024).expect("a listener");
    let server = PostgresServer::start(listener, shop.engine.clone()).expect("a server");
    let mut readers = Vec::new();
    for _ in 0..100 {
        let mut reader = Client::connect(&server).await;
        reader.send(b'Q', b"SELECT * FROM generate_series(1, 100000000)\0").await;
        // Its first bytes are there, and it reads no more.
        assert_eq!(reader.stream.read_u8().await.expect("an answer"), b'T');
        readers.push(reader);
    }
    let mut cursors = Client::connect(&server).await;
    cursors.query("BEGIN").await;
    for at in 0..100 {
        let said = cursors
            .query(&format!("DECLARE c{at} CURSOR FOR SELECT * FROM clicks, generate_series(1, 1000)"))
            .await;
        assert!(fields(&said).is_none(), "{:?}", fields(&said));
        assert_eq!(cursors.rows(&format!("FETCH 1 FROM c{at}")).await.len(), 1);
    }
    let mut client = Client::connect(&server).await;
    assert_eq!(client.rows("SELECT count(*) FROM clicks").await, [[Some("1000".to_owned())]]);
    shop.publish(0, 10);
    assert_eq!(client.rows("SELECT count(*) FROM clicks").await, [[Some("1010".to_owned())]]);
    drop(readers);
    server.stop().await;
    drop(cursors);
    while shop.engine.statements().running > 0 {
        tarn_model::clock::pause(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_hold_for_their_session() {
    let shop = shop_with(10).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    assert_eq!(
        client.rows("SHOW TimeZone").await,
        [[Some("UTC".to_owned())]],
        "what a client proposes does not keep it out"
    );
    client.query("SET application_name = 'x'").await;
    assert_eq!(client.rows("SELECT current_setting('application_name')").await, [[Some("x".to_owned())]]);
    let seen = client.rows("SELECT count(*) FROM clicks").await;
    let vector = client.rows("SHOW tarn.vector").await[0][0].clone().expect("a vector");
    shop.publish(0, 5);
    client.query(&format!("SET tarn.as_of = '{vector}'")).await;
    assert_eq!(client.rows("SELECT count(*) FROM clicks").await, seen);
    client.query("RESET tarn.as_of").await;
    client.query("BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    client.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(client.rows("SELECT count(*) FROM clicks").await, [[Some("15".to_owned())]]);
    shop.publish(0, 5);
    assert_eq!(client.rows("SELECT count(*) FROM clicks").await, [[Some("15".to_owned())]]);
    client.query("COMMIT").await;
    assert_eq!(client.rows("SELECT count(*) FROM clicks").await, [[Some("20".to_owned())]]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_told_to_every_client() {
    let shop = shop_with(1).await;
    let server = serve(&shop).await;
    let mut idle = Client::connect(&server).await;
    let mut busy = Client::connect(&server).await;
    busy.send(b'Q', b"SELECT * FROM generate_series(1, 1000000000)\0").await;
    assert_eq!(busy.stream.read_u8().await.expect("an answer"), b'T');
    server.stop().await;
    assert_eq!(fields(&idle.until_ready().await).expect("an error")[&'C'], "57P01");
    while busy.stream.read_u8().await.is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_tail_is_read_clients_are_told_to_wait() {
    let shop = Shop::open().await;
    let catalog = tarn_table::Catalog::new(shop.catalog.lake().clone());
    let engine = Engine::new(catalog, options()).expect("an engine");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let server = PostgresServer::start(listener, engine).expect("a server");
    let mut client = Client::connect(&server).await;
    assert_eq!(client.error("SELECT 1").await[&'C'], "57P03");
    server.stop().await;
}

/// What clients ask before they ask anything else, each with what must be in the answer.
const CATALOG_QUERIES: &[(&str, &str)] = &[
    ("SELECT version()", "PostgreSQL 14.0"),
    ("SELECT current_database(), current_schema(), current_user, pg_backend_pid() > 0", "tarn|public|ann|t"),
    ("select pg_catalog.version()", "PostgreSQL"),
    ("SHOW server_version_num", "140000"),
    ("show standard_conforming_strings", "on"),
    ("SHOW search_path", "public"),
    ("SELECT 'clicks'::regclass::oid > 16384, 'clicks'::regclass > 0", "t|t"),
    ("SELECT oid::regclass FROM pg_class WHERE relname = 'clicks' ORDER BY oid", "clicks"),
    (
        "SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'int8'",
        "20|1016",
    ),
    ("SELECT nspname FROM pg_catalog.pg_namespace n WHERE nspname !~ '^pg_' ORDER BY 1", "lake"),
    ("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1", "clicks"),
    (
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'clicks' AND table_schema = 'public' ORDER BY ordinal_position",
        "_timestamp|timestamp with time zone",
    ),
    // psql: \dt, \l, \d clicks.
    (
        "SELECT n.nspname as \"Schema\", c.relname as \"Name\",\n CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' END as \"Type\",\n  pg_catalog.pg_get_userbyid(c.relowner) as \"Owner\"\nFROM pg_catalog.pg_class c\n     LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\n     LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam\nWHERE c.relkind IN ('r','p','')\n      AND n.nspname <> 'pg_catalog'\n      AND n.nspname !~ '^pg_toast'\n      AND n.nspname <> 'information_schema'\n  AND pg_catalog.pg_table_is_visible(c.oid)\nORDER BY 1,2;",
        "public|clicks|table|tarn",
    ),
    (
        "SELECT c.oid,\n  n.nspname,\n  c.relname\nFROM pg_catalog.pg_class c\n     LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\nWHERE c.relname OPERATOR(pg_catalog.~) '^(clicks)$' COLLATE pg_catalog.default\n  AND pg_catalog.pg_table_is_visible(c.oid)\nORDER BY 2, 3;",
        "public|clicks",
    ),
    (
        "SELECT a.attname,\n  pg_catalog.format_type(a.atttypid, a.atttypmod),\n  (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true)\n   FROM pg_catalog.pg_attrdef d\n   WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef),\n  a.attnotnull,\n  (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t\n   WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation) AS attcollation,\n  a.attidentity,\n  a.attgenerated\nFROM pg_catalog.pg_attribute a\nWHERE a.attrelid = 'clicks'::regclass AND a.attnum > 0 AND NOT a.attisdropped\nORDER BY a.attnum;",
        "n|bigint||f|||",
    ),
    (
        "SELECT pol.polname, pol.polpermissive,\n CASE WHEN pol.polroles = '{0}' THEN NULL ELSE pg_catalog.array_to_string(array(select rolname from pg_catalog.pg_roles where oid = any (pol.polroles) order by 1),',') END\nFROM pg_catalog.pg_policy pol\nWHERE pol.polrelid = '20000' ORDER BY 1;",
        "",
    ),
    (
        "SELECT conname, pg_catalog.pg_get_constraintdef(r.oid, true) as condef FROM pg_catalog.pg_constraint r WHERE r.conrelid = '20000' AND r.contype = 'f' ORDER BY conname",
        "",
    ),
    // A subquery for one value of a catalog that has rows.
    (
        "SELECT c.relname, (SELECT nspname FROM pg_catalog.pg_namespace n WHERE n.oid = c.relnamespace) FROM pg_catalog.pg_class c WHERE c.relkind = 'r' ORDER BY 1, 2",
        "clicks|lake",
    ),
    ("SELECT count(*) FROM pg_catalog.pg_trigger", "0"),
    (
        "SELECT string_agg(word, ',') FROM pg_catalog.pg_get_keywords() WHERE word <> ALL ('{a,add}'::text[])",
        "",
    ),
    (
        "SELECT c.relname FROM pg_class c WHERE c.relkind = ANY (ARRAY['r', 'v']) AND c.relnamespace = 2200",
        "clicks",
    ),
    ("SELECT current_schemas(true)", "{pg_catalog,public}"),
];

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_answer_what_clients_ask_first() {
    let shop = shop_with(3).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    let mut wrong = Vec::new();
    for (sql, expected) in CATALOG_QUERIES {
        let said = client.query(sql).await;
        if let Some(error) = fields(&said) {
            wrong.push(format!("{sql}\n  {error:?}"));
            continue;
        }
        let lines: Vec<String> = rows(&said)
            .into_iter()
            .map(|row| {
                row.into_iter().map(|value| value.map(text).unwrap_or_default()).collect::<Vec<_>>().join("|")
            })
            .collect();
        if !lines.iter().any(|line| line.contains(expected)) && !expected.is_empty() {
            wrong.push(format!("{sql}\n  {lines:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop().await;
}
