//! The checks of meaning of `[[dashboard]]`.

use std::time::Duration;

use super::check::Checker;
use super::problem::nearest;
use super::{DashboardConfig, GRID_COLUMNS, PanelConfig, TIME_PLACEHOLDERS, VariableConfig};
use crate::placeholders::placeholders;

/// Shortest time between two changes of a page.
const LEAST_REFRESH: Duration = Duration::from_millis(100);
const MAX_PANELS: usize = 60;
const MAX_ROWS: i32 = 1_000;
const MAX_HEIGHT: i32 = 20;
const MAX_DECIMALS: i32 = 12;

impl Checker<'_, '_> {
    pub(super) fn dashboards(&mut self) {
        let dashboards = &self.config.dashboards;
        for (i, dashboard) in dashboards.iter().enumerate() {
            let at = format!("dashboard[{i}]");
            self.relation_name("dashboard", &format!("{at}.name"), &dashboard.name);
            if dashboard.refresh.0 < LEAST_REFRESH {
                self.wrong(&format!("{at}.refresh"), "a page changes every 100ms at most");
            }
            if dashboard.range.is_some_and(|range| range.0.as_secs() == 0) {
                self.wrong(&format!("{at}.range"), "a time range is a second or more");
            }
            self.not_empty(&format!("{at}.panel"), dashboard.panels.is_empty());
            if dashboard.panels.len() > MAX_PANELS {
                self.wrong(&format!("{at}.panel"), format!("a page has at most {MAX_PANELS} panels"));
            }
            for (j, variable) in dashboard.variables.iter().enumerate() {
                let before: Vec<&str> =
                    dashboard.variables[..j].iter().map(|variable| variable.name.as_str()).collect();
                self.variable(&format!("{at}.variable[{j}]"), variable, &before);
            }
            self.unique(
                &format!("{at}.variable"),
                dashboard.variables.iter().map(|variable| variable.name.as_str()),
            );
            for (j, panel) in dashboard.panels.iter().enumerate() {
                self.panel(&format!("{at}.panel[{j}]"), dashboard, panel);
            }
        }
        self.unique("dashboard", dashboards.iter().map(|dashboard| dashboard.name.as_str()));
    }

    /// `before` are the variables that its query may name.
    fn variable(&mut self, at: &str, variable: &VariableConfig, before: &[&str]) {
        let field = format!("{at}.name");
        let mut letters = variable.name.chars();
        let starts_well = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        if !starts_well || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            let shown = self.shown(&field, &variable.name);
            self.wrong(
                &field,
                format!(
                    "{shown} is no name for a variable: use letters, digits and `_`, a letter or `_` first"
                ),
            );
        } else if TIME_PLACEHOLDERS.contains(&variable.name.as_str()) {
            let shown = self.shown(&field, &variable.name);
            self.wrong(&field, format!("{shown} is the time range's already"));
        }
        match (&variable.query, variable.values.is_empty()) {
            (Some(_), false) => self.wrong(&format!("{at}.values"), "a variable has `query` or `values`"),
            (None, true) => self.wrong(&format!("{at}.query"), "a variable needs `query` or `values`"),
            (Some(query), true) => {
                self.not_empty(&format!("{at}.query"), query.trim().is_empty());
                self.known_placeholders(&format!("{at}.query"), query, before);
            }
            (None, false) => {}
        }
    }

    fn panel(&mut self, at: &str, dashboard: &DashboardConfig, panel: &PanelConfig) {
        let query = format!("{at}.query");
        self.not_empty(&query, panel.query.trim().is_empty());
        let variables: Vec<&str> =
            dashboard.variables.iter().map(|variable| variable.name.as_str()).collect();
        self.known_placeholders(&query, &panel.query, &variables);
        self.within(at, "width", panel.width, 1, GRID_COLUMNS);
        self.within(at, "height", panel.height, 1, MAX_HEIGHT);
        self.within(at, "column", panel.column, 1, GRID_COLUMNS);
        self.within(at, "row", panel.row, 1, MAX_ROWS);
        self.within(at, "decimals", panel.decimals, 0, MAX_DECIMALS);
        if let (Some(column), Some(width)) = (panel.column, panel.width)
            && (1..=GRID_COLUMNS).contains(&width)
            && column.saturating_add(width) > GRID_COLUMNS + 1
        {
            let last = GRID_COLUMNS + 1 - width;
            self.wrong(
                &format!("{at}.column"),
                format!("a panel of width {width} begins in column {last} or before"),
            );
        }
        if panel.row.is_some() && panel.column.is_none() {
            self.wrong(&format!("{at}.row"), "`row` goes with `column`");
        }
        if let (Some(min), Some(max)) = (panel.min, panel.max)
            && min >= max
        {
            self.wrong(&format!("{at}.min"), "`min` is below `max`");
        }
        if !panel.thresholds.windows(2).all(|two| two[0].at < two[1].at) {
            self.wrong(&format!("{at}.thresholds"), "thresholds stand in rising order");
        }
    }

    fn within(&mut self, at: &str, key: &str, value: Option<i32>, least: i32, most: i32) {
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            self.wrong(&format!("{at}.{key}"), format!("this number is outside {least} to {most}"));
        }
    }

    /// Every `$name` in a query is a variable or the time range.
    fn known_placeholders(&mut self, field: &str, query: &str, variables: &[&str]) {
        let known: Vec<&str> = variables.iter().copied().chain(TIME_PLACEHOLDERS).collect();
        for placeholder in placeholders(query) {
            if known.contains(&placeholder.name.as_str()) {
                continue;
            }
            let shown = self.shown(field, &format!("${}", placeholder.name));
            let known_names = known.iter().map(|name| format!("`${name}`")).collect::<Vec<_>>().join(", ");
            let message = match nearest(&placeholder.name, known.iter().copied()) {
                Some(near) => format!("there is no variable {shown}, did you mean `${near}`?"),
                None => format!("there is no variable {shown}, known are {known_names}"),
            };
            self.wrong(field, message);
        }
    }
}
