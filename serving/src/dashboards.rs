//! The dashboards of a config: which questions a page asks for the choices that were made on it.
//!
//! *Why the choices go into the text*: two people who look at the same thing ask the same question, and [`crate::feeds`]
//! answers it once. What is chosen becomes a string of SQL, whatever it holds.

use std::collections::BTreeMap;
use std::time::Duration;

use tarn_model::config::{DashboardConfig, VariableConfig};
use tarn_model::placeholders::{fill, literal};
use tarn_model::{Error, Result};

use crate::error::nearest;
use crate::statement::Statement;

/// What `$interval` may be, seconds.
const INTERVALS_S: [u64; 16] =
    [1, 2, 5, 10, 15, 30, 60, 300, 900, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800];
/// Points of a series across a time range, at most about.
const POINTS: u64 = 90;
/// The parts of the address that say which time range is looked at.
const TIME_CHOICES: [&str; 3] = ["range", "from", "to"];

/// A moment before all records, and one behind them, that fit into nanoseconds.
const FIRST: &str = "TIMESTAMP '1900-01-01T00:00:00Z'";
const LAST: &str = "TIMESTAMP '2200-01-01T00:00:00Z'";

/// What a page asks: each query with the choices in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Questions {
    /// One for each variable; `None` for one with fixed values.
    pub(crate) variables: Vec<Option<String>>,
    /// One for each panel.
    pub(crate) panels: Vec<String>,
}

/// What was chosen on a page, as it stands in its address: a name may be there more than once.
#[derive(Debug, Default)]
pub(crate) struct Choices(BTreeMap<String, Vec<String>>);

impl Choices {
    pub(crate) fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Choices {
        let mut choices = Choices::default();
        for (name, value) in pairs {
            choices.0.entry(name).or_default().push(value);
        }
        choices
    }

    fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last word on `name`.
    fn one(&self, name: &str) -> Option<&str> {
        self.all(name).last().map(String::as_str)
    }
}

/// The questions of `dashboard` under `choices`.
pub(crate) fn questions(dashboard: &DashboardConfig, choices: &Choices) -> Result<Questions> {
    for name in choices.0.keys() {
        let variables = dashboard.variables.iter().map(|variable| variable.name.as_str());
        let mut known = variables.chain(TIME_CHOICES);
        if known.clone().any(|one| one == name) {
            continue;
        }
        let error = Error::invalid(format!("dashboard `{}` has no variable `{name}`", dashboard.name));
        return Err(match nearest(name, known.clone()) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error.with_hint(format!("known are {}", known.by_ref().collect::<Vec<_>>().join(", "))),
        });
    }
    let time = TimeRange::chosen(dashboard, choices)?;
    let value = |name: &str| match name {
        "from" => Some(time.from.clone()),
        "to" => Some(time.to.clone()),
        "interval" => Some(time.interval.clone()),
        name => {
            let variable = dashboard.variables.iter().find(|variable| variable.name == name)?;
            Some(chosen(variable, choices.all(name)))
        }
    };
    Ok(Questions {
        variables: dashboard
            .variables
            .iter()
            .map(|variable| Some(fill(variable.query.as_deref()?, value)))
            .collect(),
        panels: dashboard.panels.iter().map(|panel| fill(&panel.query, value)).collect(),
    })
}

/// A variable's value as SQL: a string, or a list of them where several can be chosen; NULL for all. Nothing chosen is the
/// default, and an empty choice is all.
fn chosen(variable: &VariableConfig, choices: &[String]) -> String {
    let first = || if variable.all { None } else { variable.values.first() };
    let choices = match choices {
        [] => variable.default.as_ref().or_else(first).map_or(&[][..], std::slice::from_ref),
        choices => choices,
    };
    let values: Vec<String> =
        choices.iter().filter(|choice| !choice.is_empty()).map(|choice| literal(choice)).collect();
    match (variable.multiple, values.as_slice()) {
        (false, []) => "NULL".to_owned(),
        (false, [.., last]) => last.clone(),
        (true, []) => "CAST(NULL AS VARCHAR[])".to_owned(),
        (true, values) => format!("[{}]", values.join(", ")),
    }
}

/// `$from`, `$to` and `$interval`, as SQL.
struct TimeRange {
    from: String,
    to: String,
    interval: String,
}

impl TimeRange {
    fn chosen(dashboard: &DashboardConfig, choices: &Choices) -> Result<TimeRange> {
        if let Some(from) = choices.one("from") {
            let to = choices.one("to").map_or_else(|| Ok("now()".to_owned()), |to| moment("to", to));
            // How long that is, only the engine could say; the page says it.
            let span = choices.one("range").map(seconds).transpose()?.flatten();
            return Ok(TimeRange { from: moment("from", from)?, to: to?, interval: interval(span) });
        }
        let span = match choices.one("range") {
            Some(range) => seconds(range)?,
            None => dashboard.range.map(|range| range.0),
        };
        Ok(match span {
            None => TimeRange { from: FIRST.into(), to: LAST.into(), interval: interval(None) },
            Some(span) => TimeRange {
                from: format!("(now() - INTERVAL '{} seconds')", span.as_secs()),
                to: "now()".into(),
                interval: interval(Some(span)),
            },
        })
    }
}

/// `15m`; `all` is no end.
fn seconds(range: &str) -> Result<Option<Duration>> {
    if range == "all" {
        return Ok(None);
    }
    let span: tarn_model::config::Span = range.parse().map_err(|error| {
        Error::invalid(format!("`{range}` is no time range: {error}"))
            .with_hint("write `15m`, `6h`, `7d` or `all`")
    })?;
    Ok(Some(span.0.max(Duration::from_secs(1))))
}

/// A moment as it stands in an address: ISO 8601.
fn moment(name: &str, text: &str) -> Result<String> {
    let fits = |letter: char| letter.is_ascii_digit() || "-:.+ TZ".contains(letter);
    if text.len() < 10 || text.len() > 35 || !text.chars().all(fits) {
        return Err(Error::invalid(format!("`{name}` is no moment: `{text}`"))
            .with_hint("write it as 2026-05-01T12:00:00Z"));
    }
    Ok(format!("TIMESTAMP {}", literal(text)))
}

fn interval(span: Option<Duration>) -> String {
    let seconds = match span {
        None => 3_600,
        Some(span) => {
            let least = span.as_secs().div_ceil(POINTS);
            INTERVALS_S.into_iter().find(|seconds| *seconds >= least).unwrap_or(604_800)
        }
    };
    format!("INTERVAL '{seconds} seconds'")
}

/// What is wrong with a dashboard's query before anything runs: it must be one statement that only reads.
pub fn check_query(query: &str) -> Result<()> {
    let value = |name: &str| {
        Some(match name {
            "from" => FIRST.to_owned(),
            "to" => LAST.to_owned(),
            "interval" => interval(None),
            _ => "NULL".to_owned(),
        })
    };
    Statement::parse(&fill(query, value), None, &[]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dashboard() -> DashboardConfig {
        let json = serde_json::json!({
            "name": "d", "range": "1h",
            "variable": [{"name": "city", "query": "SELECT 1"}, {"name": "kind", "values": ["a", "b"], "all": false},
                {"name": "street", "query": "SELECT street FROM streets WHERE city = $city", "multiple": true}],
            "panel": [{"title": "p", "query": "SELECT date_bin($interval, ts) FROM t WHERE ts > $from AND city = $city AND kind = $kind AND street = ANY($street)"}],
        });
        serde_json::from_value(json).expect("a dashboard")
    }

    fn asked(choices: &[(&str, &str)]) -> Result<Questions> {
        let pairs = choices.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        questions(&dashboard(), &Choices::new(pairs))
    }

    fn ask(choices: &[(&str, &str)]) -> Result<String> {
        asked(choices).map(|questions| questions.panels[0].clone())
    }

    #[test]
    fn a_choice_is_one_string_whatever_it_holds() {
        let sql = ask(&[("city", "O'Slo' OR 1=1 --")]).expect("a question");
        assert!(sql.contains("city = 'O''Slo'' OR 1=1 --'"), "{sql}");
        assert!(sql.contains("ts > (now() - INTERVAL '3600 seconds')"), "{sql}");
        assert!(sql.contains("kind = 'a'"), "{sql}");
        assert!(sql.contains("INTERVAL '60 seconds'"), "{sql}");
        assert!(ask(&[]).expect("a question").contains("city = NULL"));
        assert!(ask(&[("city", "")]).expect("a question").contains("city = NULL"));
    }

    #[test]
    fn several_choices_are_a_list_and_a_choice_narrows_those_behind_it() {
        let found = asked(&[("city", "Oslo"), ("street", "A"), ("street", "O'B")]).expect("questions");
        assert!(found.panels[0].ends_with("street = ANY(['A', 'O''B'])"), "{}", found.panels[0]);
        assert_eq!(
            found.variables[2].as_deref(),
            Some("SELECT street FROM streets WHERE city = 'Oslo'"),
            "its query follows the choice before it"
        );
        for nothing in [&[][..], &[("street", "")]] {
            let sql = ask(nothing).expect("a question");
            assert!(sql.ends_with("street = ANY(CAST(NULL AS VARCHAR[]))"), "{sql}");
        }
        assert!(ask(&[("city", "Oslo"), ("city", "Lima")]).expect("a question").contains("city = 'Lima'"));
    }

    #[test]
    fn a_time_range_is_what_it_says_or_an_error() {
        let sql = ask(&[("range", "7d")]).expect("a question");
        assert!(sql.contains("604800 seconds") && sql.contains("INTERVAL '10800 seconds'"), "{sql}");
        let sql = ask(&[("range", "all")]).expect("a question");
        assert!(sql.contains("1900-01-01"), "{sql}");
        let sql = ask(&[("from", "2026-05-01T00:00:00Z"), ("to", "2026-05-02")]).expect("a question");
        assert!(sql.contains("ts > TIMESTAMP '2026-05-01T00:00:00Z'"), "{sql}");
        assert!(ask(&[("from", "2026'; DROP")]).is_err());
        assert!(ask(&[("range", "soon")]).is_err());
        let error = ask(&[("ciyt", "Oslo")]).expect_err("an unknown variable");
        assert_eq!(error.hint(), Some("did you mean `city`?"));
    }

    #[test]
    fn a_query_that_does_not_only_read_is_refused() {
        check_query("SELECT $a, date_bin($interval, ts) FROM t WHERE ts > $from").expect("it reads");
        check_query("DROP TABLE t").expect_err("it does not");
        check_query("SELECT (").expect_err("it is no SQL");
    }
}
