//! The commit protocol under crashes, damage and foreign files.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::config::BestBy;
use crate::storage::Store;
use crate::storage::faulty::Faults;

/// Saves two small parts that differ from step to step, and returns the manifest's object name.
pub(super) async fn save(checkpoints: &CheckpointStore, step: u64) -> Result<String, CheckpointError> {
    let attempt = checkpoints.begin(step, 1)?;
    let weights = attempt.write_part("weights", contents("weights", step)).await?;
    let moments = attempt.write_part("moments", contents("moments", step)).await?;
    let manifest = manifest(step, 1, vec![weights, moments]);
    let object = format!("{}/manifest.json", manifest.parts[0].object.rsplit_once('/').unwrap().0);
    attempt.commit(&manifest).await.map(|()| object)
}

pub(super) fn manifest(step: u64, generation: u64, parts: Vec<Part>) -> Manifest {
    Manifest {
        version: VERSION,
        run_id: "run".into(),
        step,
        generation,
        world: 2,
        config_hash: "c".into(),
        data_fingerprint: "d".into(),
        parts,
        extra: json!({"position": 8 * step}),
        figure: None,
        figure_of: BestBy::default(),
    }
}

pub(super) fn contents(name: &str, step: u64) -> Bytes {
    format!("{name} of step {step}").into()
}

/// The step that a resumed run would start from; its parts must read back as they were saved.
pub(super) async fn newest(checkpoints: &CheckpointStore) -> Option<u64> {
    let manifest = checkpoints.newest_verified().await.unwrap().0?;
    for part in &manifest.parts {
        assert_eq!(checkpoints.read_part(part).await.unwrap(), contents(&part.name, manifest.step));
    }
    Some(manifest.step)
}

#[tokio::test]
async fn the_newest_commit_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointStore::new(Store::open(folder.path().to_str().unwrap()).unwrap());
    assert_eq!(checkpoints.newest_verified().await.unwrap(), (None, vec![]));
    for step in [9, 100, 10] {
        save(&checkpoints, step).await.unwrap();
    }
    let listed = checkpoints.list().await.unwrap();
    assert_eq!(listed.iter().map(|listed| listed.step).collect::<Vec<_>>(), [100, 10, 9]);
    let (manifest, skipped) = checkpoints.newest_verified().await.unwrap();
    let manifest = manifest.unwrap();
    assert_eq!((manifest.step, &manifest.extra, skipped.len()), (100, &json!({"position": 800}), 0));
    assert_eq!(checkpoints.read_part(manifest.part("moments").unwrap()).await.unwrap(), "moments of step 100");
    assert_eq!(newest(&checkpoints).await, Some(100));
}

/// Any byte changed, any object cut anywhere or gone: the previous checkpoint is found, and the reason names the damaged object.
#[tokio::test]
async fn all_damage_falls_back_and_says_so() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    save(&checkpoints, 1).await.unwrap();
    let manifest = save(&checkpoints, 2).await.unwrap();
    let folder = manifest.rsplit_once('/').unwrap().0;
    let objects: Vec<_> = store.list(folder).await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(objects.len(), 3);
    for object in objects {
        let whole = store.get(&object).await.unwrap();
        let cut = (0..whole.len()).map(|length| whole.slice(..length));
        let flipped = (0..whole.len()).map(|index| {
            let mut bytes = whole.to_vec();
            bytes[index] ^= 1 << (index % 8);
            Bytes::from(bytes)
        });
        for damaged in cut.chain(flipped) {
            store.put(&object, damaged).await.unwrap();
            let (found, skipped) = checkpoints.newest_verified().await.unwrap();
            assert_eq!(found.map(|manifest| manifest.step), Some(1), "{object}");
            assert_eq!(skipped.len(), 1);
            assert_eq!(skipped[0].name, manifest);
            assert!(skipped[0].reason.starts_with(&store.name_url(&object)), "{}", skipped[0].reason);
        }
        store.delete(&object).await.unwrap();
        assert_eq!(newest(&checkpoints).await, Some(1), "without {object}");
        store.put(&object, whole).await.unwrap();
        assert_eq!(newest(&checkpoints).await, Some(2));
    }
}

#[tokio::test]
async fn a_manifest_in_a_foreign_folder_is_not_believed() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    let manifest = save(&checkpoints, 1).await.unwrap();
    let renamed = manifest.replacen("0000000001", "0000000007", 1);
    store.put(&renamed, store.get(&manifest).await.unwrap()).await.unwrap();
    let (found, skipped) = checkpoints.newest_verified().await.unwrap();
    assert_eq!((found.unwrap().step, &skipped[0].name), (1, &renamed));
}

/// The process dies after any write of saving and clearing away, with or without the last one taking effect: what was acknowledged is
/// there, and the next process saves, finds and clears away as if nothing had happened.
#[tokio::test]
async fn a_crash_at_any_write_loses_nothing() {
    let mut crashes = 0;
    for last_write_lands in [false, true] {
        for writes in 0.. {
            let (faults, store) = Faults::store();
            let checkpoints = CheckpointStore::new(store.clone());
            for step in [10, 20, 30] {
                save(&checkpoints, step).await.unwrap();
            }
            faults.crash_after(writes, last_write_lands);
            let saved = save(&checkpoints, 40).await;
            let collected = if saved.is_ok() { checkpoints.collect(Retention::last(2)).await.map(drop) } else { Ok(()) };
            faults.restart();

            let restarted = CheckpointStore::new(store.clone());
            let found = newest(&restarted).await.unwrap();
            assert!(found == 40 || (found == 30 && saved.is_err()), "found {found} after {writes} writes");
            assert!(restarted.newest_verified().await.unwrap().1.is_empty(), "an uncommitted save is not a damaged checkpoint");
            save(&restarted, 50).await.unwrap();
            restarted.collect(Retention::last(2)).await.unwrap();
            assert_eq!(restarted.list().await.unwrap().iter().map(|listed| listed.step).collect::<Vec<_>>(), [50, found]);
            let left: Vec<_> = store.list("").await.unwrap().into_iter().map(|entry| entry.name).collect();
            assert!(left.len() == 7 && left[6] == "LATEST", "nothing but two checkpoints is left: {left:?}");
            if saved.is_ok() && collected.is_ok() {
                break;
            }
            crashes += 1;
        }
    }
    // Two parts, a manifest and the hint written, two checkpoints of three objects removed.
    assert_eq!(crashes, 2 * 10);
}

#[tokio::test]
async fn a_store_that_fails_is_no_reason_to_go_back() {
    let (faults, store) = Faults::store();
    let checkpoints = CheckpointStore::new(store);
    save(&checkpoints, 1).await.unwrap();
    faults.unreachable.store(true, SeqCst);
    assert!(matches!(checkpoints.newest_verified().await, Err(CheckpointError::Storage(StorageError::Backend { .. }))));
    assert!(checkpoints.collect(Retention::last(2)).await.is_err());
}

#[tokio::test]
async fn a_part_is_read_twice_before_it_counts_as_damaged() {
    let (faults, store) = Faults::store();
    let checkpoints = CheckpointStore::new(store);
    save(&checkpoints, 1).await.unwrap();
    let part = checkpoints.newest_verified().await.unwrap().0.unwrap().parts.remove(0);
    faults.flips.store(1, SeqCst);
    assert_eq!(checkpoints.read_part(&part).await.unwrap(), "weights of step 1");
    faults.flips.store(2, SeqCst);
    let error = checkpoints.read_part(&part).await.unwrap_err();
    assert!(matches!(&error, CheckpointError::Corrupt { object, .. } if object.ends_with(&part.object)), "{error}");
}

#[tokio::test]
async fn what_does_not_belong_together_is_not_committed() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    save(&checkpoints, 1).await.unwrap();
    let manifest = checkpoints.newest_verified().await.unwrap().0.unwrap();
    let refused = |mut manifest: Manifest, part: Option<&'static str>| {
        let (checkpoints, store) = (checkpoints.clone(), store.clone());
        async move {
            let attempt = checkpoints.begin(2, 1).unwrap();
            if let Some(name) = part {
                let part = attempt.write_part(name, Bytes::from_static(b"x")).await.unwrap();
                store.delete(&part.object).await.unwrap();
                manifest.parts = vec![part];
            }
            attempt.commit(&manifest).await.unwrap_err().to_string()
        }
    };
    assert!(refused(manifest.clone(), None).await.contains("step 1"));
    assert!(refused(Manifest { step: 2, ..manifest.clone() }, None).await.contains("another attempt"));
    assert!(refused(Manifest { step: 2, ..manifest }, Some("weights")).await.contains("no such object"));
    assert!(checkpoints.begin(2, 1).unwrap().write_part("../weights", Bytes::new()).await.is_err());
    assert_eq!(checkpoints.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn clearing_away_touches_only_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    let torso = checkpoints.begin(15, 1).unwrap().write_part("weights", Bytes::from_static(b"x")).await.unwrap();
    let torn = format!("{}/0000000016/000001-00000000000000aa/weights.safetensors#1", folder.path().display());
    std::fs::create_dir_all(Path::new(&torn).parent().unwrap()).unwrap();
    std::fs::write(&torn, "torn").unwrap();
    let oldest = save(&checkpoints, 10).await.unwrap();
    for foreign in ["notes.txt", "0000000010/notes.txt"] {
        store.put(foreign, Bytes::new()).await.unwrap();
    }
    for step in [20, 30, 40] {
        save(&checkpoints, step).await.unwrap();
    }
    let removed = checkpoints.collect(Retention::last(0)).await.unwrap();
    assert_eq!(removed.len(), 4, "steps 20 and 10, the torso and the torn write: {removed:?}");
    assert_eq!(checkpoints.list().await.unwrap().iter().map(|listed| listed.step).collect::<Vec<_>>(), [40, 30]);
    let left: Vec<_> =
        store.list("").await.unwrap().into_iter().map(|entry| entry.name).filter(|name| name.ends_with("txt")).collect();
    assert_eq!(left, ["0000000010/notes.txt", "notes.txt"]);
    assert!(!folder.path().join(oldest).parent().unwrap().exists() && !folder.path().join(torso.object).exists());
    assert!(!Path::new(&torn).parent().unwrap().exists());
    assert_eq!(checkpoints.collect(Retention::last(2)).await.unwrap(), Vec::<String>::new());
}

/// Damaged checkpoints do not count among those that are kept, however new they look.
#[tokio::test]
async fn damage_does_not_push_out_good_checkpoints() {
    let store = Store::open("memory://").unwrap();
    let before = CheckpointStore::new(store.clone());
    for step in [10, 20, 30, 40] {
        let manifest = save(&before, step).await.unwrap();
        if step >= 30 {
            store.put(&manifest.replace("manifest.json", "weights.safetensors"), contents("WEIGHTS", step)).await.unwrap();
        }
    }
    let resumed = CheckpointStore::new(store);
    assert_eq!(newest(&resumed).await, Some(20));
    assert_eq!(resumed.collect(Retention::last(2)).await.unwrap(), Vec::<String>::new());
    save(&resumed, 25).await.unwrap();
    assert_eq!(resumed.collect(Retention::last(2)).await.unwrap().len(), 1);
    assert_eq!(resumed.list().await.unwrap().iter().map(|listed| listed.step).collect::<Vec<_>>(), [40, 30, 25, 20]);
}

/// Three writers share the parts; whoever gathers them waits for the last one, and not for ever.
#[tokio::test]
async fn writers_that_share_a_checkpoint_are_waited_for() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    let join = |random| checkpoints.join(5, 1, random, None);
    let write = async |writer: usize, random| {
        let attempt = join(random);
        let part = attempt.write_part(&format!("part-{writer}"), contents("part", writer as u64)).await.unwrap();
        attempt.write_share(writer, vec![part]).await.unwrap();
    };
    let gathering = async {
        let attempt = join(7);
        let parts = attempt.gather(3, |waited| waited > Duration::from_secs(60)).await.unwrap();
        (attempt, parts)
    };
    let ((attempt, parts), ..) = tokio::join!(gathering, write(2, 7), write(0, 7), write(1, 7));
    assert_eq!(parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["part-0", "part-1", "part-2"]);
    attempt.commit(&manifest(5, 1, parts)).await.unwrap();
    assert_eq!(checkpoints.newest_verified().await.unwrap().0.unwrap().parts.len(), 3);

    write(0, 8).await;
    let error = join(8).gather(2, |_| true).await.unwrap_err().to_string();
    assert!(error.contains("writer 1 of this checkpoint was not done") && error.contains("share-00001.json"), "{error}");
    for step in [6, 7] {
        save(&checkpoints, step).await.unwrap();
    }
    checkpoints.collect(Retention::last(2)).await.unwrap();
    let left = store.list("").await.unwrap();
    assert!(left.iter().all(|entry| !entry.name.contains("share")), "{left:?}");
}

/// A coordinator that was cut off comes back after another one has gone on with the run.
#[tokio::test]
async fn a_generation_that_was_overtaken_does_not_commit() {
    let checkpoints = CheckpointStore::new(Store::open("memory://").unwrap());
    save(&checkpoints, 1).await.unwrap();
    // A later generation from before, as after a lost journal, is nobody who could take over.
    let old = checkpoints.begin(2, 9).unwrap();
    old.write_part("weights", contents("weights", 2)).await.unwrap();
    let fence = checkpoints.fence().await.unwrap();
    let commit = async |step, random| {
        let attempt = checkpoints.join(step, 3, random, Some(fence.clone()));
        let part = attempt.write_part("weights", contents("weights", step)).await.unwrap();
        attempt.commit(&manifest(step, 3, vec![part])).await
    };
    commit(4, 1).await.unwrap();
    checkpoints.begin(5, 4).unwrap().write_part("weights", contents("weights", 5)).await.unwrap();
    let error = commit(6, 2).await.unwrap_err().to_string();
    assert!(error.contains("begun by generation 4, and this is generation 3"), "{error}");
    assert_eq!(checkpoints.list().await.unwrap().iter().map(|listed| listed.step).collect::<Vec<_>>(), [4, 1]);
}
