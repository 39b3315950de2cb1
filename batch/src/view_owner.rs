//! One view's owner: the only one that commits its states to the lake.
//!
//! A view follows its table: once the table's rows are in the lake up to a boundary, the view's states follow up to the same
//! boundary. Its steps: states of `[view's boundary, table's boundary)` merged (from live states where they fit, from rows
//! elsewhere) → files written → committed with the boundary → shown.
//!
//! A new view, a changed query, another engine, damaged states and a rebuild by command all take one way: a build of its own is
//! made aside from the lake, at the pace that statements leave it, and takes over when it has met the table. Until then a build
//! with the same stamp goes on serving and is kept up to date; where there is none, statements read the rows.
//!
//! *Invariants*: a view is never ahead of its table's lake part, so the lake at rest has both. What serves changes by one
//! swapped pointer, and what will serve after a restart by one commit.
//!
//! *Failure*: a build that breaks off is made again; one that was made and did not take over yet takes over at the next start.

use std::sync::Arc;
use std::time::Duration;

use tarn_model::{Boundary, Error, Result, clock, fault};
use tarn_table::open::Backoff;
use tarn_table::{Catalog, CutTable};
use tarn_view::{Building, Definition, Pace, Stamp, Versions, View, Views, Way, is_damage};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::view_build::{Build, Maker};

/// What is under way gets this long when the process stops.
const LAST_COMMIT: Duration = Duration::from_secs(5);
/// A table that is not there yet is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The handle of a view owner's task.
#[derive(Debug)]
pub struct ViewOwner {
    stop: watch::Sender<bool>,
    orders: mpsc::Sender<Order>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    view: Arc<View>,
    views: Views,
    catalog: Catalog,
}

/// What a user wants done.
#[derive(Debug)]
enum Order {
    Rebuild(oneshot::Sender<Result<u32>>),
    RollBack(Option<u32>, oneshot::Sender<Result<u32>>),
    Drop(Which, oneshot::Sender<Result<Vec<u32>>>),
}

/// Which builds are to go.
#[derive(Debug, Clone)]
pub enum Which {
    /// These.
    These(Vec<u32>),
    /// All that nothing needs.
    Old,
}

impl ViewOwner {
    /// Starts the owner of `view`, one of `views`.
    pub fn start(views: Views, view: Arc<View>, catalog: Catalog) -> ViewOwner {
        let (stop, stopped) = watch::channel(false);
        let (orders, incoming) = mpsc::channel(8);
        let owner = Owner {
            catalog: catalog.clone(),
            views: views.clone(),
            view: Arc::clone(&view),
            build: None,
            making: None,
        };
        let task = tokio::spawn(owner.run(stopped, incoming));
        ViewOwner { stop, orders, task: tokio::sync::Mutex::new(Some(task)), view, views, catalog }
    }

    /// Waits until the view's states in the lake have reached its table's boundary; not for a view that is kept as rows, or
    /// that is in trouble: it is right without them.
    pub async fn caught_up(&self) {
        let mut changes = self.view.changes();
        loop {
            changes.borrow_and_update();
            let Ok(definition) = self.view.define(self.views.planner(), &self.catalog).await else { return };
            let Way::States(split) = &definition.way else { return };
            let Some((_, table)) = self.catalog.table(split.table()) else { return };
            let foreign = table.lake.as_ref().and_then(|lake| lake.foreign_version);
            let stamp = Stamp::now(&definition.plan_hash, foreign);
            let moment = self.view.moment();
            if moment.boundary(&stamp).is_some_and(|boundary| boundary.is_at_least(&table.boundary))
                || moment.trouble.is_some()
                || self.task.lock().await.as_ref().is_none_or(JoinHandle::is_finished)
                || changes.changed().await.is_err()
            {
                return;
            }
        }
    }

    /// The view's name.
    pub fn name(&self) -> &str {
        self.view.name()
    }

    /// Makes all states anew from the lake, in a build of their own, while the old ones serve; its number, once it serves.
    pub async fn rebuild(&self) -> Result<u32> {
        self.order(Order::Rebuild).await
    }

    /// Lets build `to` serve again, or the one before the build that serves; its number.
    pub async fn roll_back(&self, to: Option<u32>) -> Result<u32> {
        self.order(|done| Order::RollBack(to, done)).await
    }

    /// Deletes builds that do not serve; their numbers.
    pub async fn drop_builds(&self, which: Which) -> Result<Vec<u32>> {
        self.order(|done| Order::Drop(which, done)).await
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<Result<T>>) -> Order) -> Result<T> {
        let name = self.view.name();
        let (done, wait) = oneshot::channel();
        let gone = |_| Error::unavailable(format!("view `{name}` is not kept any more: the process stops"));
        self.orders.send(order(done)).await.map_err(gone)?;
        wait.await.map_err(|_| {
            Error::unavailable(format!("view `{name}` was given something else to do meanwhile"))
                .with_hint("SHOW VIEWS says how it stands; try again")
        })?
    }

    /// Ends after the commit under way.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        if let Some(mut task) = self.task.lock().await.take()
            && tokio::time::timeout(LAST_COMMIT, &mut task).await.is_err()
        {
            // A commit goes on by itself.
            task.abort();
            let _ = task.await;
        }
    }
}

struct Owner {
    catalog: Catalog,
    views: Views,
    view: Arc<View>,
    /// The build that serves.
    build: Option<Build>,
    /// The one that is to take over.
    making: Option<Making>,
}

/// What an owner does next.
enum Next {
    Step,
    Obey(Order),
    TakeOver(Result<Build>),
    Stop,
}

/// A build on its way; ended when it is dropped.
struct Making {
    task: JoinHandle<Result<Build>>,
    stamp: Stamp,
    /// Who asked for it.
    waiting: Vec<oneshot::Sender<Result<u32>>>,
    view: Arc<View>,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.task.abort();
        self.view.builds(None);
    }
}

impl Owner {
    async fn run(mut self, mut stopped: watch::Receiver<bool>, mut orders: mpsc::Receiver<Order>) {
        loop {
            let definition = tokio::select! {
                definition = self.define() => definition,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            let Some(maker) = Maker::new(&self.views, &self.view, &self.catalog, definition) else {
                tracing::info!(view = self.view.name(), "kept as rows");
                self.view.update(|moment| {
                    moment.batch = None;
                    moment.live = None;
                });
                return self.serve_nothing(&mut stopped, &mut orders).await;
            };
            if !self.keep(&maker, &mut stopped, &mut orders).await {
                return;
            }
        }
    }

    /// For a view that is kept as rows: builds of its older queries may be deleted, and that is all.
    async fn serve_nothing(&self, stopped: &mut watch::Receiver<bool>, orders: &mut mpsc::Receiver<Order>) {
        let refused = || {
            Error::invalid(format!("view `{}` is kept as rows: no build serves it", self.view.name()))
                .with_hint("EXPLAIN VIEW says why; to have an older query's answer, put that query back into the config")
        };
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            // Whoever asked may have gone.
            match order {
                Some(Order::Rebuild(done)) => drop(done.send(Err(refused()))),
                Some(Order::RollBack(_, done)) => drop(done.send(Err(refused()))),
                Some(Order::Drop(which, done)) => drop(done.send(self.drop_builds(which, None).await)),
                None => return,
            }
        }
    }

    /// What the view is planned as, once its tables are there.
    async fn define(&self) -> Arc<Definition> {
        loop {
            match self.view.define(self.views.planner(), &self.catalog).await {
                Ok(definition) => return definition,
                Err(_) => clock::pause(LOOK_AGAIN).await,
            }
        }
    }

    /// Whether the view is still planned as `maker` has it.
    async fn is_defined_so(&self, maker: &Maker) -> bool {
        let defined = self.view.define(self.views.planner(), &self.catalog).await;
        defined.is_ok_and(|defined| Arc::ptr_eq(&defined, &maker.definition))
    }

    /// Keeps the states of one definition until it changes; `false` when the process stops.
    async fn keep(
        &mut self,
        maker: &Maker,
        stopped: &mut watch::Receiver<bool>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> bool {
        let Some((hub, _)) = self.catalog.table(maker.split.table()) else { return false };
        let mut changes = hub.changes();
        let mut backoff = Backoff::default();
        loop {
            changes.borrow_and_update();
            if !self.is_defined_so(maker).await {
                return true;
            }
            let before = self.reached();
            match self.step(maker).await {
                // To begin what has failed before is no success yet.
                Ok(()) if self.making.is_none() || self.reached() != before => backoff.reset(),
                Ok(()) => {}
                Err(error) => {
                    self.troubled(&error);
                    tokio::select! {
                        () = backoff.wait() => continue,
                        _ = stopped.wait_for(|stop| *stop) => return false,
                    }
                }
            }
            let next = tokio::select! {
                changed = changes.changed() => if changed.is_err() { Next::Stop } else { Next::Step },
                Some(order) = orders.recv() => Next::Obey(order),
                made = made(&mut self.making) => Next::TakeOver(made),
                _ = stopped.wait_for(|stop| *stop) => Next::Stop,
            };
            let done = match next {
                Next::Step => Ok(()),
                Next::Obey(order) => {
                    self.obey(maker, order).await;
                    Ok(())
                }
                Next::TakeOver(made) => self.take_over(maker, made).await,
                Next::Stop => return false,
            };
            if let Err(error) = done {
                self.troubled(&error);
                tokio::select! {
                    () = backoff.wait() => {}
                    _ = stopped.wait_for(|stop| *stop) => return false,
                }
            }
        }
    }

    /// Commits states up to the table's boundary, if there is anything to commit; begins a build where there is none.
    async fn step(&mut self, maker: &Maker) -> Result<()> {
        let Some(table) = maker.table() else { return Ok(()) };
        let stamp = maker.stamp(&table);
        if self.view.moment().batch.as_ref().is_some_and(|batch| batch.is_damaged()) {
            // Opened again, it shows whether they are.
            self.build = None;
            self.view.update(|moment| moment.batch = None);
        }
        if self.build.as_ref().is_none_or(|build| build.stamp != stamp) {
            self.build = None;
            if self.making.as_ref().is_some_and(|making| making.stamp == stamp) {
                return Ok(());
            }
            match maker.open(&stamp, &table).await? {
                Some(build) => {
                    build.show(&self.view);
                    self.build = Some(build);
                }
                None => {
                    self.begin(maker, stamp, &table);
                    return Ok(());
                }
            }
        }
        let Some(build) = &mut self.build else { return Ok(()) };
        if !build.version.boundary().is_at_least(&table.boundary) {
            maker.advance(build, &table, None).await?;
            build.show(&self.view);
            if let Err(error) = build.version.table.upkeep_but_merging().await {
                tracing::warn!(view = self.view.name(), error = ?error, "upkeep did not finish; it is tried again");
            }
        }
        if self.view.moment().trouble.is_some() && self.views.has_room(0) {
            self.view.update(|moment| moment.trouble = None);
        }
        Ok(())
    }

    /// How far which build has come.
    fn reached(&self) -> Option<(u32, Boundary)> {
        self.build.as_ref().map(|build| (build.version.number, build.version.boundary()))
    }

    /// Begins a build aside; whatever was being made before is let go.
    fn begin(&mut self, maker: &Maker, stamp: Stamp, table: &CutTable) {
        let rows = table.lake_rows().unwrap_or(0);
        let pace = Arc::new(Pace::new(rows, self.views.statements().clone()));
        let building = Arc::new(Building::new(pace));
        self.making = None;
        self.view.builds(Some(Arc::clone(&building)));
        let maker = maker.clone();
        let task = tokio::spawn(async move { maker.make(building).await });
        self.making = Some(Making { task, stamp, waiting: Vec::new(), view: Arc::clone(&self.view) });
    }

    /// Lets a build that was made aside serve from now on.
    async fn take_over(&mut self, maker: &Maker, made: Result<Build>) -> Result<()> {
        let Some(mut making) = self.making.take() else { return Ok(()) };
        let waiting = std::mem::take(&mut making.waiting);
        drop(making);
        let name = self.view.name().to_owned();
        let taken = async {
            let mut build = made?;
            let table = maker.table().ok_or_else(|| Error::unavailable("the view's table is gone"))?;
            if maker.stamp(&table) != build.stamp {
                return Err(Error::unavailable("another engine has changed the table's rows meanwhile"));
            }
            maker.advance(&mut build, &table, None).await?;
            fault::point("view.swap.before")?;
            let number = build.version.number;
            build.show(&self.view);
            self.build = Some(build);
            fault::point("view.swap.after")?;
            tracing::info!(view = name, version = number, "serves from now on");
            Ok(number)
        };
        let taken = taken.await;
        for done in waiting {
            let told = match &taken {
                Ok(number) => Ok(*number),
                Err(error) => {
                    Err(Error::new(error.kind(), format!("view `{name}` was not rebuilt: {}", error.chain())))
                }
            };
            // Whoever asked may have gone.
            let _ = done.send(told);
        }
        taken.map(drop)
    }

    /// Logs what went wrong, shows it, and lets go of the build: a commit may have landed whose states are not in memory, so
    /// the next step reads the lake first.
    fn troubled(&mut self, error: &Error) {
        let name = self.view.name();
        let build = self.build.take();
        if let Some(build) = build.filter(|build| build.is_damaged) {
            let table = build.version.table.name().to_owned();
            tracing::warn!(view = name, table, error = %error.chain(), "states are damaged; they are made anew");
            self.view.update(|moment| {
                moment.batch = None;
                moment.live = None;
            });
        } else if is_damage(error) {
            tracing::warn!(view = name, error = %error.chain(), "rows cannot be read; states are not committed; trying again");
        } else {
            tracing::warn!(view = name, error = %error.chain(), "states are not committed; trying again");
        }
        let told = error.chain();
        self.view.update(|moment| moment.trouble = Some(told));
    }

    /// Does what was asked for. What fails there is for whoever asked, and no trouble of the view.
    async fn obey(&mut self, maker: &Maker, order: Order) {
        // Whoever asked may have gone.
        match order {
            Order::Rebuild(done) => match maker.table() {
                None => {
                    let _ = done.send(Err(Error::unavailable("the view has no table yet")));
                }
                Some(table) => {
                    let stamp = maker.stamp(&table);
                    if self.making.as_ref().is_none_or(|making| making.stamp != stamp) {
                        self.begin(maker, stamp, &table);
                    }
                    if let Some(making) = &mut self.making {
                        making.waiting.push(done);
                    }
                }
            },
            Order::RollBack(to, done) => {
                let _ = done.send(self.roll_back(to).await);
            }
            Order::Drop(which, done) => {
                let dropped = match self.serving() {
                    Ok(serving) => self.drop_builds(which, Some(serving)).await,
                    Err(error) => Err(error),
                };
                let _ = done.send(dropped);
            }
        }
    }

    /// Lets build `to`, or the one before the build that serves, serve from now on and after a restart.
    async fn roll_back(&mut self, to: Option<u32>) -> Result<u32> {
        let (view, name) = (Arc::clone(&self.view), self.view.name().to_owned());
        let serving = self.serving()?;
        let versions = Versions::find(self.catalog.lake(), &name).await?;
        let older = || versions.numbers().iter().rev().copied().find(|number| *number < serving);
        let Some(to) = to.or_else(older) else {
            return Err(Error::invalid(format!("view `{name}` has no build older than {serving}")).with_hint(
                "`tarn view builds` shows which there are; name a newer one with `--to` to take a rollback back",
            ));
        };
        if to == serving {
            return Err(Error::invalid(format!("build {to} of view `{name}` serves already")));
        }
        let target = versions.open(to).await?.and_then(|target| Some((target.query()?, target)));
        let Some((query, target)) = target else {
            let known: Vec<String> = versions.numbers().iter().map(u32::to_string).collect();
            return Err(Error::invalid(format!("there is no build {to} of view `{name}`"))
                .with_hint(format!("builds: {}", known.join(", "))));
        };
        let definition = view.plan(self.views.planner(), &self.catalog, &query).await?;
        let Some(maker) = Maker::new(&self.views, &view, &self.catalog, Arc::new(definition)) else {
            return Err(Error::invalid(format!("the query of build {to} is kept as rows")));
        };
        let table = maker.table().ok_or_else(|| Error::unavailable("its table is not there"))?;
        let stamp = maker.stamp(&table);
        let cannot = |why: &str| {
            Error::invalid(format!("build {to} of view `{name}` cannot serve: {why}")).with_hint(
                "put its query back into the config, or `tarn view rebuild` the view, to have its states made anew",
            )
        };
        if let Some(why) = target.why_not(&stamp, &maker.topic_uuid(&table)?) {
            return Err(cannot(why));
        }
        if target.boundary().is_empty() && !table.boundary.is_empty() {
            return Err(cannot("it was never finished"));
        }
        let Some(build) = maker.read(target, &stamp, &table).await? else {
            return Err(cannot("its states cannot be read"));
        };
        fault::point("view.rollback.before")?;
        versions.roll_back(view.declared(), to).await?;
        fault::point("view.rollback.after")?;
        tracing::info!(view = name, from = serving, to, "rolled back");
        self.making = None;
        view.answer((query != view.declared()).then_some(&*query));
        build.show(&view);
        // Read again by the next step, which knows what the mark has changed.
        self.build = None;
        Ok(to)
    }

    /// Deletes builds that nothing needs.
    async fn drop_builds(&self, which: Which, serving: Option<u32>) -> Result<Vec<u32>> {
        let name = self.view.name().to_owned();
        let mut versions = Versions::find(self.catalog.lake(), &name).await?;
        let mut needed: Vec<(u32, String)> =
            serving.into_iter().map(|number| (number, "it serves".to_owned())).collect();
        let building = self.view.building().and_then(|building| building.version());
        needed.extend(building.map(|number| (number, "it is being made".to_owned())));
        for (from, to) in versions.rollbacks(self.view.declared()).await? {
            needed.push((from, format!("it says that the view was rolled back to build {to}")));
            needed.push((to, format!("build {from} was rolled back to it")));
        }
        let why = |number: u32| needed.iter().find(|(kept, _)| *kept == number).map(|(_, why)| why.as_str());
        let going: Vec<u32> = match which {
            Which::Old => {
                versions.numbers().iter().copied().filter(|number| why(*number).is_none()).collect()
            }
            Which::These(numbers) => numbers,
        };
        for number in &going {
            if !versions.numbers().contains(number) {
                let known: Vec<String> = versions.numbers().iter().map(u32::to_string).collect();
                return Err(Error::invalid(format!("there is no build {number} of view `{name}`"))
                    .with_hint(format!("builds: {}", known.join(", "))));
            }
            if let Some(why) = why(*number) {
                return Err(Error::invalid(format!("build {number} of view `{name}` stays: {why}"))
                    .with_hint("`tarn view rollback` lets another build serve"));
            }
        }
        for number in &going {
            fault::point("view.drop.before")?;
            versions.remove(*number).await?;
            fault::point("view.drop.after")?;
        }
        Ok(going)
    }

    /// The build that serves.
    fn serving(&self) -> Result<u32> {
        self.build.as_ref().map(|build| build.version.number).ok_or_else(|| {
            Error::unavailable(format!("view `{}` has no build that serves yet", self.view.name()))
                .with_hint("SHOW VIEWS says how far it is")
        })
    }
}

/// The build that was made aside, once it is made.
async fn made(making: &mut Option<Making>) -> Result<Build> {
    match making {
        None => std::future::pending().await,
        Some(making) => match (&mut making.task).await {
            Ok(made) => made,
            Err(error) => Err(Error::internal("making states broke off").with_source(error)),
        },
    }
}
