//! Opens the object store behind a lake's URL, and makes sure that it can hold a lake.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tarn_model::{Error, Result, clock};

use crate::durable::DurableLocal;
use crate::error;

/// The store of a lake, rooted at its URL.
pub(crate) struct OpenStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) durable: Option<DurableLocal>,
    /// The URL or path as people know it.
    pub(crate) url: String,
}

/// Opens `file:PATH`, `s3://bucket/prefix` or `memory:`.
pub(crate) async fn open(url: &str, options: &BTreeMap<String, String>) -> Result<OpenStore> {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme);
    match scheme {
        Some("file") => {
            if let Some(key) = options.keys().next() {
                return Err(Error::invalid(format!(
                    "a lake on a local disk has no store options: option=`{key}`"
                )));
            }
            open_local(url).await
        }
        Some("memory") => {
            Ok(OpenStore { store: Arc::new(InMemory::new()), durable: None, url: "memory:".into() })
        }
        Some("s3" | "s3a") => {
            let store = open_s3(url, options)?;
            probe(store.as_ref()).await?;
            Ok(OpenStore { store, durable: None, url: url.trim_end_matches('/').to_owned() })
        }
        _ => Err(Error::invalid(format!("not a lake's url: url=`{url}`"))
            .with_hint("write `file:data/lake` or `s3://bucket/prefix`")),
    }
}

/// `file:relative`, `file:/absolute` and `file:///absolute`.
fn local_path(url: &str) -> Result<PathBuf> {
    let invalid = || {
        Error::invalid(format!("not a path: url=`{url}`"))
            .with_hint("write `file:data/lake` or `file:///srv/lake`")
    };
    if url.starts_with("file://") {
        let parsed = url::Url::parse(url).map_err(|e| invalid().with_source(e))?;
        return parsed.to_file_path().map_err(|()| invalid());
    }
    let path = url.strip_prefix("file:").filter(|path| !path.is_empty()).ok_or_else(invalid)?;
    std::path::absolute(path).map_err(|e| invalid().with_source(e))
}

async fn open_local(url: &str) -> Result<OpenStore> {
    let path = local_path(url)?;
    let shown = path.display().to_string();
    let root = path.clone();
    let opened = tokio::task::spawn_blocking(move || DurableLocal::open(&root)).await.map_err(error::task)?;
    let durable = opened.map_err(|e| error::store("opening the lake", &Path::default(), e))?;
    Ok(OpenStore { store: Arc::new(durable.clone()), durable: Some(durable), url: shown })
}

fn open_s3(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let invalid = |e: object_store::Error| {
        Error::invalid(format!("the s3 store cannot be opened: url=`{url}`")).with_source(e)
    };
    let parsed =
        url::Url::parse(url).map_err(|e| Error::invalid(format!("not a url: url=`{url}`")).with_source(e))?;
    let mut builder = AmazonS3Builder::from_env().with_url(url);
    for (key, value) in options {
        let key: AmazonS3ConfigKey = key.to_ascii_lowercase().parse().map_err(|e: object_store::Error| {
            Error::invalid(format!("not an option of an s3 store: option=`{key}`"))
                .with_source(e)
                .with_hint("e.g. `region`, `endpoint`, `access_key_id`, `secret_access_key`, `allow_http`")
        })?;
        builder = builder.with_config(key, value);
    }
    let bucket = builder.build().map_err(invalid)?;
    let prefix = parsed.path().trim_matches('/');
    if prefix.is_empty() {
        return Ok(Arc::new(bucket));
    }
    let prefix = Path::from_url_path(prefix).map_err(|e| invalid(e.into()))?;
    Ok(Arc::new(PrefixStore::new(bucket, prefix)))
}

/// Makes sure that a second conditional put of the same name fails: Delta's log stands on it.
pub(crate) async fn probe(store: &dyn ObjectStore) -> Result<()> {
    let path = Path::from(format!("_tarn/probe-{}", clock::new_id()));
    let put = || store.put_opts(&path, "probe".into(), PutOptions::from(PutMode::Create));
    put().await.map_err(|e| error::store("probing the lake with a conditional put", &path, e))?;
    let second = put().await;
    if let Err(error) = store.delete(&path).await {
        tracing::warn!(%path, %error, "the probe could not be deleted");
    }
    match second {
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(()),
        Err(e) => Err(error::store("probing the lake with a conditional put", &path, e)),
        Ok(_) => Err(Error::invalid("the object store does not honour a conditional put (`If-None-Match: *`)").with_hint(
            "two writers would overwrite each other's commits: use a store, or a version of it, that supports conditional writes",
        )),
    }
}
