use std::net::SocketAddr;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::*;
use crate::postgres::settings::Settings;

fn rewritten(sql: &str) -> String {
    let visitor = Visitor {
        user: "ann".to_owned(),
        database: "tarn".to_owned(),
        process: 1,
        address: SocketAddr::from(([127, 0, 0, 1], 5433)),
        settings: Settings::new("ann"),
    };
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).expect("a statement");
    rewrite(&mut statements[0], &visitor);
    statements[0].to_string()
}

#[test]
fn what_joins_with_nothing_gives_nothing() {
    let empty = rewritten(
        "SELECT i.indisprimary, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid ORDER BY 2",
    );
    assert_eq!(empty, "SELECT NULL AS \"indisprimary\", NULL AS \"relname\" WHERE false");
    let kept =
        rewritten("SELECT c.relname, i.indkey FROM pg_class c LEFT JOIN pg_index i ON c.oid = i.indrelid");
    assert!(kept.contains("FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index i"), "{kept}");
    assert_eq!(rewritten("SELECT count(*) FROM pg_trigger"), "SELECT 0 AS \"count\"");
    let exists = rewritten(
        "SELECT relname FROM pg_class c WHERE EXISTS (SELECT 1 FROM pg_index WHERE indrelid = c.oid)",
    );
    assert!(exists.ends_with("WHERE false"), "{exists}");
}

#[test]
fn queries_over_tables_stay_what_they_are() {
    for sql in ["SELECT a, b FROM t WHERE c = (SELECT d FROM u)", "SELECT \"pg_class\" FROM shop.pg_class"] {
        assert_eq!(rewritten(sql), sql);
    }
    assert_eq!(
        rewritten("SELECT count(*), max(a) FROM t"),
        "SELECT count(*) AS \"count\", max(a) AS \"max\" FROM t"
    );
}

#[test]
fn words_of_postgres_become_words_that_are_known_here() {
    assert_eq!(
        rewritten(
            "SELECT pg_catalog.format_type(a, b) AS f FROM t WHERE x OPERATOR(pg_catalog.~) '^a' COLLATE \"C\""
        ),
        "SELECT format_type(a, b) AS f FROM t WHERE x ~ '^a'"
    );
    assert_eq!(rewritten("SELECT 't'::regclass::oid AS o"), "SELECT CAST(tarn_regclass('t') AS INT) AS o");
    assert_eq!(rewritten("SELECT oid::regclass AS o FROM t"), "SELECT tarn_regclass_name(oid) AS o FROM t");
}

#[test]
fn an_escape_of_another_letter_is_a_backslash_here() {
    let found = rewritten("SELECT a FROM t WHERE a NOT LIKE 'pg/_%' ESCAPE '/'");
    assert_eq!(found.matches("replace(").count(), 4, "{found}");
    assert!(!found.contains("ESCAPE"), "{found}");
    let kept = rewritten(r"SELECT a FROM t WHERE a LIKE 'pg\_%' ESCAPE '\'");
    assert!(!kept.contains("replace("), "{kept}");
}

#[test]
fn an_array_of_a_catalog_is_null_and_one_of_a_table_stays() {
    let found = rewritten("SELECT ARRAY(SELECT x FROM pg_catalog.unnest(o) x) AS a FROM pg_catalog.pg_class");
    assert!(found.contains("NULL") && !found.contains("unnest"), "{found}");
    assert!(rewritten("SELECT ARRAY(SELECT a FROM t) AS a").contains("FROM t"));
}
