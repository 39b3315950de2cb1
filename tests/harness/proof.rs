//! What must hold of a folder at rest, however it came there.

use std::collections::BTreeMap;

use super::folder::Folder;
use super::http::Client;

/// `count(*)` of a table, if there is an answer.
pub(crate) fn count(client: &Client, table: &str) -> Option<i64> {
    let answer = client.try_sql(&format!("SELECT count(*) AS n FROM {table}")).ok()?;
    (answer.status == 200).then(|| answer.json()[0]["n"].as_i64()).flatten()
}

/// The lake at rest holds `rows` rows and `dead` dead letters of `table`, together each offset of each partition once,
/// and `tarn verify` says so too. With the feature `servers`, an independent reader must agree.
#[track_caller]
pub(crate) fn exactly_once(folder: &Folder, table: &str, rows: i64, dead: i64) {
    let mut seen: BTreeMap<i64, (i64, i64, i64)> = BTreeMap::new();
    let mut totals = Vec::new();
    let dead_letters = format!("{table}_dead_letters");
    let parts = if dead > 0 { vec![table, &dead_letters] } else { vec![table] };
    for part in parts {
        let mut total = 0;
        for row in folder.sql(&format!(
            "SELECT _partition AS p, count(*) AS n, count(DISTINCT _offset) AS d, max(_offset) AS m FROM {part} GROUP BY 1"
        )) {
            let number = |field: &str| row[field].as_i64().unwrap_or_else(|| panic!("no {field} in {row}"));
            let entry = seen.entry(number("p")).or_insert((0, 0, -1));
            entry.0 += number("n");
            entry.1 += number("d");
            entry.2 = entry.2.max(number("m"));
            total += number("n");
        }
        totals.push(total);
    }
    assert_eq!(totals[0], rows, "rows of `{table}`");
    assert_eq!(totals.get(1).copied().unwrap_or(0), dead, "dead letters of `{table}`");
    for (partition, (n, distinct, max)) in &seen {
        assert_eq!(n, distinct, "offsets occur twice: table=`{table}` partition={partition}");
        assert_eq!(*n, max + 1, "offsets are missing: table=`{table}` partition={partition}");
    }
    verified(folder);
    independently(folder, table, rows, dead);
}

/// `tarn verify` ends with 0.
#[track_caller]
pub(crate) fn verified(folder: &Folder) {
    let ended = folder.tarn(&["verify", "-c", "tarn.toml"]);
    assert_eq!(ended.code, Some(0), "verify: {}\n{}", ended.printed, ended.said);
}

#[cfg(feature = "servers")]
#[track_caller]
fn independently(folder: &Folder, table: &str, rows: i64, dead: i64) {
    crate::servers::lake_check(folder, table, rows, dead);
}

#[cfg(not(feature = "servers"))]
fn independently(_: &Folder, _: &str, _: i64, _: i64) {}
