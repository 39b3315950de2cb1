//! The checks of meaning of what runs by a schedule: times, and jobs that follow other jobs.

use std::collections::BTreeMap;

use super::check::Checker;
use super::{DatabaseConfig, SourceKind};

impl Checker<'_, '_> {
    /// When a `database` source runs.
    pub(super) fn schedule(&mut self, at: &str, database: &DatabaseConfig) {
        if let Some(every) = database.every {
            self.more_than_zero(&format!("{at}.every"), every);
        }
        if let Some(cron) = &database.cron {
            let field = format!("{at}.cron");
            if database.every.is_some() {
                self.wrong(&field, "there is `every` already: leave one of them out");
            } else if let Err(error) = cron.parse::<croner::Cron>() {
                let (shown, detail) = (self.shown(&field, cron), self.detail(&field, error));
                self.wrong(
                    &field,
                    format!("{shown} is no cron expression (`minute hour day month weekday`){detail}"),
                );
            }
        }
        let other = if database.every.is_some() { "every" } else { "cron" };
        if database.after.is_some() && (database.every.is_some() || database.cron.is_some()) {
            let message = format!("there is `{other}` already: leave one of them out");
            self.wrong(&format!("{at}.after"), message);
        }
    }

    /// `after` names another source that has runs, and nobody waits for itself.
    pub(super) fn jobs_after_jobs(&mut self) {
        let sources = &self.config.sources;
        let after: BTreeMap<&str, &str> =
            sources.iter().filter_map(|source| Some((source.name.as_str(), source.after()?))).collect();
        for (i, source) in sources.iter().enumerate() {
            let Some(leader) = source.after() else { continue };
            let field = format!("source[{i}].after");
            let shown = self.shown(&field, leader);
            match sources.iter().find(|other| other.name == leader) {
                None => {
                    let jobs = sources.iter().filter(|other| matches!(other.kind, SourceKind::Database(_)));
                    let jobs = jobs.map(|other| other.name.as_str()).filter(|other| *other != source.name);
                    let near = super::problem::nearest(leader, jobs);
                    let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
                    self.wrong(&field, format!("there is no source {shown}{hint}"));
                }
                Some(other) if !matches!(other.kind, SourceKind::Database(_)) => {
                    let message =
                        format!("{shown} has no runs that could be followed: it is no `database` source");
                    self.wrong(&field, message);
                }
                Some(_) => {
                    let mut circle = vec![source.name.as_str()];
                    let mut next = leader;
                    while next != source.name && circle.len() <= sources.len() {
                        circle.push(next);
                        match after.get(next) {
                            Some(further) => next = further,
                            None => break,
                        }
                    }
                    if next == source.name {
                        let circle: Vec<String> = circle.iter().map(|name| format!("`{name}`")).collect();
                        let message = match circle.as_slice() {
                            [_] => "this source would wait for itself".to_owned(),
                            circle => {
                                format!("these sources wait for one another: {}", circle.join(" after "))
                            }
                        };
                        self.wrong(&field, message);
                    }
                }
            }
        }
    }
}
