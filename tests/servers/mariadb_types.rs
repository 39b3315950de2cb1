//! Every type of MariaDB: what comes is what the database has.

use serde_json::{Value, json};

use super::databases::Typed;
use super::mariadb::config;
use super::mariadb_server::Server;
use crate::harness::{Folder, exactly_once};

/// A column: its type there, two values in its SQL, its type here, and how they read here, bytes in hex.
const fn typed(
    declared: &'static str,
    given: [&'static str; 2],
    here: &'static str,
    read: [&'static str; 2],
) -> Typed {
    Typed { declared, given, here, read: [Some(read[0]), Some(read[1])] }
}

const MOMENT: &str = "Timestamp(µs, \"UTC\")";

/// The page docs/databases.md has the same list.
const TYPES: &[Typed] = &[
    typed("TINYINT(1)", ["2", "-128"], "Int16", ["2", "-128"]),
    typed("BOOLEAN", ["TRUE", "FALSE"], "Int16", ["1", "0"]),
    typed("TINYINT UNSIGNED", ["255", "0"], "Int16", ["255", "0"]),
    typed("SMALLINT", ["-32768", "32767"], "Int16", ["-32768", "32767"]),
    typed("SMALLINT UNSIGNED", ["65535", "0"], "Int32", ["65535", "0"]),
    typed("MEDIUMINT", ["-8388608", "8388607"], "Int32", ["-8388608", "8388607"]),
    typed("MEDIUMINT UNSIGNED", ["16777215", "0"], "Int32", ["16777215", "0"]),
    typed("INT", ["-2147483648", "2147483647"], "Int32", ["-2147483648", "2147483647"]),
    typed("INT UNSIGNED", ["4294967295", "0"], "Int64", ["4294967295", "0"]),
    typed("INT(8) ZEROFILL", ["7", "123456789"], "Int64", ["7", "123456789"]),
    typed(
        "BIGINT",
        ["-9223372036854775808", "9223372036854775807"],
        "Int64",
        ["-9223372036854775808", "9223372036854775807"],
    ),
    typed(
        "BIGINT UNSIGNED",
        ["18446744073709551615", "0"],
        "Decimal128(20, 0)",
        ["18446744073709551615", "0"],
    ),
    typed(
        "DECIMAL(20,4)",
        ["-1234567890123456.7891", "0.0001"],
        "Decimal128(20, 4)",
        ["-1234567890123456.7891", "0.0001"],
    ),
    typed(
        "DECIMAL(38,10)",
        ["1234567890123456789012345678.0123456789", "-0.0000000001"],
        "Decimal128(38, 10)",
        ["1234567890123456789012345678.0123456789", "-0.0000000001"],
    ),
    typed("DECIMAL(10,2) UNSIGNED ZEROFILL", ["12.5", "0"], "Decimal128(10, 2)", ["12.50", "0.00"]),
    typed(
        "DECIMAL(39,0)",
        ["999999999999999999999999999999999999999", "-1"],
        "Utf8",
        ["999999999999999999999999999999999999999", "-1"],
    ),
    typed(
        "DECIMAL(65,30)",
        ["-12345678901234567890123456789012345.123456789012345678901234567890", "0.5"],
        "Utf8",
        [
            "-12345678901234567890123456789012345.123456789012345678901234567890",
            "0.500000000000000000000000000000",
        ],
    ),
    typed("FLOAT", ["0.1", "16777217"], "Float32", ["0.1", "16777216.0"]),
    typed(
        "DOUBLE",
        ["2.2250738585072014e-308", "-0.30000000000000004"],
        "Float64",
        ["2.2250738585072014e-308", "-0.30000000000000004"],
    ),
    typed("BIT(1)", ["b'1'", "b'0'"], "Boolean", ["true", "false"]),
    typed("BIT(12)", ["b'111111111111'", "b'0'"], "Int64", ["4095", "0"]),
    typed("BIT(64)", ["18446744073709551615", "b'10'"], "Decimal128(20, 0)", ["18446744073709551615", "2"]),
    typed("YEAR", ["2155", "1901"], "Int16", ["2155", "1901"]),
    typed("DATE", ["'1000-01-01'", "'9999-12-31'"], "Date32", ["1000-01-01", "9999-12-31"]),
    typed("TIME", ["'-838:59:59'", "'23:59:59'"], "Utf8", ["-838:59:59", "23:59:59"]),
    typed(
        "TIME(6)",
        ["'838:59:58.999999'", "'00:00:00.000001'"],
        "Utf8",
        ["838:59:58.999999", "00:00:00.000001"],
    ),
    typed(
        "DATETIME",
        ["'2026-03-29 02:30:00'", "'1000-01-01 00:00:00'"],
        MOMENT,
        ["2026-03-29T02:30:00Z", "1000-01-01T00:00:00Z"],
    ),
    typed(
        "DATETIME(6)",
        ["'2026-03-29 02:30:00.123456'", "'9999-12-31 23:59:59.999999'"],
        MOMENT,
        ["2026-03-29T02:30:00.123456Z", "9999-12-31T23:59:59.999999Z"],
    ),
    typed(
        "TIMESTAMP(3) NULL",
        ["'2026-03-29 02:30:00.500'", "'1970-01-01 00:00:01'"],
        MOMENT,
        ["2026-03-29T02:30:00.500Z", "1970-01-01T00:00:01Z"],
    ),
    typed("CHAR(5)", ["'ab  '", "'abcde'"], "Utf8", ["ab", "abcde"]),
    typed("VARCHAR(20)", ["'a  '", "'\\t'"], "Utf8", ["a  ", "\t"]),
    typed("VARCHAR(20) CHARACTER SET latin1", ["'é'", "''"], "Utf8", ["é", ""]),
    typed("TEXT", ["'zwölf 🦆 \\\\ \" \\'x\\''", "''"], "Utf8", ["zwölf 🦆 \\ \" 'x'", ""]),
    typed("LONGTEXT", ["REPEAT('ü', 300)", "'NULL'"], "Utf8", [UMLAUTS, "NULL"]),
    typed("BINARY(3)", ["x'00ff10'", "x'01'"], "Binary", ["00ff10", "010000"]),
    typed("VARBINARY(10)", ["x'00ff10'", "x''"], "Binary", ["00ff10", ""]),
    typed("BLOB", ["x'00ff10'", "x''"], "Binary", ["00ff10", ""]),
    typed("ENUM('sad', 'so so')", ["'so so'", "1"], "Utf8", ["so so", "sad"]),
    typed("SET('a', 'b', 'c')", ["'c,a'", "''"], "Utf8", ["a,c", ""]),
    typed(
        "JSON",
        ["'{\"b\": 1.0,  \"b\": [null]}'", "'\"text\"'"],
        "Utf8",
        ["{\"b\": 1.0,  \"b\": [null]}", "\"text\""],
    ),
    typed(
        "UUID",
        ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'00000000-0000-0000-0000-000000000000'"],
        "Utf8",
        ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"],
    ),
    typed("INET6", ["'::1'", "'2001:DB8::ff00:42:8329'"], "Utf8", ["::1", "2001:db8::ff00:42:8329"]),
    typed(
        "POINT",
        ["ST_GeomFromText('POINT(1 2)')", "ST_GeomFromText('POINT(0 0)')"],
        "Binary",
        [
            "000000000101000000000000000000f03f0000000000000040",
            "00000000010100000000000000000000000000000000000000",
        ],
    ),
];

/// 300 times `ü`: longer than what has its length in one byte.
const UMLAUTS: &str = concat!(
    "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü",
    "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü",
    "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü",
);

/// The table `types` with a column for each of them, and three rows, the last of NULLs; how many columns.
pub(super) fn make_types(server: &Server) -> usize {
    let columns: String =
        TYPES.iter().enumerate().map(|(i, typed)| format!(", c{i} {}", typed.declared)).collect();
    let row = |which: usize| TYPES.iter().map(|typed| typed.given[which]).collect::<Vec<_>>().join(", ");
    server.sql(&format!("CREATE TABLE types (id INT PRIMARY KEY{columns})"));
    for which in [0, 1] {
        server.sql(&format!("INSERT INTO types VALUES ({which}, {})", row(which)));
    }
    server.sql("INSERT INTO types (id) VALUES (2)");
    TYPES.len()
}

#[test]
fn every_type_of_mariadb_comes_as_the_docs_say_and_is_the_databases_own_word() {
    let server = Server::start();
    make_types(&server);
    let folder = Folder::new(&config(&server, "table = \"types\""));
    folder.drained();
    assert_eq!(folder.sql("SELECT reason FROM types_dead_letters"), Vec::<Value>::new());
    for (i, typed) in TYPES.iter().enumerate() {
        let here = folder.sql(&format!("SELECT arrow_typeof(c{i}) AS t FROM types WHERE id = 0"));
        let here = here[0]["t"].as_str().expect("a type");
        let here = here.replace("Utf8View", "Utf8").replace("BinaryView", "Binary");
        assert_eq!(here, typed.here, "{}", typed.declared);
        let read = typed.read.map(|read| read.expect("a text"));
        let as_text = match typed.here {
            "Binary" => {
                format!("CASE id WHEN 0 THEN c{i} = X'{}' WHEN 1 THEN c{i} = X'{}' END", read[0], read[1])
            }
            MOMENT => format!("c{i}"),
            _ => format!("CAST(c{i} AS VARCHAR)"),
        };
        let rows = folder.sql(&format!("SELECT {as_text} AS v FROM types ORDER BY id"));
        assert!(rows[2].get("v").is_none_or(Value::is_null), "NULL of {}: {}", typed.declared, rows[2]);
        for which in [0, 1] {
            let expected = if typed.here == "Binary" { json!(true) } else { json!(read[which]) };
            assert_eq!(rows[which]["v"], expected, "{}", typed.declared);
            if typed.here == "Utf8" {
                let hex: String = read[which].bytes().map(|byte| format!("{byte:02x}")).collect();
                let same = format!(
                    "SELECT CAST(CONVERT(CAST(c{i} AS CHAR) USING utf8mb4) AS BINARY) = x'{hex}' FROM types WHERE id = {which}"
                );
                assert_eq!(server.sql(&same), "1", "{}", typed.declared);
            }
        }
    }
    exactly_once(&folder, "types", 3, 0);
    folder.never_panicked();
}

#[test]
fn zero_dates_and_days_that_no_month_has_are_dead_letters_with_the_databases_own_word() {
    let server = Server::start();
    server.sql(
        "CREATE TABLE odd (id INT PRIMARY KEY, d DATE, t DATETIME(3), s TIMESTAMP NULL, big LONGTEXT);
         SET sql_mode = 'ALLOW_INVALID_DATES';
         INSERT INTO odd (id, d) VALUES (1, '0000-00-00'), (2, '2026-00-15'), (3, '2026-02-31'), (4, '2026-11-00');
         INSERT INTO odd (id, t) VALUES (5, '0000-00-00'), (6, '2026-02-30 10:00:00'); INSERT INTO odd (id, s) VALUES (7, '0000-00-00');
         INSERT INTO odd VALUES (8, '2026-01-01', '2026-01-01', '2026-01-01', 'fits'); INSERT INTO odd (id, big) VALUES (9, REPEAT('x', 3000000))",
    );
    let folder = Folder::new(&config(&server, "table = \"odd\""));
    folder.drained();
    assert_eq!(folder.sql("SELECT id, big FROM odd"), [json!({"id": 8, "big": "fits"})]);
    let dead = folder.sql("SELECT reason FROM odd_dead_letters ORDER BY _offset");
    assert_eq!(dead.len(), 8);
    for word in [
        "0000-00-00",
        "2026-00-15",
        "2026-02-31",
        "2026-11-00",
        "0000-00-00 00:00:00.000",
        "2026-02-30 10:00:00.000",
        "0000-00-00 00:00:00+00",
    ] {
        let told = |row: &Value| row["reason"].as_str().is_some_and(|reason| reason.contains(word));
        assert!(dead.iter().any(told), "{word}: {dead:?}");
    }
    exactly_once(&folder, "odd", 1, 8);
}
