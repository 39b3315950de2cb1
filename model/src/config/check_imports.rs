//! The checks of meaning of `[[import]]`.

use std::collections::HashSet;

use super::check::Checker;
use super::{ImportConfig, ImportMode};
use crate::columns::Columns;

impl Checker<'_, '_> {
    pub(super) fn imports(&mut self) {
        let imports = &self.config.imports;
        for (i, import) in imports.iter().enumerate() {
            let at = format!("import[{i}]");
            self.relation_name("job", &format!("{at}.name"), &import.name);
            self.import_into(&at, import);
            self.imported(&at, import);
            if let Some(zone) = &import.timezone {
                self.timezone(&format!("{at}.timezone"), zone);
            }
            let field = format!("{at}.types");
            if let Some(Err(error)) = import.types.as_deref().map(Columns::parse) {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                let detail = self.detail(&field, format!("{error}{hint}"));
                let message = if detail.is_empty() { ": these are no columns" } else { &detail };
                self.wrong(&field, message.trim_start_matches(": "));
            }
            let earlier = imports[..i].iter().position(|other| {
                other.into_name() == import.into_name()
                    && (other.mode == ImportMode::Overwrite || import.mode == ImportMode::Overwrite)
            });
            if let Some(other) = earlier {
                let message = format!(
                    "import[{other}] fills this table too: one of them would overwrite the other's rows"
                );
                self.wrong(&format!("{at}.{}", key_of_table(import)), message);
            }
        }
        self.unique("import", imports.iter().map(|import| import.name.as_str()));
    }

    /// An import table is nobody else's.
    fn import_into(&mut self, at: &str, import: &ImportConfig) {
        let field = format!("{at}.{}", key_of_table(import));
        let into = import.into_name();
        let is_pattern = into.contains("{table}");
        self.relation_name("table", &field, &into.replacen("{table}", "t", 1));
        match (import.table.as_deref(), is_pattern) {
            (Some("*"), false) => {
                self.wrong(
                    &format!("{at}.into"),
                    "several tables need several names: put `{table}` into it, e.g. `shop_{table}`",
                );
            }
            (None, true) => self.wrong(&field, "a query has no table whose name could stand for `{table}`"),
            _ => {}
        }
        let config = self.config;
        let taken = config.tables.iter().position(|table| {
            let names = [table.name.clone(), table.dead_letters_name()];
            names.iter().any(|name| {
                name.eq_ignore_ascii_case(into)
                    || (!table.is_pattern() && is_pattern && import.may_fill(name))
            })
        });
        if let Some(table) = taken {
            let shown = self.shown(&field, into);
            let message = format!(
                "{shown} is a name of table[{table}], which is made from a topic: an import needs a table of its own"
            );
            self.wrong(&field, message);
        }
        if let Some(view) = config.views.iter().position(|view| import.may_fill(&view.name)) {
            let shown = self.shown(&field, into);
            self.wrong(&field, format!("{shown} is the name of view[{view}] already"));
        }
    }

    /// What is read.
    fn imported(&mut self, at: &str, import: &ImportConfig) {
        let database = import.database();
        self.place_of_database(at, &database);
        self.table_or_query(at, &database);
        let every_table = import.table.as_deref() == Some("*");
        let one_table = import.table.is_some() && !every_table;
        for (key, is_given) in [("columns", !import.columns.is_empty()), ("where", import.filter.is_some())] {
            if is_given && !one_table {
                self.wrong(&format!("{at}.{key}"), "only an import of one `table` uses this");
            }
        }
        let mut seen = HashSet::new();
        for (i, column) in import.columns.iter().enumerate() {
            if column.is_empty() || !seen.insert(column) {
                self.wrong(&format!("{at}.columns[{i}]"), "a column has a name, and stands here once");
            }
        }
        if import.filter.as_ref().is_some_and(|filter| filter.trim().is_empty()) {
            self.wrong(&format!("{at}.where"), "the condition is empty");
        }
        if import.split_by.is_some() && (every_table || database.is_mysql() && import.query.is_some()) {
            let message = "only an import of one `table` uses this, or of a `query` of PostgreSQL or SQLite";
            self.wrong(&format!("{at}.split_by"), message);
        }
        match import.readers {
            Some(_) if import.split_by.is_none() && (!database.is_postgres() || import.table.is_none()) => {
                let message = "only an import with `split_by`, or of a `table` of PostgreSQL, uses this";
                self.wrong(&format!("{at}.readers"), message);
            }
            Some(readers) if !(2..=64).contains(&readers) => {
                self.wrong(&format!("{at}.readers"), "a table is read by 2 to 64 readers");
            }
            _ => {}
        }
        self.imported_new(at, import);
        for (key, patterns) in [("include", &import.include), ("exclude", &import.exclude)] {
            if !patterns.is_empty() && !every_table {
                self.wrong(&format!("{at}.{key}"), "only `table = \"*\"` uses this");
            }
        }
    }
}

impl Checker<'_, '_> {
    /// How new rows are told.
    fn imported_new(&mut self, at: &str, import: &ImportConfig) {
        let database = import.database();
        let (key, cursor, lag) = (format!("{at}.incremental"), format!("{at}.cursor"), format!("{at}.lag"));
        if !import.incremental {
            for (key, is_given) in [(cursor, import.cursor.is_some()), (lag, import.lag.is_some())] {
                if is_given {
                    self.wrong(&key, "only an import with `incremental = true` uses this");
                }
            }
            return;
        }
        if import.mode == ImportMode::Overwrite {
            let message = "`overwrite` takes away the rows that came before, so only the newest would be left: use `append`";
            self.wrong(&format!("{at}.mode"), message);
        }
        for (key, is_given) in
            [("split_by", import.split_by.is_some()), ("readers", import.readers.is_some())]
        {
            if is_given {
                self.wrong(&format!("{at}.{key}"), "new rows are read by one reader: leave this out");
            }
        }
        match &import.cursor {
            Some(_) if database.is_postgres() => self.wrong(
                &cursor,
                "PostgreSQL tells new rows by the transactions that wrote them: leave it out",
            ),
            None if database.is_postgres() && import.query.is_some() => {
                let message =
                    "the new rows of a query cannot be told: name a `table`, with `columns` and `where`";
                self.wrong(&key, message);
            }
            None if !database.is_postgres() => {
                self.wrong(&key, "this database needs the growing column that tells new rows: `cursor`");
            }
            Some(name) if name.is_empty() => self.wrong(&cursor, "a column has a name"),
            _ => {}
        }
        if import.lag.is_some() && !database.is_mysql() {
            self.wrong(&lag, "only MySQL's new rows need it");
        }
    }
}

/// The key that the name of the table comes from.
fn key_of_table(import: &ImportConfig) -> &'static str {
    if import.into.is_some() { "into" } else { "name" }
}
