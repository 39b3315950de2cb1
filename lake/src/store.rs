//! Opens the object store behind a lake's URL, and makes sure that it can hold a lake.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
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
    let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(retries());
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

/// Short ones, over what a network drops: whoever waits for a store tries again, and says so meanwhile.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
        max_retries: 5,
        retry_timeout: Duration::from_secs(60),
    }
}

/// Makes sure that a second conditional put of the same name fails: Delta's log stands on it.
pub(crate) async fn probe(store: &dyn ObjectStore) -> Result<()> {
    let path = Path::from(format!("_tarn/probe-{}", clock::new_id()));
    let put = || store.put_opts(&path, "probe".into(), PutOptions::from(PutMode::Create));
    let is_refusal = |error: &object_store::Error| {
        matches!(error, object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
    };
    match put().await {
        Ok(_) => {}
        // The answer got lost and the put was tried again: it met itself.
        Err(error) if is_refusal(&error) => {}
        Err(error) => return Err(probe_failed(error)),
    }
    let second = put().await;
    if let Err(error) = store.delete(&path).await {
        tracing::warn!(%path, %error, "the probe could not be deleted");
    }
    match second {
        Err(error) if is_refusal(&error) => Ok(()),
        Err(error) => Err(probe_failed(error)),
        Ok(_) => Err(unconditional()),
    }
}

fn unconditional() -> Error {
    Error::invalid("the object store does not honour a conditional put (`If-None-Match: *`)").with_hint(
        "two writers would overwrite each other's commits: use a store, or a version of it, that supports conditional writes",
    )
}

/// The first word with a store: most of what can be wrong is in the config.
fn probe_failed(error: object_store::Error) -> Error {
    use object_store::Error as Store;
    // What a server or a connection said is only in the texts.
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    let said = |word: &str| text.contains(word);
    let (told, hint) = match &error {
        Store::NotImplemented { .. } | Store::NotSupported { .. } => {
            return unconditional().with_source(error);
        }
        _ if said("501 Not Implemented") || said("<Code>NotImplemented</Code>") => {
            return unconditional().with_source(error);
        }
        Store::NotFound { .. } => {
            (Error::invalid("there is no bucket for the lake"), "make the bucket, or mend `lake.url`")
        }
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => (
            Error::invalid("the object store does not let this process write"),
            "check `access_key_id` and `secret_access_key` under `[lake.options]` (or AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY), and that they may list, read, write and delete below `lake.url`",
        ),
        _ if said("169.254.169.254") || said("169.254.170.2") => (
            Error::invalid("there are no credentials for the object store"),
            "set `access_key_id` and `secret_access_key` under `[lake.options]`, or AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in the environment; without them the machine's own role is asked for, and there is none",
        ),
        _ if said("URL scheme is not allowed") => (
            Error::invalid("the object store's endpoint is not encrypted"),
            "write `https://`, or set `allow_http = \"true\"` under `[lake.options]`",
        ),
        _ => (
            Error::unavailable("the object store cannot be reached"),
            "check `endpoint` and `region` under `[lake.options]`, and the network",
        ),
    };
    told.with_source(error).with_hint(hint)
}
