//! Definitions from the whole grammar of what is kept as states.

use super::data::Dice;
use super::sketch::Sketches;

/// A definition, and which of its columns are sketches.
pub(super) fn query(dice: &mut Dice) -> (String, Sketches) {
    let joins = dice.chance(20);
    let mut keys = vec![
        "k",
        "n",
        "date_bin(INTERVAL '1 hour', ts)",
        "date_trunc('hour', ts)",
        "date_trunc('DAY', ts)",
        "b",
        "upper(k)",
        "i % 3",
        "d",
        "CAST(ts AS DATE)",
        "_partition",
        "tumble(ts, INTERVAL '1 hour')",
        "tumble_end(ts, INTERVAL '25 minutes')",
        "hop(ts, INTERVAL '10 minutes', INTERVAL '1 hour')",
        "coalesce(k, '?')",
        "nvl2(k, n, -1)",
        "date_bin(INTERVAL '25 minutes', ts, TIMESTAMP '2000-01-01T00:07:00Z')",
    ];
    if joins {
        keys.extend(["label", "label", "w % 2", "coalesce(label, k)", "n + w"]);
    }
    let aggregates = [
        "count(*)",
        "count(x)",
        "count(DISTINCT i)",
        "count(DISTINCT k)",
        "sum(i)",
        "sum(y)",
        "sum(d)",
        "sum(x)",
        "sum(n)",
        // Of 64-bit extremes, the mean is lost in rounding either way.
        "avg(i % 1000)",
        "avg(y)",
        "avg(d)",
        "avg(n)",
        "min(i)",
        "max(i)",
        "max(k)",
        "min(k)",
        "min(ts)",
        "max(y)",
        "min(x)",
        "max(x)",
        "min(d)",
        "min(b)",
        "stddev(y)",
        "stddev_pop(y)",
        "var(y)",
        "var_pop(y)",
        "bool_and(b)",
        "bool_or(b)",
        "bit_and(i)",
        "bit_or(i)",
        "bit_xor(i)",
        "first_value(k ORDER BY ts)",
        "last_value(i ORDER BY y DESC)",
        "first_value(k)",
        "last_value(ts)",
        "last_value(k ORDER BY n, ts DESC)",
        "approx_distinct(k)",
        "approx_distinct(i)",
        "avg(y) * 2 + 1",
        "sum(y) / nullif(count(y), 0)",
        "sum(coalesce(n, 0))",
        "max(nvl(k, 'zz'))",
        "count(DISTINCT ifnull(n, -5))",
        "first_value(i ORDER BY coalesce(n, 9), ts)",
        "bool_or(coalesce(b, n > 1))",
        "coalesce(max(k), 'none')",
        "CASE WHEN count(*) > 3 THEN sum(n) ELSE min(n) END",
    ];
    let sketches = ["approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY y)", "approx_median(y)"];
    let filters =
        ["b", "i > 0", "y < 10", "k IS NOT NULL", "n IN (1, 2)", "coalesce(n, 1) > 0", "nvl(b, k = 'a')"];
    let joined_filters = ["label <> 'x'", "w IS NULL OR w < n", "b AND label IS NOT NULL", "i > 0"];
    let mut chosen: Vec<&str> = Vec::new();
    for _ in 0..dice.roll(4) {
        let key = *dice.pick(&keys);
        if !chosen.contains(&key) {
            chosen.push(key);
        }
    }
    let mut columns: Vec<String> =
        chosen.iter().enumerate().map(|(at, key)| format!("{key} AS c{at}")).collect();
    // Now and then many of them at once; planning each costs more than its rows.
    let most = if dice.chance(15) { 6 } else { 3 };
    for at in 0..1 + dice.roll(most) {
        let is_sketch = dice.chance(8);
        let plain = *dice.pick(if is_sketch { &sketches[..] } else { &aggregates[..] });
        let is_call = plain.ends_with(')') && !plain.starts_with("coalesce");
        let filter = if is_call && dice.chance(25) {
            format!(" FILTER (WHERE {})", dice.pick(&filters))
        } else {
            String::new()
        };
        columns.push(format!("{plain}{filter} AS c{}", chosen.len() + at));
    }
    let mut sql = format!("SELECT {} FROM t", columns.join(", "));
    if dice.chance(30) {
        let filter = if joins { dice.pick(&joined_filters[..]) } else { dice.pick(&filters[..]) };
        sql += &format!(" WHERE {filter}");
    }
    if !chosen.is_empty() {
        sql += &format!(" GROUP BY {}", chosen.join(", "));
        if dice.chance(25) {
            sql += *dice.pick(&[
                " HAVING count(*) > 1",
                " HAVING min(y) < 0 OR max(n) > 2",
                " HAVING count(*) FILTER (WHERE b) < count(*)",
                " HAVING count(DISTINCT k) >= 2 AND max(i) IS NOT NULL",
            ]);
        }
        if dice.chance(20) {
            // Keys last, so that no two groups tie.
            let first = *dice.pick(&["", "", "count(*) DESC, ", "max(n) DESC NULLS LAST, "]);
            let order: Vec<String> = (0..chosen.len()).map(|at| format!("c{at}")).collect();
            sql += &format!(" ORDER BY {first}{} LIMIT {}", order.join(", "), 1 + dice.roll(6));
        }
    }
    if joins {
        let kind = *dice.pick(&["JOIN", "JOIN", "LEFT JOIN"]);
        let on =
            *dice.pick(&["k = dk", "n = dn", "k = dk AND n = dn", "k = dk AND w > 2", "n = dn AND i < w"]);
        sql = sql.replacen(" FROM t", &format!(" FROM t {kind} d ON {on}"), 1);
    } else if dice.chance(15) {
        let inner = "SELECT k, n, i, x, y, b, ts, d, _partition, _offset FROM t WHERE n IS NOT NULL";
        sql = sql.replacen(" FROM t", &format!(" FROM ({inner}) AS t"), 1);
    }
    let sketches = Sketches::of_query(&sql, &columns);
    (sql, sketches)
}
