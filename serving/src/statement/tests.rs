use super::*;

fn parse(sql: &str) -> Result<Statement> {
    Statement::parse(sql, None, &[])
}

#[test]
fn as_of_becomes_a_name_of_its_own_with_the_tables_alias() {
    let statement = parse(
        "SELECT t.a FROM t VERSION AS OF 'x:0=1', lake.\"Odd\" FOR SYSTEM_TIME AS OF 'x:0=2' AS o, u WHERE version = 1",
    )
    .expect("a statement");
    let names: Vec<_> = statement.versions.iter().map(|v| (v.table.as_str(), v.vector.to_string())).collect();
    assert_eq!(names, [("t", "x:0=1".to_owned()), ("Odd", "x:0=2".to_owned())]);
    let text = statement.ast.to_string();
    assert!(text.contains("\"t AS OF x:0=1\" AS \"t\""), "{text}");
    assert!(text.contains("lake.\"Odd AS OF x:0=2\" AS o"), "{text}");
}

#[test]
fn words_that_only_look_like_as_of_stay() {
    let statement = parse("SELECT version, \"version as of\" FROM t AS version").expect("a statement");
    assert!(statement.versions.is_empty());
}

#[test]
fn a_chain_counts_what_can_nest_and_not_what_stands_in_a_row() {
    let list = format!("SELECT * FROM t WHERE a IN ({})", vec!["-1"; 5_000].join(","));
    parse(&list).expect("a list is flat");
    let chain = format!("SELECT * FROM t WHERE {}", vec!["a = 1"; 1_000].join(" OR "));
    parse(&chain).expect_err("a chain is deep");
}
