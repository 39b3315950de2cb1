//! What tools ask when they connect and look around, answered without an error and with what they look for.

use super::*;

const ASKED: &str = include_str!("tools.sql");

/// One question: who asks and what for, the statement, and what some row must have.
fn questions() -> Vec<(&'static str, &'static str, Option<&'static str>)> {
    let parts = ASKED.split("\n--- ").skip(1);
    let question = |part: &'static str| {
        let (head, sql) = part.split_once('\n').expect("a statement below");
        match head.split_once(" => ") {
            Some((what, expected)) => (what, sql.trim(), Some(expected)),
            None => (head, sql.trim(), None),
        }
    };
    parts.map(question).collect()
}

fn lines(said: &Said) -> Vec<String> {
    let line = |row: Vec<Option<Vec<u8>>>| -> String {
        let values: Vec<String> = row.into_iter().map(|value| value.map(text).unwrap_or_default()).collect();
        values.join("|")
    };
    rows(said).into_iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dbeaver_grafana_metabase_and_pgjdbc_find_what_they_look_for() {
    let shop = shop_with(3).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    let (mut wrong, questions) = (Vec::new(), questions());
    assert!(questions.len() > 60, "{} questions", questions.len());
    for (what, sql, expected) in questions {
        for protocol in ["simple", "extended"] {
            let said = if protocol == "simple" {
                client.query(sql).await
            } else {
                client.parse("", sql, &[]).await;
                client.bind("", "", 0, &[], 0).await;
                client.send(b'D', b"P\0").await;
                client.execute("", 0).await;
                client.sync().await
            };
            if let Some(error) = fields(&said) {
                wrong.push(format!("{what} ({protocol}): {error:?}"));
                continue;
            }
            let lines = lines(&said);
            let is_right = match expected {
                None => true,
                Some("nothing") => lines.is_empty(),
                Some(expected) => lines.iter().any(|line| line.contains(expected)),
            };
            if !is_right {
                wrong.push(format!("{what} ({protocol}): {lines:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_asked_for_twice_comes_twice() {
    let shop = shop_with(3).await;
    let server = serve(&shop).await;
    let mut client = Client::connect(&server).await;
    let said =
        client.query("SELECT n, word, n, count(*) OVER (), n AS word FROM clicks ORDER BY n LIMIT 1").await;
    assert!(fields(&said).is_none(), "{:?}", fields(&said));
    let names: Vec<String> = described(&said).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["n", "word", "n", "count", "word"]);
    let said = client.query("SELECT c.n, c.* FROM clicks c ORDER BY n DESC LIMIT 1").await;
    assert!(fields(&said).is_none(), "{:?}", fields(&said));
    let names: Vec<String> = described(&said).into_iter().map(|(name, _)| name).collect();
    assert_eq!((names[0].as_str(), names.iter().filter(|name| *name == "n").count()), ("n", 2));
    assert_eq!(rows(&said)[0][0], Some(b"2".to_vec()));
    server.stop().await;
}
