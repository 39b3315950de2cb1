//! Deletes a table, so that whatever is left when that breaks off is an older version of it, or nothing.

use futures::StreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tarn_model::Result;

use crate::{Lake, error};

impl Lake {
    /// Deletes the table `name` with all its versions; nothing is not an error. No statement may read it any more.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let folder = self.folder(name)?;
        let store = self.store();
        let mut files: Vec<Path> = Vec::new();
        let mut listed = store.list(Some(&folder));
        while let Some(file) = listed.next().await {
            files.push(file.map_err(|e| error::store("listing a table's files", &folder, e))?.location);
        }
        files.sort_by_key(|path| std::cmp::Reverse(place(&folder, path)));
        for file in &files {
            match store.delete(file).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(error::store("deleting a table's file", file, e)),
            }
        }
        tracing::info!(table = name, files = files.len(), "deleted");
        Ok(())
    }
}

/// In the order in which a table is made: data, commits, checkpoints, what points to them.
fn place(folder: &Path, path: &Path) -> (u8, String) {
    let relative =
        path.as_ref().strip_prefix(folder.as_ref()).unwrap_or(path.as_ref()).trim_start_matches('/');
    let order = match relative.strip_prefix("_delta_log/") {
        None => 0,
        Some("_last_checkpoint") => 3,
        Some(name) if name.ends_with(".parquet") => 2,
        Some(_) => 1,
    };
    (order, relative.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_go_from_the_newest_on_after_checkpoints_and_before_data() {
        let folder = Path::from("t");
        let mut files = [
            "t/a.parquet",
            "t/_delta_log/00000000000000000000.json",
            "t/_delta_log/00000000000000000001.json",
            "t/_delta_log/00000000000000000001.checkpoint.parquet",
            "t/_delta_log/_last_checkpoint",
        ]
        .map(Path::from);
        files.sort_by_key(|path| std::cmp::Reverse(place(&folder, path)));
        let names = files.map(|path| path.filename().unwrap_or_default().to_owned());
        assert_eq!(names[0], "_last_checkpoint");
        assert!(names[1].ends_with("1.checkpoint.parquet"));
        assert!(names[2].ends_with("1.json") && names[3].ends_with("0.json"), "{names:?}");
        assert_eq!(names[4], "a.parquet");
    }
}
