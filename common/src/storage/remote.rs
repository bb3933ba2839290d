//! The clouds: how the name of a bucket and the environment become a connection.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientConfigKey, ObjectStore};

/// Whose protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    S3,
    Google,
    Azure,
}

/// Limits on requests, each with the end of the variable that sets another. The backends' default of 30 s for a whole request would end
/// every large transfer on a slow line; a limit on silence finds a dead connection sooner.
const LIMITS: [(ClientConfigKey, &str, &str); 2] =
    [(ClientConfigKey::Timeout, "TIMEOUT", "1h"), (ClientConfigKey::ReadTimeout, "READ_TIMEOUT", "60s")];

impl Cloud {
    /// The cloud of a URL's scheme.
    pub(super) fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" => Some(Self::Azure),
            _ => None,
        }
    }

    /// What it calls a bucket.
    pub(super) fn bucket(self) -> &'static str {
        if self == Self::Azure { "container" } else { "bucket" }
    }

    /// How the names of its variables begin.
    fn variables(self) -> &'static str {
        match self {
            Self::S3 => "AWS_",
            Self::Google => "GOOGLE_",
            Self::Azure => "AZURE_",
        }
    }

    /// The bucket, with everything else from the environment. Nothing is sent yet.
    pub(super) fn connect(self, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        let unset = |end: &str| std::env::var_os(format!("{}{end}", self.variables())).is_none();
        let limits = LIMITS.into_iter().filter(|(_, end, _)| unset(end)).map(|(key, _, limit)| (key, limit));
        Ok(match self {
            Self::S3 => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
                let limit = |builder: AmazonS3Builder, (key, limit)| builder.with_config(AmazonS3ConfigKey::Client(key), limit);
                Arc::new(limits.fold(builder, limit).build()?)
            }
            Self::Google => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                let limit =
                    |builder: GoogleCloudStorageBuilder, (key, limit)| builder.with_config(GoogleConfigKey::Client(key), limit);
                Arc::new(limits.fold(builder, limit).build()?)
            }
            Self::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
                let limit = |builder: MicrosoftAzureBuilder, (key, limit)| builder.with_config(AzureConfigKey::Client(key), limit);
                Arc::new(limits.fold(builder, limit).build()?)
            }
        })
    }
}
