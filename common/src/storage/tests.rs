//! The store behaves alike on every backend that a test can have: local disk and memory.
#![allow(clippy::unwrap_used)]

use super::*;

fn stores() -> (tempfile::TempDir, Vec<Store>) {
    let folder = tempfile::tempdir().unwrap();
    let local = Store::open(folder.path().join("a b%20#3/data").to_str().unwrap()).unwrap();
    (folder, vec![local, Store::open("memory://set").unwrap()])
}

#[test]
fn pieces_become_parts_of_one_size() {
    let pieces: Vec<Bytes> =
        [0..0, 0..3, 3..13, 13..14, 14..21].map(|range: std::ops::Range<u8>| range.collect::<Vec<u8>>().into()).into();
    let parts = regroup(pieces, 4);
    let sizes: Vec<usize> = parts.iter().map(|part| part.iter().map(Bytes::len).sum()).collect();
    assert_eq!(sizes, [4, 4, 4, 4, 4, 1]);
    assert_eq!(parts.concat().concat(), (0..21).collect::<Vec<u8>>());
}

/// Larger than one request, from pieces that do not end where parts do.
#[tokio::test]
async fn an_object_of_many_pieces_is_whole_and_was_seen_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let pieces: Vec<Bytes> = (0..5_u8).map(|index| vec![index; 9 << 20].into()).collect();
    let mut seen = blake3::Hasher::new();
    let look = |bytes: &[u8]| {
        seen.update(bytes);
    };
    store.put_pieces("large", pieces.clone(), look).await.unwrap();
    let found = store.get("large").await.unwrap();
    assert!(found == pieces.concat());
    assert_eq!(seen.finalize(), blake3::hash(&found));
}

#[tokio::test]
async fn objects_come_back_as_written() {
    let (folder, stores) = stores();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "opening writes nothing");
    for store in stores {
        assert_eq!(store.list("").await.unwrap(), []);
        assert!(store.get("a").await.unwrap_err().is_not_found());
        assert!(store.get_range("a", 0..1).await.unwrap_err().is_not_found());
        assert_eq!(store.size("a").await.unwrap(), None);
        store.put("b/c", Bytes::from_static(b"older, longer")).await.unwrap();
        store.put("b/c", Bytes::from_static(b"0123456789")).await.unwrap();
        store.put("a", Bytes::new()).await.unwrap();
        store.put("b.d", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(store.get("b/c").await.unwrap(), "0123456789");
        assert_eq!(store.child("b").get("c").await.unwrap(), "0123456789");
        assert_eq!(store.get_range("b/c", 3..6).await.unwrap(), "345");
        assert_eq!(store.get_range("b/c", 3..3).await.unwrap(), "");
        assert_eq!(store.get("a").await.unwrap(), "");
        assert_eq!(store.size("b/c").await.unwrap(), Some(10));
        let names = |entries: Vec<Entry>| entries.into_iter().map(|entry| (entry.name, entry.size)).collect::<Vec<_>>();
        assert_eq!(names(store.list("").await.unwrap()), [("a".into(), 0), ("b.d".into(), 1), ("b/c".into(), 10)]);
        assert_eq!(names(store.list("b").await.unwrap()), [("b/c".into(), 10)]);
        assert_eq!(names(store.child("b").list("").await.unwrap()), [("c".into(), 10)]);
        store.delete("b/c").await.unwrap();
        store.delete("b/c").await.unwrap();
        assert_eq!(names(store.list("b").await.unwrap()), []);
        assert!(store.local_path().is_none_or(|path| path.exists() && !path.join("b").exists()), "empty folders go");
    }
}

#[tokio::test]
async fn a_range_beyond_the_end_names_object_and_sizes() {
    for store in stores().1 {
        store.put("short", Bytes::from_static(b"0123")).await.unwrap();
        for range in [2..9, 4..9, 7..9] {
            let error = store.get_range("short", range.clone()).await.unwrap_err();
            assert!(matches!(error, StorageError::Size { expected: 9, found: 4, .. }), "{range:?}: {error}");
            assert!(error.to_string().starts_with(&store.name_url("short")), "{error}");
        }
    }
}

#[tokio::test]
async fn large_objects_are_uploaded_in_parts() {
    let store = Store::open("memory://").unwrap();
    let bytes: Bytes = (0..WHOLE_PUT + 12_345).map(|index| (index % 251) as u8).collect();
    store.put("large", bytes.clone()).await.unwrap();
    assert!(store.get("large").await.unwrap() == bytes);
}

#[tokio::test]
async fn unusable_names_and_urls_are_refused() {
    let store = Store::open("memory://").unwrap();
    for name in ["", "a#1", "b/c#22", "../up", "a//b", "./a"] {
        assert!(matches!(store.put(name, Bytes::new()).await, Err(StorageError::Name { .. })), "{name:?}");
    }
    store.put("a#b", Bytes::new()).await.unwrap();
    for url in ["gopher://x/y", "", "file://host/x", "s3://"] {
        let error = Store::open(url).unwrap_err().to_string();
        assert!(error.starts_with(url) && error.contains("s3://BUCKET"), "{error}");
    }
}

#[test]
fn urls_say_where_objects_are() {
    let here = std::env::current_dir().unwrap();
    let path = |url: &str| Store::open(url).unwrap().local_path().unwrap();
    assert_eq!(path("data/x"), here.join("data/x"));
    assert_eq!(path("file:///data/a%20b"), FilePath::new("/data/a b"));
    assert_eq!(path("src/../new/x"), here.canonicalize().unwrap().join("new/x"));
    assert_eq!(Store::open("data").unwrap().child("train/").name_url("a"), format!("{}/data/train/a", here.display()));
    assert_eq!(Store::open("memory://x/").unwrap().child("train").url(), "memory://x/train");
    let bucket = Store::open("s3://bucket/runs/").unwrap();
    assert_eq!((bucket.child("train").name_url("a").as_str(), bucket.local_path()), ("s3://bucket/runs/train/a", None));
}

#[tokio::test]
async fn traces_of_interrupted_writes_can_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    store.put("x/kept", Bytes::new()).await.unwrap();
    std::fs::create_dir(folder.path().join("y")).unwrap();
    for name in ["x/kept#1", "y/new.json#12"] {
        std::fs::write(folder.path().join(name), "torn").unwrap();
    }
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert_eq!(store.unfinished(""), ["x/kept#1", "y/new.json#12"]);
    store.remove_unfinished("y");
    assert!(!folder.path().join("y").exists());
    store.remove_unfinished("");
    assert_eq!(store.unfinished(""), Vec::<String>::new());
    assert_eq!(store.get("x/kept").await.unwrap(), "");
}

#[test]
fn a_full_disk_is_called_that() {
    let store = Store::open("/scratch/run").unwrap();
    let failed = |number| {
        let source = std::io::Error::from_raw_os_error(number).into();
        store.failed("write", "a", object_store::Error::Generic { store: "local", source }).to_string()
    };
    assert_eq!(
        failed(local::ENOSPC),
        "cannot write /scratch/run/a: no space is left on the device; make room there, or choose another place"
    );
    assert!(failed(local::EDQUOT).contains("the quota is used up"));
    assert!(failed(local::EPERM).starts_with("cannot write /scratch/run/a: "));
    // A file system without hard links cannot say whether a name is new.
    let unlinked = object_store::Error::Generic { store: "local", source: std::io::Error::from_raw_os_error(local::EPERM).into() };
    assert!(knows_no_create(&unlinked));
}

/// What clouds answer, with a document, or without one to HEAD.
#[test]
fn what_a_store_refuses_for_good_is_told_in_words() {
    let store = Store::open("s3://bucket/run").unwrap();
    let told = |status: &str, code: Option<&str>| {
        let body = code.map_or_else(String::new, |code| format!("<Error><Code>{code}</Code><Message>No.</Message></Error>"));
        let source = std::io::Error::other(format!("Server returned non-2xx status code: {status}: {body}")).into();
        store.failed("read", "a", object_store::Error::Generic { store: "S3", source })
    };
    for (status, code, words) in [
        ("403 Forbidden", Some("AccessDenied"), "the store denies it (AccessDenied)"),
        ("403 Forbidden", None, "the store denies it (403)"),
        ("403 Forbidden", Some("SignatureDoesNotMatch"), "does not accept the credentials (SignatureDoesNotMatch)"),
        ("403 Forbidden", Some("RequestTimeTooSkewed"), "set the clock of this host"),
        ("400 Bad Request", Some("ExpiredToken"), "the credentials have expired (ExpiredToken); get new ones"),
        ("404 Not Found", Some("NoSuchBucket"), "there is no such bucket (NoSuchBucket)"),
    ] {
        let error = told(status, code);
        assert!(error.is_refusal() && !error.is_not_found(), "{error}");
        assert!(error.to_string().starts_with("cannot read s3://bucket/run/a: ") && error.to_string().contains(words), "{error}");
    }
    assert!(!told("503 Slow Down", Some("SlowDown")).is_refusal());
    assert!(!told("404 Not Found", Some("NoSuchKey")).is_refusal());
}
