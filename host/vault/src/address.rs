//! Where a vault is, and how its store is reached.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

const RULE: &str = "expected file:/absolute/folder, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix or \
                    memory:name";

/// Where a vault is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A folder of this machine: `file:/absolute/folder`.
    File {
        /// The folder's absolute path.
        path: String,
    },
    /// S3 or what speaks like it: `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// What comes before every key; may be empty.
        prefix: String,
    },
    /// Azure Blob Storage: `az://container/prefix`.
    Azure {
        /// The container.
        container: String,
        /// What comes before every key; may be empty.
        prefix: String,
    },
    /// Google Cloud Storage: `gs://bucket/prefix`.
    Google {
        /// The bucket.
        bucket: String,
        /// What comes before every key; may be empty.
        prefix: String,
    },
    /// The memory of this process, shared by name: `memory:name`. For tests; it is gone when the process ends.
    Memory {
        /// Two stores of the same name are the same store.
        name: String,
    },
}

fn bucket_and_prefix(rest: &str) -> Option<(String, String)> {
    let rest = rest.strip_prefix("//")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let usable = |text: &str| !text.chars().any(|char| char.is_control() || char == '?' || char == '#');
    let segments = prefix.is_empty() || !prefix.split('/').any(|part| matches!(part, "" | "." | ".."));
    (!bucket.is_empty() && !bucket.contains('@') && usable(bucket) && usable(prefix) && segments)
        .then(|| (bucket.to_owned(), prefix.to_owned()))
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = || Error::InvalidAddress { text: text.chars().take(256).collect(), rule: RULE.to_owned() };
        let (scheme, rest) = text.split_once(':').ok_or_else(error)?;
        let address = match scheme {
            "file" => {
                let path = match rest.strip_prefix("//") {
                    Some(path) if path.starts_with('/') => path,
                    Some(_) => return Err(error()),
                    None => rest,
                };
                let bad = |part: &str| part == ".." || part.chars().any(char::is_control);
                if !path.starts_with('/') || path.split('/').any(bad) {
                    return Err(error());
                }
                let path = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/");
                Self::File { path: format!("/{path}") }
            }
            "s3" => bucket_and_prefix(rest).map(|(bucket, prefix)| Self::S3 { bucket, prefix }).ok_or_else(error)?,
            "az" => bucket_and_prefix(rest)
                .map(|(container, prefix)| Self::Azure { container, prefix })
                .ok_or_else(error)?,
            "gs" => {
                bucket_and_prefix(rest).map(|(bucket, prefix)| Self::Google { bucket, prefix }).ok_or_else(error)?
            }
            "memory" if !rest.is_empty() && !rest.chars().any(char::is_control) => {
                Self::Memory { name: rest.to_owned() }
            }
            _ => return Err(error()),
        };
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, prefix) = match self {
            Self::File { path } => return write!(formatter, "file:{path}"),
            Self::Memory { name } => return write!(formatter, "memory:{name}"),
            Self::S3 { bucket, prefix } => ("s3", bucket, prefix),
            Self::Azure { container, prefix } => ("az", container, prefix),
            Self::Google { bucket, prefix } => ("gs", bucket, prefix),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(formatter, "{scheme}://{bucket}{slash}{prefix}")
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a store needs to be told beside its address: keys and values as the `object_store` crate names them, such as
/// `endpoint`, `region`, `allow_http`, `access_key_id`, `secret_access_key`. A value may be a secret, so none is shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    values: BTreeMap<String, String>,
    environment: bool,
}

impl StoreOptions {
    /// Only these values; the process's environment is not read.
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self { values, environment: false }
    }

    /// These values, and for what they do not say the provider's usual environment variables (`AWS_*`, `AZURE_*`,
    /// `GOOGLE_*`).
    pub fn from_env(values: BTreeMap<String, String>) -> Self {
        Self { values, environment: true }
    }

    /// The values, secrets among them.
    pub(crate) fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// Whether the provider's environment variables count.
    pub(crate) fn reads_environment(&self) -> bool {
        self.environment
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.values.keys().map(|key| (key, "hidden"));
        formatter.debug_map().entries(hidden).entry(&"(environment)", &self.environment).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_text() {
        for (text, canonical) in [
            ("file:/var/lib/vault", "file:/var/lib/vault"),
            ("file:///var//lib/./vault/", "file:/var/lib/vault"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("az://container/a", "az://container/a"),
            ("gs://bucket/a", "gs://bucket/a"),
            ("memory:test 1", "memory:test 1"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), canonical);
            let json = serde_json::to_string(&address).expect("an address serializes");
            assert_eq!(serde_json::from_str::<Address>(&json).expect("and comes back"), address);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_the_rule() {
        for text in [
            "",
            "vault",
            "/var/lib/vault",
            "file:vault",
            "file:/a/../b",
            "file://host/a",
            "s3:bucket",
            "s3://",
            "s3:///a",
            "s3://user@bucket/a",
            "s3://bucket/a//b",
            "s3://bucket/../b",
            "s3://bucket/a?b",
            "ftp://a/b",
            "memory:",
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains("expected file:"), "{error}");
        }
    }

    #[test]
    fn options_do_not_show_their_values() {
        let options = StoreOptions::new(BTreeMap::from([("secret_access_key".to_owned(), "hunter2".to_owned())]));
        let text = format!("{options:?}");
        assert!(text.contains("secret_access_key") && !text.contains("hunter2"), "{text}");
    }
}
