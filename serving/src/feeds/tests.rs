use std::time::Duration;

use futures::future::join_all;
use futures::poll;

use super::*;
use crate::columns::ColumnKind;
use crate::fixture::Shop;

fn rows(of: &[(u64, &str)]) -> Vec<Row> {
    of.iter().map(|(number, json)| Row { number: *number, json: (*json).into() }).collect()
}

fn whole(columns: &[&str], of: Vec<Row>) -> Whole {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        kind: ColumnKind::Number,
        sql_type: "BIGINT".to_owned(),
    };
    Whole { vector: "v".into(), columns: columns.iter().map(column).collect(), rows: of }
}

impl FeedState {
    /// The state that follows when an answer has these columns and rows.
    pub(crate) fn then(&self, columns: &[&str], of: &[(u64, &str)]) -> FeedState {
        whole(columns, rows(of)).after(self)
    }
}

/// Statements that were answered or refused.
fn asked(shop: &Shop) -> u64 {
    let counts = shop.engine.statements();
    counts.done + counts.failed
}

/// Waits until the newest answer has these rows.
async fn until(states: &mut watch::Receiver<Arc<FeedState>>, expected: &[&str]) {
    let is_it = |state: &Arc<FeedState>| {
        state.rows.iter().map(|row| &*row.json).eq(expected.iter().copied()) && state.trouble.is_none()
    };
    let reached = tokio::time::timeout(Duration::from_secs(60), states.wait_for(is_it)).await;
    assert!(reached.is_ok_and(|state| state.is_ok()), "{expected:?}, but {:?}", states.borrow().rows);
}

#[test]
fn applying_ticks_to_an_answer_gives_the_next() {
    let answers = [
        rows(&[(1, "a"), (2, "b")]),
        rows(&[(1, "a"), (2, "b2"), (3, "c")]),
        rows(&[(3, "c")]),
        rows(&[]),
        rows(&[(4, "d")]),
    ];
    let mut state = FeedState::default();
    let mut shown: BTreeMap<u64, Arc<str>> = BTreeMap::new();
    for answer in answers {
        state = whole(&[], answer.clone()).after(&state);
        let tick = state.ticks.back().expect("a tick");
        for row in &tick.upserts {
            shown.insert(row.number, row.json.clone());
        }
        for number in &tick.deletes {
            assert!(shown.remove(number).is_some());
        }
        assert_eq!(shown, answer.iter().map(|row| (row.number, row.json.clone())).collect());
    }
    assert_eq!(state.ticks.iter().map(|tick| tick.upserts.len()).collect::<Vec<_>>(), [2, 2, 0, 0, 1]);
}

#[test]
fn no_tick_leads_to_other_columns() {
    let first = FeedState::default().then(&["n"], &[(1, "a")]);
    let second = first.then(&["n"], &[(1, "b")]);
    assert_eq!((second.tick, second.ticks.len()), (2, 1));
    let wider = second.then(&["n", "m"], &[(1, "c")]);
    assert_eq!((wider.tick, wider.ticks.len()), (3, 0));
    let next = wider.then(&["n", "m"], &[(1, "d")]);
    assert_eq!(next.ticks.iter().map(|tick| tick.number).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_key_keeps_its_number() {
    let mut numbers = Numbers::default();
    let (a, b) = (numbers.of("a".into()), numbers.of("b".into()));
    assert_eq!(numbers.of("a".into()), a);
    numbers.keep_only(&rows(&[(b, "")]));
    assert_ne!(numbers.of("a".into()), a, "it was forgotten");
    assert_eq!(numbers.of("b".into()), b);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_ask_before_the_first_answer_share_it_or_its_error() {
    let shop = Shop::open().await;
    shop.publish(0, 4);
    let feeds = Feeds::new(shop.engine.clone());
    for (sql, is_good) in [("SELECT count(*) AS n FROM clicks", true), ("SELECT wrod FROM clicks", false)] {
        let (before, held) = (asked(&shop), shop.engine.hold().await);
        let mut all: Vec<_> = (0..100).map(|_| Box::pin(feeds.subscribe(sql, Vec::new()))).collect();
        for one in &mut all {
            assert!(poll!(one.as_mut()).is_pending(), "no statement may run yet");
        }
        // Who asked first does not wait for it.
        drop(all.remove(0));
        drop(held);
        let answers = join_all(all).await;
        assert_eq!(asked(&shop) - before, 1, "{sql}");
        for answer in answers {
            match answer {
                Ok((_, states)) => {
                    assert_eq!((&*states.borrow().rows[0].json, is_good), (r#"{"n":4}"#, true))
                }
                Err(error) => {
                    assert!(!is_good && error.to_string().contains("wrod"), "{error}");
                    assert!(error.hint().is_some_and(|hint| hint.contains("word")), "{:?}", error.hint());
                    assert!(error.place().is_some(), "where it stands is told to all");
                }
            }
        }
    }
    let known = feeds.known.lock();
    assert!(known.keys().all(|question| !question.sql.contains("wrod")), "an error is kept for nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_leaves_nothing_behind() {
    let shop = Shop::open().await;
    let feeds = Feeds::new(shop.engine.clone());
    let held = shop.engine.hold().await;
    let mut all: Vec<_> = (0..3).map(|_| Box::pin(feeds.subscribe("SELECT 1 AS n", Vec::new()))).collect();
    for one in &mut all {
        assert!(poll!(one.as_mut()).is_pending());
    }
    assert_eq!(feeds.known.lock().len(), 1);
    drop(all);
    assert!(feeds.known.lock().is_empty());
    drop(held);
    feeds.subscribe("SELECT 1 AS n", Vec::new()).await.expect("asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_feed_that_nobody_listened_to_sees_the_newest() {
    let shop = Shop::open().await;
    shop.publish(0, 4);
    let feeds = Feeds::new(shop.engine.clone());
    let sql = "SELECT count(*) AS n FROM clicks";
    let (first, states) = feeds.subscribe(sql, Vec::new()).await.expect("a feed");
    drop(states);
    let sleeps = async {
        while !first.sleeps.load(Ordering::Acquire) {
            clock::pause(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), sleeps).await.expect("nobody listens");
    shop.publish(0, 3);
    let before = asked(&shop);
    let both = tokio::join!(feeds.subscribe(sql, Vec::new()), feeds.subscribe(sql, Vec::new()));
    for joined in [both.0, both.1] {
        let (feed, states) = joined.expect("the feed");
        assert_eq!(feed.id, first.id);
        assert_eq!(&*states.borrow().rows[0].json, r#"{"n":7}"#);
    }
    assert_eq!(asked(&shop) - before, 1, "once for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_sees_what_brings_no_record() {
    let shop = Shop::open().await.with_views();
    shop.publish(0, 4);
    let feeds = Feeds::new(shop.engine.clone());
    let subscribe = async |sql: &str| feeds.subscribe(sql, Vec::new()).await.expect("a feed").1;
    let parts =
        "SELECT (SELECT count(*) FROM lake.clicks) AS lake, (SELECT count(*) FROM live.clicks) AS live";
    let mut parts = subscribe(parts).await;
    let mut view = subscribe("SELECT sum(clicks) AS n FROM by_day").await;
    let mut boundary = subscribe("SELECT boundary FROM information_schema.tables WHERE table_name = 'clicks' AND table_schema = 'public'").await;
    let mut shown = subscribe("SHOW VIEWS").await;
    until(&mut parts, &[r#"{"lake":0,"live":4}"#]).await;
    until(&mut view, &[r#"{"n":4}"#]).await;
    shop.commit(|| ()).await;
    until(&mut parts, &[r#"{"lake":4,"live":0}"#]).await;
    until(&mut boundary, &[r#"{"boundary":"0=4"}"#]).await;
    // Another query answers, as after a rollback.
    let by_day = shop.engine.views().get("by_day").expect("a view");
    by_day.answer(Some("SELECT day, count(*) * 100 AS clicks FROM clicks GROUP BY day"));
    until(&mut view, &[r#"{"n":400}"#]).await;
    by_day.answer(Some("SELECT nothing FROM clicks"));
    let is_told = |state: &Arc<FeedState>| state.trouble.is_some();
    tokio::time::timeout(Duration::from_secs(60), view.wait_for(is_told))
        .await
        .expect("in time")
        .expect("a feed");
    let is_told = |state: &Arc<FeedState>| state.rows.iter().any(|row| row.json.contains("nothing"));
    tokio::time::timeout(Duration::from_secs(60), shown.wait_for(is_told))
        .await
        .expect("in time")
        .expect("a feed");
    by_day.answer(None);
    until(&mut view, &[r#"{"n":4}"#]).await;
}
