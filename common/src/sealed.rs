//! Small JSON documents that carry their own digest: `{"blake3":"<64 hex digits>","content":...}`.
//!
//! Manifests are the commit points of data sets and checkpoints. A torn, truncated or altered one must never be taken for a good one,
//! and everything a manifest says (digests of the large objects, most of all) is only worth what its own digest is worth.

use std::ops::RangeInclusive;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const BEFORE_DIGEST: &[u8] = br#"{"blake3":""#;
const BEFORE_CONTENT: &[u8] = br#"","content":"#;
const AFTER_CONTENT: &[u8] = b"}\n";
const DIGEST: usize = 2 * blake3::OUT_LEN;

/// Why a document is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Not a sealed document at all, or cut short.
    #[error("truncated or not written by this program")]
    Torn,
    /// The content is not what was sealed.
    #[error("its content does not match its digest (expected {expected}, found {found})")]
    Digest {
        /// The digest in the document.
        expected: String,
        /// The digest of its content.
        found: String,
    },
    /// Written in a format that this program does not know.
    #[error(
        "it has format version {found} and this program reads version {supported}; use the version of the program that wrote it"
    )]
    Version {
        /// The version in the document.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// Intact, but not what it should be.
    #[error("unexpected content: {0}")]
    Content(#[from] serde_json::Error),
}

/// The document for `content`, which must serialise to an object with a `version`, and the digest of its content.
///
/// # Errors
/// A content that cannot be written as JSON.
pub fn seal<T: Serialize>(content: &T) -> Result<(Bytes, String), SealError> {
    let content = serde_json::to_vec(content)?;
    let digest = blake3::hash(&content).to_hex();
    let document = [BEFORE_DIGEST, digest.as_bytes(), BEFORE_CONTENT, &content, AFTER_CONTENT].concat();
    Ok((document.into(), digest.to_string()))
}

/// The content of a document of one of the formats `versions`, and its digest.
///
/// # Errors
/// A document that is torn, altered, of another format or about something else.
pub fn open<T: DeserializeOwned>(document: &[u8], versions: RangeInclusive<u32>) -> Result<(T, String), SealError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let (expected, content) = split(document).ok_or(SealError::Torn)?;
    let found = blake3::hash(content).to_hex().to_string();
    if expected != found.as_bytes() {
        let expected = String::from_utf8_lossy(expected).into_owned();
        return Err(SealError::Digest { expected, found });
    }
    let Versioned { version: written } = serde_json::from_slice(content)?;
    if !versions.contains(&written) {
        return Err(SealError::Version { found: written, supported: *versions.end() });
    }
    Ok((serde_json::from_slice(content)?, found))
}

fn split(document: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digest, rest) = document.strip_prefix(BEFORE_DIGEST)?.split_at_checked(DIGEST)?;
    Some((digest, rest.strip_prefix(BEFORE_CONTENT)?.strip_suffix(AFTER_CONTENT)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Content {
        version: u32,
        text: String,
    }

    #[test]
    fn any_change_is_noticed() {
        let content = Content { version: 3, text: "blocks".into() };
        let (document, digest) = seal(&content).unwrap();
        assert_eq!(open::<Content>(&document, 3..=3).unwrap(), (content, digest));
        assert!(serde_json::from_slice::<serde_json::Value>(&document).is_ok(), "any tool can read it");
        for length in 0..document.len() {
            assert!(matches!(open::<Content>(&document[..length], 3..=3), Err(SealError::Torn | SealError::Digest { .. })));
        }
        for bit in 0..8 * document.len() {
            let mut flipped = document.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open::<Content>(&flipped, 3..=3), Err(SealError::Torn | SealError::Digest { .. })), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let (document, _) = seal(&serde_json::json!({"version": 4, "layout": []})).unwrap();
        assert!(matches!(open::<Content>(&document, 1..=3), Err(SealError::Version { found: 4, supported: 3 })));
        assert!(matches!(open::<Content>(&document, 5..=6), Err(SealError::Version { found: 4, supported: 6 })));
        assert!(
            matches!(open::<Content>(&document, 3..=4), Err(SealError::Content(_))),
            "read, and then found to be something else"
        );
    }
}
