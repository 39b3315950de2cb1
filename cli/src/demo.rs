//! `tarn demo`: a made-up shop, live, and words about it.
//!
//! It is nothing but a config and `run`: the config is written into a folder, commented, and kept, so that a second start
//! goes on where the first stopped and people can change it.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tarn_model::Error;
use tarn_model::clock;
use tarn_model::config::Config;
use tarn_model::status::{Status, TableStatus};
use tokio::sync::oneshot;

use crate::args::{DemoArgs, loader};
use crate::door::Door;
use crate::render::{number, out};
use crate::run::{RunOptions, run};

const EXAMPLE: &str = include_str!("../../configs/shop.toml");
/// What the config reads beside the generators: a file in its folder.
const COUNTRIES: &str = include_str!("../../configs/shop-countries.ndjson");
const LOOK_EVERY: Duration = Duration::from_millis(100);
const TERMINAL_EVERY: Duration = Duration::from_secs(1);
const FILE_EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn demo(args: DemoArgs) -> anyhow::Result<()> {
    let dir = args.dir.unwrap_or_else(|| std::env::temp_dir().join("tarn-demo"));
    let path = write_config(&dir)?;
    let mut config = loader(false).load(&path)?;
    if let Some(door) = Door::find(&config).await? {
        return Err(Error::unavailable(format!(
            "a demo runs in {} already, at {}",
            dir.display(),
            door.address()
        ))
        .with_hint(format!("ask it: tarn sql -c {}; or name another folder: tarn demo DIR", path.display()))
        .into());
    }
    take_free_port(&mut config);
    introduce(&path, &config)?;
    let (stop, stopped) = oneshot::channel();
    let pipeline = run(config.clone(), RunOptions { drain: false, quiet: true, stop: Some(stopped) });
    tokio::pin!(pipeline);
    let over = async {
        match args.duration {
            Some(duration) => clock::pause(duration.0).await,
            None => std::future::pending().await,
        }
    };
    let mut stop = Some(stop);
    tokio::select! {
        ended = &mut pipeline => ended?,
        told = tell(&path, &config) => {
            told?;
            drop(stop.take());
            pipeline.await?;
        }
        () = over => {
            drop(stop.take());
            pipeline.await?;
        }
    }
    let mut out = out();
    writeln!(out, "\nstopped; everything is kept in {}. The same command goes on from here.", dir.display())?;
    Ok(())
}

/// The config in `dir`: the one that is there, or a new one.
fn write_config(dir: &Path) -> anyhow::Result<PathBuf> {
    let path = dir.join("tarn.toml");
    if !path.exists() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
        let countries = dir.join("shop-countries.ndjson");
        std::fs::write(&countries, COUNTRIES)
            .with_context(|| format!("cannot write {}", countries.display()))?;
        std::fs::write(&path, config_text()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // What is shown is meant to be copied from anywhere.
    std::path::absolute(&path).with_context(|| format!("cannot name {}", path.display()))
}

/// configs/shop.toml with a head and folders of its own.
fn config_text() -> String {
    let body = EXAMPLE.split_once("\n\n").map_or(EXAMPLE, |(_, body)| body);
    let head = "# The shop of `tarn demo`. Change what you like and start it again; delete the folder to begin anew.\n\n";
    format!("{head}{body}").replace("data-shop", "data")
}

/// Another port when the config's is taken.
fn take_free_port(config: &mut Config) {
    let taken =
        TcpListener::bind(&config.serving.http).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    if taken {
        config.serving.http = "127.0.0.1:0".into();
    }
}

/// What happens, before anything does.
fn introduce(path: &Path, config: &Config) -> anyhow::Result<()> {
    let goes_on = config.data_dir.exists();
    let mut out = out();
    writeln!(
        out,
        "A made-up shop: generators write orders and clicks into a durable log, tables take them into a Delta"
    )?;
    writeln!(out, "lake every ten seconds, exactly once, and SQL shows lake and newest records as one.\n")?;
    writeln!(out, "  config  {}", path.display())?;
    writeln!(out, "  log     {}", config.data_dir.display())?;
    writeln!(out, "  lake    {}", config.lake.url)?;
    let state = if goes_on { "going on where it stopped" } else { "starting" };
    writeln!(out, "\n{state} ...")?;
    out.flush()?;
    Ok(())
}

/// Says what to type once SQL answers, then how it goes; does not end by itself.
async fn tell(path: &Path, config: &Config) -> anyhow::Result<()> {
    let door = loop {
        if let Some(door) = Door::find(config).await.ok().flatten()
            && door.status().await.is_ok_and(|status| status.ready)
        {
            break door;
        }
        clock::pause(LOOK_EVERY).await;
    };
    suggest(path, config, &door)?;
    let terminal = io::stdout().is_terminal();
    let every = if terminal { TERMINAL_EVERY } else { FILE_EVERY };
    let mut before: Option<Status> = None;
    let mut drawn = 0;
    loop {
        // A status that does not come is not worth a word: the pipeline itself ends when something is wrong.
        if let Ok(status) = door.status().await {
            let lines = counts(&status, before.as_ref());
            let mut out = out();
            if terminal && drawn > 0 {
                write!(out, "\x1b[{drawn}A")?;
            }
            for line in &lines {
                writeln!(out, "{line}{}", if terminal { "\x1b[K" } else { "" })?;
            }
            out.flush()?;
            drawn = lines.len();
            before = Some(status);
        }
        clock::pause(every).await;
    }
}

fn suggest(path: &Path, config: &Config, door: &Door) -> anyhow::Result<()> {
    let tarn = std::env::args().next().unwrap_or_else(|| "tarn".into());
    let (path, address) = (path.display(), door.address());
    let lake = config.lake.url.trim_start_matches("file:");
    let mut out = out();
    let page = config.dashboards.first().map_or_else(String::new, |dashboard| {
        format!(
            "\nOpen the dashboard, it moves as orders come in:\n  http://{address}/d/{}\n",
            dashboard.name
        )
    });
    writeln!(
        out,
        "ready at http://{address}
{page}
In another terminal:
  {tarn} sql -c {path} \\
      \"SELECT category, count(*) AS orders, sum(price * quantity) AS revenue FROM orders GROUP BY 1 ORDER BY 3 DESC\"
  {tarn} sql -c {path}                  a shell; \\d shows the tables
  {tarn} status -c {path} --watch
  {tarn} verify -c {path}               proof that nothing is lost or doubled

Send it events of your own, and ask for them:
  curl -d '{{\"message\": \"hello\"}}' http://{address}/v1/ingest/events
  curl -H 'Content-Type: text/plain' -H 'Accept: application/json' -d 'SELECT * FROM events' http://{address}/v1/sql

Each table is a Delta folder that other engines read: {lake}/orders

Ctrl-C stops it; kill -9 loses nothing, either.
"
    )?;
    out.flush()?;
    Ok(())
}

/// A line a table.
fn counts(status: &Status, before: Option<&Status>) -> Vec<String> {
    let line = |table: &TableStatus| {
        let rows = table.lake_rows + table.tail_rows;
        let old = before.and_then(|before| before.tables.iter().find(|old| old.name == table.name));
        let seconds = before.map_or(0.0, |before| status.uptime_s - before.uptime_s);
        let rate = match old {
            Some(old) if seconds > 0.1 => {
                let more = rows.saturating_sub(old.lake_rows + old.tail_rows);
                format!("  {:>6.0} rows/s", more as f64 / seconds)
            }
            _ => String::new(),
        };
        let (lake, tail) = (number(table.lake_rows), number(table.tail_rows));
        format!(
            "  {:<8} {:>12} rows: {lake:>12} in the lake, {tail:>8} not yet{rate}",
            table.name,
            number(rows)
        )
    };
    status.tables.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_writes_a_right_config_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = write_config(dir.path()).expect("written");
        let config = Config::load(&path).expect("a right config");
        assert_eq!(config.data_dir, dir.path().join("data"));
        assert_eq!(config.lake.url, format!("file:{}", dir.path().join("data/lake").display()));
        std::fs::write(&path, "# mine\n").expect("written");
        write_config(dir.path()).expect("found");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "# mine\n", "a changed config is kept");
    }
}
