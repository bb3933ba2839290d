//! What a store refuses for good: trying again, or starting again, changes nothing before somebody else has done something.

use std::fmt;

/// What is wrong, and the store's own word for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    reason: Reason,
    code: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Denied,
    Credentials,
    Expired,
    Clock,
    NoBucket,
}

impl Refusal {
    /// What an error of a cloud says, if it is a refusal. The code is in the document that comes with the answer.
    pub(super) fn of(error: &object_store::Error) -> Option<Self> {
        let told = told(error);
        let code = told.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
        let status = || told.split_once("status code: ").and_then(|(_, rest)| rest.get(..3));
        let reason = match code {
            Some("RequestTimeTooSkewed") => Reason::Clock,
            Some("NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName") => Reason::NoBucket,
            Some("ExpiredToken" | "TokenRefreshRequired" | "RequestExpired") => Reason::Expired,
            Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "AuthenticationFailed") => Reason::Credentials,
            _ => match (error, status()) {
                (object_store::Error::Unauthenticated { .. }, _) | (_, Some("401")) => Reason::Credentials,
                (object_store::Error::PermissionDenied { .. }, _) | (_, Some("403")) => Reason::Denied,
                _ => return None,
            },
        };
        Some(Self { reason, code: code.or(status()).unwrap_or("no code").to_owned() })
    }
}

/// The error and its causes.
fn told(error: &object_store::Error) -> String {
    let mut told = String::new();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        told += &error.to_string();
        cause = error.source();
    }
    told
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = &self.code;
        match self.reason {
            Reason::Denied => write!(f, "the store denies it ({code}); give the credentials the right to do that there"),
            Reason::Credentials => write!(f, "the store does not accept the credentials ({code}); set others in the environment"),
            Reason::Expired => write!(f, "the credentials have expired ({code}); get new ones and launch again"),
            Reason::Clock => write!(f, "this host's clock and the store's differ too much ({code}); set the clock of this host"),
            Reason::NoBucket => write!(f, "there is no such bucket ({code}); create it, or correct the URL"),
        }
    }
}
