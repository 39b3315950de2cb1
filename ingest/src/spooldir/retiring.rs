//! The end of a spool file: once the log is durable, the file gets out of the way.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use tarn_log::Append;
use tarn_model::config::{DoneAction, SpooldirConfig};
use tarn_model::{Error, Result, fault};
use tracing::info;

use super::reading::to_json;
use super::{FAILED_SUFFIX, Position, Progress, SpoolFile, at_path};
use crate::source::Source;

/// Makes the log durable, moves the file away, and says so in its position.
pub(super) fn retire(
    source: &Source,
    config: &SpooldirConfig,
    spool: &SpoolFile,
    mut position: Position,
) -> Result<()> {
    let ends = source.log.ends(&source.topic)?;
    source.runtime.block_on(source.log.sync_to(&source.topic, &ends))?;
    fault::point("spool.rename.before")?;
    let new_path = move_away(config, spool, position.state == Progress::Failed)?;
    fault::point("spool.rename.after")?;
    info!(source = source.name, file = spool.name, now = %new_path.display(), "file is done");
    if position.state == Progress::Retired {
        return Ok(());
    }
    position.state = Progress::Retired;
    let mut append = Append::new();
    append.position(&source.name, &spool.identity, Some(to_json(&position)?));
    source.runtime.block_on(source.log.append(append))?;
    Ok(())
}

fn move_away(config: &SpooldirConfig, spool: &SpoolFile, failed: bool) -> Result<PathBuf> {
    let (folder, suffix) = match (failed, config.done, &config.done_path) {
        (true, _, _) => (&config.path, FAILED_SUFFIX),
        (false, DoneAction::Move, Some(done)) => (done, ""),
        (false, _, _) => (&config.path, config.done_suffix.as_str()),
    };
    fs::create_dir_all(folder).map_err(|error| at_path("cannot create the folder", folder, error))?;
    let mut name = spool.path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(suffix);
    for number in 0_u32.. {
        let mut candidate = name.clone();
        if number > 0 {
            candidate.push(format!(".{number}"));
        }
        let new_path = folder.join(candidate);
        match rename_new(&spool.path, &new_path) {
            Ok(()) => {
                sync_folder(folder)?;
                if folder != &config.path {
                    sync_folder(&config.path)?;
                }
                return Ok(new_path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                return Err(Error::invalid(format!(
                    "`done_path` is on another file system: `{}`",
                    folder.display()
                ))
                .with_hint("a file is moved by renaming it: choose a folder beside the spool folder"));
            }
            // Somebody took the file away after it was read: it is out of the way.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !spool.path.exists() => {
                return Ok(new_path);
            }
            Err(error) => return Err(at_path("cannot rename", &spool.path, error)),
        }
    }
    Err(Error::internal("all numbers are taken"))
}

/// Renames, and fails when `to` exists.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // A file system that cannot promise it can still link: that never overwrites either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|error| at_path("cannot sync the folder", folder, error))
}
