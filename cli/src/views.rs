//! The views of a config: made, kept while a pipeline runs, and read from a lake at rest.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::object_store::memory::InMemory;
use serde::Serialize;
use tarn_batch::ViewOwner;
use tarn_lake::Lake;
use tarn_model::clock;
use tarn_model::columns::Columns;
use tarn_model::config::{Config, UnknownFields, ViewConfig};
use tarn_model::status::ViewStatus;
use tarn_model::{Error, Result};
use tarn_serving::nearest;
use tarn_speed::ViewKeeper;
use tarn_table::Catalog;
use tarn_table::catalog::with_topic;
use tarn_table::open::TOPIC_UUID;
use tarn_table::scan::{Part, TableScan, sql_schema};
use tarn_view::{
    Definition, Difference, Freshness, Inputs, Planner, Stamp, State, Version, Versions, View, ViewMoment,
    Views, Way,
};

use crate::args::{Output, ViewArgs, ViewVerb};
use crate::door::Door;
use crate::failure::Usage;
use crate::progress::BuildBar;
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
        ViewVerb::Builds { name } => return builds(&config, name, args.output).await,
        ViewVerb::Rebuild { name, no_wait } => return rebuild(&config, name, *no_wait).await,
        ViewVerb::Rollback { name, to } => {
            let options: Vec<_> = to.iter().map(|to| ("to", to.to_string())).collect();
            let done = running(&config).await?.view(name, "rollback", &options).await?;
            return Ok(writeln!(out(), "{name} is rolled back: version {} serves", done["version"])?);
        }
        ViewVerb::DropBuilds { name, builds, old } => {
            let named = builds.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            let named = if *old { "old".to_owned() } else { named };
            let done = running(&config).await?.view(name, "drop-builds", &[("builds", named)]).await?;
            let dropped: Vec<String> =
                done["dropped"].as_array().into_iter().flatten().map(ToString::to_string).collect();
            let told = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") };
            return Ok(writeln!(out(), "{name}: builds deleted: {told}")?);
        }
        ViewVerb::Diff { name, before, after } => {
            return diff(&config, name, *before, *after, args.output).await;
        }
    };
    let rows = Sql::open(&config).await?.query(&statement, None).await?;
    render::rows(rows, args.output, false).await.map(drop)
}

/// The process that keeps the views.
async fn running(config: &Config) -> anyhow::Result<Door> {
    let hint = "start it with `tarn run`; states that are missing or damaged are made anew by themselves";
    match Door::find(config).await? {
        Some(door) => Ok(door),
        None => Err(Usage::new("nothing runs on this config").with_hint(hint).into()),
    }
}

async fn rebuild(config: &Config, name: &str, no_wait: bool) -> anyhow::Result<()> {
    let door = running(config).await?;
    if no_wait {
        door.view(name, "rebuild", &[("wait", "false".to_owned())]).await?;
        return Ok(writeln!(out(), "{name} is being rebuilt: `tarn status` says how far it is")?);
    }
    let bar = BuildBar::start(door.clone(), name);
    let done = door.view(name, "rebuild", &[]).await;
    bar.finish();
    Ok(writeln!(out(), "{name} is rebuilt: version {}", done?["version"])?)
}

/// The view of this name in the config.
fn declared<'c>(config: &'c Config, name: &str) -> anyhow::Result<&'c ViewConfig> {
    if let Some(declared) = config.views.iter().find(|view| view.name == name) {
        return Ok(declared);
    }
    let error = Usage::new(format!("there is no view `{name}`"));
    Err(match nearest(name, config.views.iter().map(|view| view.name.as_str())) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")).into(),
        None => error.into(),
    })
}

/// The builds of a view: one line each, read from the lake.
async fn builds(config: &Config, name: &str, output: Output) -> anyhow::Result<()> {
    let declared = declared(config, name)?;
    let serving = serving(config, name).await?;
    let versions = Versions::find(&rest::lake(config).await?, name).await?;
    let mut found = Vec::new();
    for number in versions.numbers() {
        found.push(match versions.open(*number).await {
            Ok(Some(version)) => BuildReport::of(&version, &declared.query, serving),
            Ok(None) => continue,
            Err(error) => BuildReport { build: *number, state: error.chain(), ..BuildReport::default() },
        });
    }
    if output != Output::Table {
        return write_json(&found);
    }
    let mut grid = Grid::new(&["#build", "state", "query", "boundary", "#groups", "#size", "engine"]);
    for build in found {
        grid.row([
            build.build.to_string(),
            build.state,
            build.query.to_owned(),
            build.boundary,
            render::number(build.groups),
            render::bytes(build.bytes),
            build.engine,
        ]);
    }
    Ok(write!(out(), "{grid}")?)
}

/// The build that serves, as the process says, or the lake at rest.
async fn serving(config: &Config, name: &str) -> anyhow::Result<Option<u32>> {
    let views = match Door::find(config).await? {
        Some(door) => door.status().await?.views,
        None => at_rest(config, &rest::lake(config).await?).await,
    };
    Ok(views.into_iter().find(|view| view.name == name).and_then(|view| view.version))
}

/// What is told of one build.
#[derive(Debug, Default, Serialize)]
struct BuildReport {
    build: u32,
    /// `serves`, `rolled back to build N`, `not finished`, or empty.
    state: String,
    /// Whether it was made for the query in the config.
    query: &'static str,
    boundary: String,
    /// States in its files: a group stands in several until they are merged.
    groups: u64,
    bytes: u64,
    engine: String,
}

impl BuildReport {
    fn of(version: &Version, declared: &str, serving: Option<u32>) -> BuildReport {
        let (snapshot, boundary) = (version.table.snapshot(), version.boundary());
        let state = if serving == Some(version.number) {
            "serves".to_owned()
        } else if let Some(to) = version.rolled_back_to() {
            format!("rolled back to build {to}")
        } else if boundary.is_empty() {
            "not finished".to_owned()
        } else {
            String::new()
        };
        let rows = snapshot.statistics.rows.iter().flatten();
        BuildReport {
            build: version.number,
            state,
            query: if version.query().as_deref() == Some(declared) { "of the config" } else { "another" },
            boundary: boundary.to_string(),
            groups: rows.map(|rows| u64::try_from(rows).unwrap_or(0)).sum(),
            bytes: snapshot.files.iter().map(|file| file.size).sum(),
            engine: Stamp::read(&snapshot.properties).map(|stamp| stamp.engine).unwrap_or_default(),
        }
    }
}

/// Compares two builds over the lake's committed rows: a running process is not asked and not disturbed.
async fn diff(
    config: &Config,
    name: &str,
    before: Option<u32>,
    after: Option<u32>,
    output: Output,
) -> anyhow::Result<()> {
    declared(config, name)?;
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
    if difference.repeated > 0 {
        writeln!(
            out,
            "these columns do not tell all groups apart: {} of their values stand in several rows, of which equal ones were paired first",
            difference.repeated
        )?;
    }
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
    let columns = |table: &str| catalog.columns(table);
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
        let columns = columns.and_then(|columns| table.record_columns().added_to(columns).ok());
        let schema = columns.map(|columns| sql_schema(&columns.table_schema(keeps_rest)));
        let schema = schema.map(|schema| if table.topics.is_some() { with_topic(&schema) } else { schema });
        known.insert(table.name.clone(), schema);
        known.insert(table.dead_letters_name(), None);
    }
    for table in Definition::tables_of(&view.query)? {
        // What an import brings shows when it is there.
        if config.imports.iter().any(|import| import.may_fill(&table)) {
            return Ok(());
        }
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

/// Lets each view answer the query that it was rolled back to, if it was.
async fn settle(views: &Views, catalog: &Catalog) -> Result<()> {
    for view in views.iter() {
        let versions = Versions::find(catalog.lake(), view.name()).await?;
        let answering = versions.answering(view.declared()).await?;
        if answering.is_some() {
            tracing::warn!(
                view = view.name(),
                "it was rolled back and answers the query of an older build, not the one in the config"
            );
        }
        view.answer(answering.as_deref());
    }
    Ok(())
}

/// What a lake at rest says of the views of `config`.
pub(crate) async fn at_rest(config: &Config, lake: &Lake) -> Vec<ViewStatus> {
    if config.views.is_empty() {
        return Vec::new();
    }
    let catalog = match Catalog::at_rest(lake.clone()).await {
        Ok(catalog) => catalog,
        Err(error) => {
            tracing::warn!(error = %error.chain(), "the views cannot be read");
            return Vec::new();
        }
    };
    let Ok(views) = of(config, &catalog) else { return Vec::new() };
    if let Err(error) = show_states(&views, &catalog).await {
        tracing::warn!(error = %error.chain(), "the views cannot be read");
    }
    status(&views, &catalog)
}

/// How each view stands.
fn status(views: &Views, catalog: &Catalog) -> Vec<ViewStatus> {
    let now_us = clock::system().now_ms() * 1000;
    let each = views.iter().map(|view| {
        let (name, moment, building) = (view.name().to_owned(), view.moment(), view.building());
        let Some(definition) = view.known() else {
            let kept_as = "nothing".to_owned();
            return ViewStatus { name, kept_as, trouble: moment.trouble.clone(), ..ViewStatus::default() };
        };
        let table = match &definition.way {
            Way::States(split) => catalog.table(split.table()).map(|(_, table)| table),
            Way::Rows { .. } => None,
        };
        let decoded = table.as_ref().map(|table| table.decoded());
        let table = table.as_deref().zip(decoded.as_ref());
        let fresh = Freshness::of(&definition, &moment, building.as_deref(), table, now_us);
        ViewStatus {
            name,
            kept_as: fresh.kept_as.to_owned(),
            version: fresh.version,
            boundary: fresh.boundary,
            lag_records: fresh.lag_records,
            lag_s: fresh.lag_s,
            live_records: fresh.live_records,
            live_bytes: fresh.live_bytes,
            lake_bytes: fresh.lake_bytes,
            aggregated_records: view.aggregated_records(),
            commits: view.commits().count,
            commit_s: view.commits().took.as_secs_f64(),
            late_records: view.late_records(&moment, view.late_rule(&definition, catalog).as_ref()),
            plan: Some(fresh.plan),
            building: fresh.building,
            built: fresh.built,
            trouble: fresh.trouble,
        }
    });
    each.collect()
}

/// Lets statements over a lake at rest use the states that are there. Those that are not of this engine and query, or cannot
/// be read, are passed over: the rows say the same.
pub(crate) async fn show_states(views: &Views, catalog: &Catalog) -> Result<()> {
    settle(views, catalog).await?;
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
                let states = State::sorted(states, split.keys()).await?;
                let states = version.states(&stamp, Some(vec![Arc::new(states)]));
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
    views: Views,
    catalog: Catalog,
    keepers: Vec<ViewKeeper>,
    owners: Vec<ViewOwner>,
}

impl RunningViews {
    pub(crate) async fn start(views: &Views, catalog: &Catalog) -> RunningViews {
        // A lake that cannot be asked now says so to everybody who works on it.
        if let Err(error) = settle(views, catalog).await {
            tracing::warn!(error = %error.chain(), "whether views were rolled back is not known");
        }
        let keeper = |view| ViewKeeper::start(views.clone(), Arc::clone(view), catalog.clone());
        let owner = |view| ViewOwner::start(views.clone(), Arc::clone(view), catalog.clone());
        RunningViews {
            views: views.clone(),
            catalog: catalog.clone(),
            keepers: views.iter().map(keeper).collect(),
            owners: views.iter().map(owner).collect(),
        }
    }

    /// How each view stands.
    pub(crate) fn status(&self) -> Vec<ViewStatus> {
        status(&self.views, &self.catalog)
    }

    /// Waits until the states in the lake have reached their tables.
    pub(crate) async fn caught_up(&self) {
        for owner in &self.owners {
            owner.caught_up().await;
        }
    }

    /// The owner of the view `name`.
    pub(crate) fn owner(&self, name: &str) -> Result<&ViewOwner> {
        self.owners.iter().find(|owner| owner.name() == name).ok_or_else(|| {
            let error = Error::invalid(format!("there is no view `{name}`"));
            match nearest(name, self.owners.iter().map(ViewOwner::name)) {
                Some(near) => error.with_hint(format!("did you mean `{near}`?")),
                None => error,
            }
        })
    }

    /// An error when there is no view `name`.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        self.owner(name).map(drop)
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
