//! The objects below one address: requests to an `object_store`, and nothing that a vault decides.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    str::FromStr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use farshore_core::{Entropy, Timestamp};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::{
    Error as ObjectError, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, aws,
    azure, gcp, local::LocalFileSystem, memory::InMemory, path::Path,
};

use super::{Created, Listed, bucket::Bucket, paced::PacedConnector, s3::S3Bucket};
use crate::{
    Address, Error, Result, StoreOptions,
    error::{NOT_DURABLE, SharedSource},
};

/// How often a create is tried when its outcome cannot be told and the object is not there.
const CREATE_ATTEMPTS_MAX: usize = 3;

/// How often the client repeats a request that the network or the server lost.
const REQUEST_RETRIES_MAX: usize = 6;

/// How long the client goes on repeating a request.
const REQUEST_RETRY_SECONDS_MAX: u64 = 60;

/// The same of requests that are slow on purpose. They are repeated with their first signature, which S3 takes for 15 minutes.
const PACED_RETRY_SECONDS_MAX: u64 = 3 * 60;

/// The key of the object with which a store proves that it honours conditions.
pub(super) const PROBE_KEY: &str = "probe";

/// The objects below an address. Clones are the same objects.
#[derive(Clone)]
pub(super) struct Objects {
    client: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) address: Arc<str>,
    /// Whether the objects are files of this system, so that no reply can be lost on its way.
    is_local: bool,
    /// The side that knows versions and locks, if the store has one.
    pub(super) bucket: Option<Arc<dyn Bucket>>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Objects").field(&self.address).finish()
    }
}

static MEMORY: LazyLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

fn retries(connector: &PacedConnector) -> RetryConfig {
    let seconds = if connector.is_paced() { PACED_RETRY_SECONDS_MAX } else { REQUEST_RETRY_SECONDS_MAX };
    RetryConfig {
        max_retries: REQUEST_RETRIES_MAX,
        retry_timeout: Duration::from_secs(seconds),
        ..RetryConfig::default()
    }
}

/// The provider's own keys of the options, read by its crate's names.
fn keys<K: FromStr<Err = ObjectError>>(address: &Address, options: &StoreOptions) -> Result<Vec<(K, String)>> {
    let key = |(key, value): (&String, &String)| match K::from_str(&key.to_ascii_lowercase()) {
        Ok(key) => Ok((key, value.clone())),
        Err(source) => Err(Error::StoreConfiguration { address: address.to_string(), source: Arc::new(source) }),
    };
    options.values().iter().map(key).collect()
}

impl Objects {
    /// Prepares to reach the store at the address. Nothing is read or made yet: a folder that does not exist is made
    /// when a vault is created in it, and reported when one is opened.
    ///
    /// # Errors
    /// [`Error::StoreConfiguration`] when the options do not make sense for the address.
    pub(super) fn open(address: &Address, options: &StoreOptions, connector: &PacedConnector) -> Result<Self> {
        let configuration =
            |source: ObjectError| Error::StoreConfiguration { address: address.to_string(), source: Arc::new(source) };
        let mut bucket_side: Option<Arc<dyn Bucket>> = None;
        let (objects, prefix): (Arc<dyn ObjectStore>, Path) = match address {
            Address::File { path } => {
                if let Some(key) = options.values().keys().next() {
                    let source: SharedSource = Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(format!(
                        "a folder has no option {key:?}"
                    )));
                    return Err(Error::StoreConfiguration { address: address.to_string(), source });
                }
                let prefix = Path::from_absolute_path(path).map_err(|error| configuration(error.into()))?;
                (Arc::new(LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true)), prefix)
            }
            Address::Memory { name } => {
                let mut stores = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
                let store = Arc::clone(stores.entry(name.clone()).or_default());
                (store, Path::default())
            }
            Address::S3 { bucket, prefix } => {
                let environment = options.reads_environment();
                let builder = if environment { aws::AmazonS3Builder::from_env() } else { aws::AmazonS3Builder::new() };
                // The checksum is of what leaves this process, so that a store can refuse what arrives otherwise.
                let mut builder = builder
                    .with_checksum_algorithm(aws::Checksum::SHA256)
                    .with_conditional_put(aws::S3ConditionalPut::ETagMatch);
                for (key, value) in keys::<aws::AmazonS3ConfigKey>(address, options)? {
                    builder = builder.with_config(key, value);
                }
                let builder = builder.with_bucket_name(bucket).with_retry(retries(connector));
                let (store, side) = S3Bucket::build(builder, connector).map_err(configuration)?;
                bucket_side = Some(Arc::new(side));
                (store, parse_prefix(prefix)?)
            }
            Address::Azure { container, prefix } => {
                let environment = options.reads_environment();
                let mut builder = if environment {
                    azure::MicrosoftAzureBuilder::from_env()
                } else {
                    azure::MicrosoftAzureBuilder::new()
                };
                for (key, value) in keys::<azure::AzureConfigKey>(address, options)? {
                    builder = builder.with_config(key, value);
                }
                let builder = builder.with_container_name(container).with_retry(retries(connector));
                let builder = builder.with_http_connector(connector.clone());
                (Arc::new(builder.build().map_err(configuration)?), parse_prefix(prefix)?)
            }
            Address::Google { bucket, prefix } => {
                let environment = options.reads_environment();
                let mut builder = if environment {
                    gcp::GoogleCloudStorageBuilder::from_env()
                } else {
                    gcp::GoogleCloudStorageBuilder::new()
                };
                for (key, value) in keys::<gcp::GoogleConfigKey>(address, options)? {
                    builder = builder.with_config(key, value);
                }
                let builder = builder.with_bucket_name(bucket).with_retry(retries(connector));
                let builder = builder.with_http_connector(connector.clone());
                (Arc::new(builder.build().map_err(configuration)?), parse_prefix(prefix)?)
            }
        };
        let is_local = matches!(address, Address::File { .. });
        Ok(Self { client: objects, prefix, address: address.to_string().into(), is_local, bucket: bucket_side })
    }

    /// A store of the caller's own, such as one that injects faults; the vault's keys begin with `prefix`.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] when the prefix cannot be part of a key.
    pub(super) fn from_object_store(objects: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self> {
        let address = format!("{objects}/{prefix}").into();
        Ok(Self { client: objects, prefix: parse_prefix(prefix)?, address, is_local: false, bucket: None })
    }

    pub(super) fn path(&self, key: &str) -> Path {
        key.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    pub(super) fn failed(operation: &'static str, key: &str, source: ObjectError) -> Error {
        Error::Store { operation, object: key.to_owned(), source: Arc::new(source) }
    }

    /// Creates the object if there is none. The parts are written one after the other.
    ///
    /// # Errors
    /// [`Error::Store`] when it could not be told whether the object is there; it may be. The same when it is there, but
    /// may be gone after a power failure.
    pub(super) async fn create(&self, key: &str, parts: Vec<Bytes>) -> Result<Created> {
        let path = self.path(key);
        let payload: PutPayload = parts.iter().cloned().collect();
        let mut attempt = 1;
        loop {
            let error = match self.client.put_opts(&path, payload.clone(), PutMode::Create.into()).await {
                Ok(_) => return Ok(Created::Mine),
                Err(error) => error,
            };
            if is_final(&error) {
                return Err(Self::failed("create", key, error));
            }
            match self.holds(&path, &parts).await {
                // No reply was lost here: the file was linked to its name, and its folder could not be synced (the client
                // links, then syncs, and gives one error for both). Another sync could falsely succeed, because Linux
                // reports a failed write once only.
                Ok(Some(true)) if self.is_local && !matches!(error, ObjectError::AlreadyExists { .. }) => {
                    return Err(Self::failed(NOT_DURABLE, key, error));
                }
                Ok(Some(true)) => return Ok(Created::Mine),
                Ok(Some(false)) => return Ok(Created::Other),
                Ok(None) if attempt < CREATE_ATTEMPTS_MAX => attempt += 1,
                Ok(None) | Err(_) => return Err(Self::failed("create", key, error)),
            }
        }
    }

    /// Whether the object holds exactly these parts; none if there is no object.
    async fn holds(&self, path: &Path, parts: &[Bytes]) -> Result<Option<bool>, ObjectError> {
        let result = match self.client.get_opts(path, GetOptions::default()).await {
            Ok(result) => result,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let expected_bytes: usize = parts.iter().map(Bytes::len).sum();
        if u64::try_from(expected_bytes) != Ok(result.meta.size) {
            return Ok(Some(false));
        }
        let found = result.bytes().await?;
        if found.len() != expected_bytes {
            // A reply that was cut short tells nothing about what is stored.
            return Err(cut_short(found.len(), expected_bytes));
        }
        let mut rest = found.as_ref();
        let same = parts.iter().all(|part| match rest.split_at_checked(part.len()) {
            Some((front, back)) => {
                rest = back;
                front == part.as_ref()
            }
            None => false,
        });
        Ok(Some(same && rest.is_empty()))
    }

    /// The object's bytes, and when the store received it, as the store counts time; none if there is no object.
    ///
    /// # Errors
    /// As those of [`Store::read`].
    pub(super) async fn read_dated(&self, key: &str, bytes_max: usize) -> Result<Option<(Bytes, Timestamp)>> {
        let failed = |error| Self::failed("read", key, error);
        let result = match self.client.get_opts(&self.path(key), GetOptions::default()).await {
            Ok(result) => result,
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let size = result.meta.size;
        let received_at = Timestamp::from_unix_milliseconds(result.meta.last_modified.timestamp_millis());
        if usize::try_from(size).map_or(true, |size| size > bytes_max) {
            return Err(Error::damaged(key, format!("it has {size} bytes; the limit of its kind is {bytes_max}")));
        }
        let bytes = result.bytes().await.map_err(failed)?;
        if u64::try_from(bytes.len()) != Ok(size) {
            // The store says that the object is longer: it is not damaged, as far as anybody knows.
            return Err(failed(cut_short(bytes.len(), usize::try_from(size).unwrap_or(usize::MAX))));
        }
        Ok(Some((bytes, received_at)))
    }

    /// At most the bytes of this range, fewer where the object ends; none if there is no object.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the object ends before the range begins.
    pub(super) async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let result = match self.client.get_opts(&self.path(key), options).await {
            Ok(result) => {
                let expected =
                    usize::try_from(result.range.end.saturating_sub(result.range.start)).unwrap_or(usize::MAX);
                match result.bytes().await {
                    // The store says that there is more: it is not damaged, as far as anybody knows.
                    Ok(bytes) if bytes.len() < expected => Err(cut_short(bytes.len(), expected)),
                    bytes => bytes,
                }
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => match self.size(key).await? {
                None => Ok(None),
                Some(size) if size <= range.start => {
                    Err(Error::damaged(key, format!("it has {size} bytes, but is referred to at byte {}", range.start)))
                }
                Some(_) => Err(Self::failed("read", key, error)),
            },
        }
    }

    /// The object's length; none if there is no object.
    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>> {
        match self.client.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(Self::failed("look up", key, error)),
        }
    }

    /// The objects below a folder, in no order.
    pub(super) fn list(&self, folder: &str) -> impl Stream<Item = Result<Listed>> + Send + use<> {
        let path = self.path(folder);
        let prefix = self.prefix.clone();
        let folder = folder.to_owned();
        self.client.list(Some(&path)).map(move |item| {
            let meta = item.map_err(|error| Self::failed("list", &folder, error))?;
            let key = meta.location.prefix_match(&prefix).map(|parts| {
                let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
                parts.join("/")
            });
            let key = key.unwrap_or_else(|| meta.location.to_string());
            let received_at = Timestamp::from_unix_milliseconds(meta.last_modified.timestamp_millis());
            Ok(Listed { key, bytes: meta.size, received_at })
        })
    }

    /// The names of the folders right below a folder, sorted.
    pub(super) async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let listed = self.client.list_with_delimiter(Some(&self.path(folder))).await;
        let listed = listed.map_err(|error| Self::failed("list", folder, error))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Whether a listing proposes an object in the folder, after this key in the order of keys, whose name satisfies the
    /// condition.
    pub(super) async fn any_after(
        &self,
        folder: &str,
        after: &str,
        mut condition: impl FnMut(&str) -> bool,
    ) -> Result<bool> {
        let listed = self.client.list_with_offset(Some(&self.path(folder)), &self.path(after));
        let mut listed = std::pin::pin!(listed);
        while let Some(meta) = listed.try_next().await.map_err(|error| Self::failed("list", folder, error))? {
            if meta.location.filename().is_some_and(&mut condition) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes these objects. What is not there is passed over, so that an interrupted deletion can be repeated.
    ///
    /// # Errors
    /// [`Error::Store`] for the first that could not be deleted; others may be gone.
    pub(super) async fn delete(&self, keys: Vec<String>) -> Result<()> {
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut deleted = self.client.delete_stream(stream::iter(paths).boxed());
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(ObjectError::NotFound { .. }) => {}
                Err(error) => {
                    let folder = keys.first().map_or("", String::as_str);
                    return Err(Self::failed("delete", folder, error));
                }
            }
        }
        Ok(())
    }

    /// Proves that the store honours create-if-absent, by two creates of the object `probe` with different content, at
    /// the same time when the vault is made. At most one may win, and the object must hold the winner's content.
    ///
    /// # Errors
    /// [`Error::ConditionsIgnored`] with what happened instead.
    pub(super) async fn probe(&self, entropy: &dyn Entropy) -> Result<()> {
        let mut contents = [[0; 32]; 2];
        contents.iter_mut().for_each(|content| entropy.fill(content));
        // The number keeps the two apart even if randomness repeats.
        let [first, second] = [0u8, 1].map(|number| {
            let mut content = contents[usize::from(number)].to_vec();
            content.push(number);
            Bytes::from(content)
        });
        let path = self.path(PROBE_KEY);
        let before = self.read_dated(PROBE_KEY, 1024).await?.map(|(bytes, _)| bytes);
        let put = |content: Bytes| self.client.put_opts(&path, content.into(), PutMode::Create.into());
        let outcomes = futures::future::join(put(first.clone()), put(second.clone())).await;
        let after = self.read_dated(PROBE_KEY, 1024).await?.map(|(bytes, _)| bytes);
        let refuse = |evidence: &str| {
            Err(Error::ConditionsIgnored { address: self.address.to_string(), evidence: evidence.to_owned() })
        };
        let Some(after) = after else {
            for outcome in [outcomes.0, outcomes.1] {
                outcome.map_err(|error| Self::failed("create", PROBE_KEY, error))?;
            }
            return refuse("an object that was just created cannot be read");
        };
        match (outcomes, before) {
            ((Ok(_), Ok(_)), _) => refuse("two creates of one object both succeeded"),
            (_, Some(before)) if before != after => refuse("an object that existed was overwritten"),
            ((Ok(_), _) | (_, Ok(_)), Some(_)) => refuse("the create of an object that exists succeeded"),
            ((Ok(_), Err(_)), None) if after != first => refuse("an object does not hold what its creator wrote"),
            ((Err(_), Ok(_)), None) if after != second => refuse("an object does not hold what its creator wrote"),
            ((first, second), _) => {
                // A failure other than "exists" proves nothing, so it is reported as what it is.
                for outcome in [first, second] {
                    match outcome {
                        Ok(_) | Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => {}
                        Err(error) => return Err(Self::failed("create", PROBE_KEY, error)),
                    }
                }
                Ok(())
            }
        }
    }

    /// With a side that knows versions and locks.
    #[cfg(test)]
    pub(super) fn with_bucket(self, bucket: Arc<dyn Bucket>) -> Self {
        Self { bucket: Some(bucket), ..self }
    }

    /// As if its objects were files of this system.
    #[cfg(test)]
    pub(super) fn assume_local(self) -> Self {
        Self { is_local: true, ..self }
    }
}

/// A reply that ended before what it said it had.
fn cut_short(found: usize, expected: usize) -> ObjectError {
    ObjectError::Generic { store: "reply", source: format!("it ended after {found} of {expected} bytes").into() }
}

/// Whether a failed create cannot have had an effect, and would fail again.
fn is_final(error: &ObjectError) -> bool {
    matches!(
        error,
        ObjectError::PermissionDenied { .. }
            | ObjectError::Unauthenticated { .. }
            | ObjectError::NotSupported { .. }
            | ObjectError::NotImplemented { .. }
            | ObjectError::InvalidPath { .. }
            | ObjectError::UnknownConfigurationKey { .. }
    )
}

/// Whether a store let its caller not do what was asked.
pub(crate) fn is_denied(error: &Error) -> bool {
    let Error::Store { source, .. } = error else { return false };
    let source = source.downcast_ref::<ObjectError>();
    matches!(source, Some(ObjectError::PermissionDenied { .. } | ObjectError::Unauthenticated { .. }))
}

fn parse_prefix(prefix: &str) -> Result<Path> {
    Path::parse(prefix).map_err(|error| Error::InvalidAddress { text: prefix.to_owned(), rule: error.to_string() })
}
