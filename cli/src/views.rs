//! The views of a config: made, kept while a pipeline runs, and read from a lake at rest.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::object_store::memory::InMemory;
use tarn_batch::ViewOwner;
use tarn_model::columns::Columns;
use tarn_model::config::{Config, UnknownFields, ViewConfig};
use tarn_model::{Error, Result};
use tarn_serving::nearest;
use tarn_speed::ViewKeeper;
use tarn_table::Catalog;
use tarn_table::open::TOPIC_UUID;
use tarn_table::scan::{Part, TableScan, sql_schema};
use tarn_view::{Definition, Difference, Inputs, Planner, Stamp, Versions, View, ViewMoment, Views, Way};

use crate::args::{Output, ViewArgs, ViewVerb};
use crate::door::Door;
use crate::failure::Usage;
use crate::render::{self, Grid, out};
use crate::sql::Sql;
use crate::{rest, status::write_json};

/// The views of `config` over `catalog`.
pub(crate) fn of(config: &Config, catalog: &Catalog) -> Result<Views> {
    let planner = Planner::new(catalog.lake().store(), config.serving.view_memory.as_usize())?;
    let views = Views::new(planner, config.views.iter().map(|view| (view.name.clone(), view.query.clone())));
    for view in &config.views {
        if let Some(known) = views.get(&view.name) {
            known.set_grace(view.grace.0);
        }
    }
    Ok(views)
}

/// `tarn view`.
pub(crate) async fn view(args: ViewArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let statement = match &args.verb {
        ViewVerb::List => "SHOW VIEWS".to_owned(),
        ViewVerb::Describe { name } => format!("EXPLAIN VIEW \"{}\"", name.replace('"', "\"\"")),
        ViewVerb::Rebuild { name } => return rebuild(&config, name).await,
        ViewVerb::Diff { name, before, after } => {
            return diff(&config, name, *before, *after, args.output).await;
        }
    };
    let rows = Sql::open(&config).await?.query(&statement, None).await?;
    render::rows(rows, args.output, false).await.map(drop)
}

async fn rebuild(config: &Config, name: &str) -> anyhow::Result<()> {
    let Some(door) = Door::find(config).await? else {
        return Err(Usage::new("nothing runs on this config")
            .with_hint(
                "start it with `tarn run`; states that are missing or damaged are made anew by themselves",
            )
            .into());
    };
    let done = door.view(name, "rebuild").await?;
    Ok(writeln!(out(), "{name} is rebuilt: version {}", done["version"])?)
}

/// Compares two builds over the lake's committed rows: a running process is not asked and not disturbed.
async fn diff(
    config: &Config,
    name: &str,
    before: Option<u32>,
    after: Option<u32>,
    output: Output,
) -> anyhow::Result<()> {
    let catalog = Catalog::at_rest(rest::lake(config).await?).await?;
    let planner = Planner::new(catalog.lake().store(), config.serving.view_memory.as_usize())?;
    let versions = Versions::find(catalog.lake(), name).await?;
    let known = versions.numbers();
    let (Some(after), Some(before)) =
        (after.or_else(|| known.last().copied()), before.or_else(|| known.iter().rev().nth(1).copied()))
    else {
        return Err(
            Usage::new(format!("view `{name}` has {} builds in the lake, not two", known.len())).into()
        );
    };
    let (old, _) = answer(&catalog, &planner, &versions, name, before).await?;
    let (new, keys) = answer(&catalog, &planner, &versions, name, after).await?;
    let difference = Difference::between(&old, &new, &keys)?;
    if output != Output::Table {
        return write_json(&difference);
    }
    let mut out = out();
    writeln!(
        out,
        "{name}@v{before} and {name}@v{after}, by {}: {} groups are the same, {} were added, {} are gone, {} have changed",
        difference.keys.join(", "),
        difference.same,
        difference.added,
        difference.gone,
        difference.changed
    )?;
    if !difference.examples.is_empty() {
        let mut grid = Grid::new(&["group", "before", "after"]);
        for example in &difference.examples {
            let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            grid.row([example.group.clone(), shown(&example.before), shown(&example.after)]);
        }
        write!(out, "{grid}")?;
    }
    Ok(())
}

/// A build's answer over all committed rows, by its own query, and the names of its keys.
async fn answer(
    catalog: &Catalog,
    planner: &Planner,
    versions: &Versions,
    name: &str,
    number: u32,
) -> anyhow::Result<(Vec<RecordBatch>, Vec<String>)> {
    let no_build = || Usage::new(format!("there is no build {number} of view `{name}`"));
    let version = versions.open(number).await?.ok_or_else(no_build)?;
    let query = version.query().ok_or_else(no_build)?;
    let columns = |table: &str| catalog.table(table).map(|(_, table)| sql_schema(&table.schema));
    let definition = Definition::plan(planner, name, &query, &columns).await?;
    let split = View::split(&definition)?;
    let (_, table) = catalog.table(split.table()).ok_or_else(no_build)?;
    let stamp = Stamp::now(&definition.plan_hash, table.lake.as_ref().and_then(|lake| lake.foreign_version));
    let stored = Stamp::read(&version.table.snapshot().properties);
    let mut moment = ViewMoment::default();
    if stored.as_ref() == Some(&stamp) {
        moment.batch = Some(Arc::new(version.states(&stamp, None)));
    } else {
        eprintln!(
            "{name}@v{number} was made with another engine or of other rows: its query is run over the rows"
        );
    }
    let inputs = Inputs::at(split, &moment, &stamp, &table, &table.boundary);
    let tables = |name: &str| -> Option<Arc<dyn TableProvider>> {
        let (_, table) = catalog.table(name)?;
        let upto = table.boundary.clone();
        Some(Arc::new(TableScan::new(table, Part::Lake, upto)))
    };
    let rows = inputs.answer(planner, &definition, &tables).await?;
    let keys = split.key_columns().iter().map(|at| definition.schema().field(*at).name().clone()).collect();
    Ok((rows, keys))
}

/// What is wrong with the queries of `config`'s views and dashboards, as far as it can be known before there are records: a table whose
/// columns are inferred is taken as it is.
pub(crate) fn problems(config: &Config) -> Vec<(String, String)> {
    let mut problems = view_problems(config);
    for (i, dashboard) in config.dashboards.iter().enumerate() {
        let variables = dashboard.variables.iter().enumerate();
        let variables =
            variables.filter_map(|(j, one)| Some((format!("variable[{j}]"), one.query.as_deref()?)));
        let panels = dashboard.panels.iter().enumerate();
        let panels = panels.map(|(j, panel)| (format!("panel[{j}]"), panel.query.as_str()));
        for (at, query) in variables.chain(panels).filter(|(_, query)| !query.trim().is_empty()) {
            if let Err(error) = tarn_serving::check_query(query) {
                problems.push((format!("dashboard[{i}].{at}.query"), in_one_line(&error)));
            }
        }
    }
    problems
}

fn in_one_line(error: &Error) -> String {
    format!("{error}{}", error.hint().map(|hint| format!("; {hint}")).unwrap_or_default())
}

fn view_problems(config: &Config) -> Vec<(String, String)> {
    if config.views.is_empty() {
        return Vec::new();
    }
    let Ok(planner) = Planner::new(Arc::new(InMemory::new()), 0) else { return Vec::new() };
    let problem = |(at, view): (usize, &ViewConfig)| {
        let error = check(&planner, config, view).err()?;
        Some((format!("view[{at}].query"), in_one_line(&error)))
    };
    config.views.iter().enumerate().filter_map(problem).collect()
}

fn check(planner: &Planner, config: &Config, view: &ViewConfig) -> Result<()> {
    let mut known: BTreeMap<String, Option<SchemaRef>> = BTreeMap::new();
    for table in &config.tables {
        let columns = table.columns.as_deref().and_then(|columns| Columns::parse(columns).ok());
        let keeps_rest = table.unknown_fields == UnknownFields::Keep;
        known
            .insert(table.name.clone(), columns.map(|columns| sql_schema(&columns.table_schema(keeps_rest))));
        known.insert(table.dead_letters_name(), None);
    }
    for table in Definition::tables_of(&view.query)? {
        match known.get(&table) {
            Some(Some(_)) => {}
            Some(None) => return Ok(()),
            None => {
                let error = Error::invalid(format!("there is no table `{table}` to read"));
                let near = nearest(&table, known.keys().map(String::as_str));
                return Err(match near {
                    Some(near) => error.with_hint(format!("did you mean `{near}`?")),
                    None => error,
                });
            }
        }
    }
    let columns = |name: &str| known.get(name).cloned().flatten();
    futures::executor::block_on(Definition::plan(planner, &view.name, &view.query, &columns)).map(drop)
}

/// Lets statements over a lake at rest use the states that are there. Those that are not of this engine and query, or cannot
/// be read, are passed over: the rows say the same.
pub(crate) async fn show_states(views: &Views, catalog: &Catalog) -> Result<()> {
    for view in views.iter() {
        // A view whose table is not there says so when it is asked.
        let Ok(definition) = view.define(views.planner(), catalog).await else { continue };
        let Way::States(split) = &definition.way else { continue };
        let Some((_, table)) = catalog.table(split.table()) else { continue };
        let Some(lake) = &table.lake else { continue };
        let Some(topic_uuid) = lake.properties.get(TOPIC_UUID) else { continue };
        let stamp = Stamp::now(&definition.plan_hash, lake.foreign_version);
        let versions = Versions::find(catalog.lake(), view.name()).await?;
        let Some(version) = versions.usable(&stamp, topic_uuid, false).await? else { continue };
        match Versions::read(&version, split, &stamp, views.planner()).await {
            Ok(states) => {
                let states = version.states(&stamp, Some(states));
                view.update(|moment| moment.batch = Some(Arc::new(states)));
            }
            Err(error) => {
                tracing::warn!(view = view.name(), error = %error.chain(), "states cannot be read; the rows are");
            }
        }
    }
    Ok(())
}

/// Both halves of every view, while a pipeline runs.
pub(crate) struct RunningViews {
    keepers: Vec<ViewKeeper>,
    owners: Vec<ViewOwner>,
}

impl RunningViews {
    pub(crate) fn start(views: &Views, catalog: &Catalog) -> RunningViews {
        let keeper = |view| ViewKeeper::start(views.clone(), Arc::clone(view), catalog.clone());
        let owner = |view| ViewOwner::start(views.clone(), Arc::clone(view), catalog.clone());
        RunningViews {
            keepers: views.iter().map(keeper).collect(),
            owners: views.iter().map(owner).collect(),
        }
    }

    /// Waits until the states in the lake have reached their tables.
    pub(crate) async fn caught_up(&self) {
        for owner in &self.owners {
            owner.caught_up().await;
        }
    }

    /// Makes the states of the view `name` anew; the number of the new build.
    pub(crate) async fn rebuild(&self, name: &str) -> Result<u32> {
        match self.owners.iter().find(|owner| owner.name() == name) {
            Some(owner) => owner.rebuild().await,
            None => {
                let error = Error::invalid(format!("there is no view `{name}`"));
                Err(match nearest(name, self.owners.iter().map(ViewOwner::name)) {
                    Some(near) => error.with_hint(format!("did you mean `{near}`?")),
                    None => error,
                })
            }
        }
    }

    /// Ends after the commits under way.
    pub(crate) async fn stop(&self) {
        for keeper in &self.keepers {
            keeper.stop().await;
        }
        for owner in &self.owners {
            owner.stop().await;
        }
    }
}
