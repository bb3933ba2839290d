//! What happens to checkpoints besides crashes: rot, foreign runs, stores that lie about what they have done, writers that fail, clocks.
#![allow(clippy::unwrap_used)]

use std::fs::{File, FileTimes};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::tests::{contents, manifest, newest, save};
use super::*;
use crate::config::BestBy;
use crate::storage::Store;
use crate::storage::faulty::Faults;

fn steps(listed: Vec<Listed>) -> Vec<u64> {
    listed.iter().map(|listed| listed.step).collect()
}

fn local() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("checkpoints").to_str().unwrap()).unwrap();
    (folder, store)
}

/// Saves one part with a figure, and returns its object.
async fn save_judged(checkpoints: &CheckpointStore, step: u64, figure: f64, figure_of: BestBy) -> String {
    let attempt = checkpoints.begin(step, 1).unwrap();
    let part = attempt.write_part("weights", contents("weights", step)).await.unwrap();
    let object = part.object.clone();
    attempt.commit(&Manifest { figure: Some(figure), figure_of, ..manifest(step, 1, vec![part]) }).await.unwrap();
    object
}

#[tokio::test]
async fn a_manifest_whose_answer_was_lost_counts_and_a_conflict_that_is_none_does_not() {
    let (faults, store) = Faults::store();
    let checkpoints = CheckpointStore::new(store);
    faults.lost_answers.store(1, SeqCst);
    save(&checkpoints, 1).await.unwrap();
    assert_eq!(newest(&checkpoints).await, Some(1));
    faults.false_conflicts.store(2, SeqCst);
    save(&checkpoints, 2).await.unwrap();
    assert_eq!(newest(&checkpoints).await, Some(2));
    faults.false_conflicts.store(1000, SeqCst);
    let error = save(&checkpoints, 3).await.unwrap_err().to_string();
    assert!(error.contains("manifest.json") && error.contains("409 Conflict"), "{error}");
    assert_eq!(newest(&checkpoints).await, Some(2));
}

/// Flipped, cut and exchanged around every border that matters to a reader: of a sector, a page, an uploaded part and a verified piece.
#[tokio::test]
async fn damage_at_every_block_border_of_a_large_part_is_found() {
    const MIB: usize = 1 << 20;
    let (_folder, store) = local();
    let checkpoints = CheckpointStore::new(store.clone());
    save(&checkpoints, 1).await.unwrap();
    let whole: Vec<u8> = (0..33 * MIB + 13).map(|index| (index % 249) as u8).collect();
    let attempt = checkpoints.begin(2, 1).unwrap();
    let part = attempt.write_pieces("weights", vec![whole.clone().into()]).await.unwrap();
    attempt.commit(&manifest(2, 1, vec![part.clone()])).await.unwrap();
    assert_eq!(checkpoints.newest_verified().await.unwrap().0.unwrap().step, 2);

    let path = store.local_path().unwrap().join(&part.object);
    let borders = [512, 4096, MIB, 16 * MIB, 32 * MIB, 33 * MIB + 13];
    let around = borders.into_iter().flat_map(|border| [border - 1, border]).chain([0]).filter(|place| *place < whole.len());
    for place in around {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        for damaged in [&flipped[..], &whole[..place]] {
            std::fs::write(&path, damaged).unwrap();
            assert!(checkpoints.read_part(&part).await.unwrap_err().is_damage(), "at {place}");
            let (found, skipped) = checkpoints.newest_verified().await.unwrap();
            assert_eq!((found.unwrap().step, skipped.len()), (1, 1), "at {place}");
        }
    }
    // As large as it should be, and another run's.
    std::fs::write(&path, vec![7; whole.len()]).unwrap();
    let error = checkpoints.read_part(&part).await.unwrap_err();
    assert!(matches!(&error, CheckpointError::Corrupt { object, .. } if object.ends_with(&part.object)), "{error}");
}

#[tokio::test]
async fn two_runs_do_not_share_a_place() {
    for store in [Store::open("memory://").unwrap(), local().1] {
        let checkpoints = CheckpointStore::new(store.clone());
        checkpoints.claim("mine").await.unwrap();
        checkpoints.claim("mine").await.unwrap();
        let error = CheckpointStore::new(store).claim("yours").await.unwrap_err();
        assert!(error.is_foreign() && error.to_string().contains("run \"mine\", and this is run \"yours\""), "{error}");
    }
}

/// A checkpoint that was good when it was saved is no longer counted once it was found damaged.
#[tokio::test]
async fn rot_that_was_found_is_remembered() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    for step in [10, 20, 30] {
        save(&checkpoints, step).await.unwrap();
    }
    let newest = checkpoints.newest_verified().await.unwrap().0.unwrap();
    store.put(&newest.parts[0].object, contents("WEIGHTS", 30)).await.unwrap();
    checkpoints.judge(&newest, false);
    assert_eq!(checkpoints.collect(Retention::last(2)).await.unwrap(), Vec::<String>::new());
    assert_eq!(steps(checkpoints.list().await.unwrap()), [30, 20, 10]);
}

/// Whatever is left of a checkpoint that was being removed, or has rotted, must not stay in place of a good one for its figure.
#[tokio::test]
async fn the_best_are_whole() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    let half_removed = save_judged(&checkpoints, 10, 0.1, BestBy::Loss).await;
    store.delete(&half_removed).await.unwrap();
    for (step, figure) in [(20, 0.2), (30, 0.3), (40, 0.4), (50, 0.5)] {
        save_judged(&checkpoints, step, figure, BestBy::Loss).await;
    }
    checkpoints.collect(Retention { best: 1, ..Retention::last(2) }).await.unwrap();
    assert_eq!(steps(checkpoints.list().await.unwrap()), [50, 40, 20]);
}

/// Of what finds objects, more is better; a loss is no such figure, whatever it is; and who asks by something else is answered anew.
#[tokio::test]
async fn the_best_are_those_by_what_is_asked_for() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    let by_objects = [(20, 0.7), (30, 0.1), (40, 0.5), (60, 0.3)].map(|(step, figure)| (step, figure, BestBy::FgAri));
    let by_loss = [(10, 9.0), (50, 0.2), (70, 0.4), (80, 0.5)].map(|(step, figure)| (step, figure, BestBy::Loss));
    for (step, figure, by) in by_objects.into_iter().chain(by_loss) {
        save_judged(&checkpoints, step, figure, by).await;
    }
    let keep = |best, by| Retention { best, by, ..Retention::last(2) };
    let inspector = Inspector::new(store);
    let goes = |by| inspector.expendable(keep(1, by), |_| {});
    let step = |sightings: Vec<Sighting>| sightings.iter().map(|sighting| sighting.step).collect::<Vec<_>>();
    assert_eq!(step(goes(BestBy::FgAri).await.unwrap()), [60, 50, 40, 30, 10]);
    assert_eq!(step(goes(BestBy::Loss).await.unwrap()), [60, 40, 30, 20, 10]);
    checkpoints.collect(keep(3, BestBy::FgAri)).await.unwrap();
    assert_eq!(steps(checkpoints.list().await.unwrap()), [80, 70, 60, 40, 20]);
    checkpoints.collect(keep(1, BestBy::Loss)).await.unwrap();
    assert_eq!(steps(checkpoints.list().await.unwrap()), [80, 70], "70 is the best of two by its loss");
}

#[tokio::test]
async fn a_writer_that_has_failed_is_not_waited_for() {
    let store = Store::open("memory://").unwrap();
    let checkpoints = CheckpointStore::new(store.clone());
    let attempt = checkpoints.join(5, 1, 7, None);
    let part = attempt.write_part("part-0", contents("part", 0)).await.unwrap();
    attempt.write_share(0, vec![part]).await.unwrap();
    let other = checkpoints.join(5, 1, 7, None);
    other.write_part("part-1", contents("part", 1)).await.unwrap();
    other.withdraw(["part-1", "part-2"].into_iter()).await.unwrap();
    other.write_failure(1, "no space is left".into()).await.unwrap();
    let error = attempt.gather(2, |_| false).await.unwrap_err().to_string();
    assert!(error.contains("writer 1") && error.contains("no space is left"), "{error}");
    attempt.abandon(1).await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

/// After going back, a step is saved once more by the same generation.
#[tokio::test]
async fn a_step_can_be_saved_again() {
    let (folder, store) = local();
    let checkpoints = CheckpointStore::new(store.clone());
    for step in [10, 20, 20, 20] {
        save(&checkpoints, step).await.unwrap();
    }
    assert_eq!(newest(&checkpoints).await, Some(20));
    checkpoints.collect(Retention::last(2)).await.unwrap();
    assert_eq!(steps(checkpoints.list().await.unwrap()), [20, 20]);
    // And what a crash has left of the hint goes too.
    for torn in ["LATEST#1", "LATEST#12", "OWNER#1"] {
        std::fs::write(folder.path().join("checkpoints").join(torn), "torn").unwrap();
    }
    checkpoints.collect(Retention::last(2)).await.unwrap();
    assert_eq!(store.unfinished(""), Vec::<String>::new());
    assert!(store.get("LATEST").await.unwrap().starts_with(b"0000000020/"));
}

/// Times of files say nothing: clocks are hours apart, and copies are younger than originals.
#[tokio::test]
async fn no_clock_decides_anything() {
    let (_folder, store) = local();
    let checkpoints = CheckpointStore::new(store.clone());
    for step in [10, 20, 30, 40] {
        save(&checkpoints, step).await.unwrap();
    }
    let root = store.local_path().unwrap();
    for (index, entry) in store.list("").await.unwrap().into_iter().enumerate() {
        // The older the step, the younger the file, from hours in the past to hours in the future.
        let time = SystemTime::now() + Duration::from_secs(4 * 3600) - Duration::from_secs(3600 * index as u64);
        File::options().write(true).open(root.join(&entry.name)).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }
    let resumed = CheckpointStore::new(store);
    assert_eq!(newest(&resumed).await, Some(40));
    resumed.collect(Retention::last(2)).await.unwrap();
    assert_eq!(steps(resumed.list().await.unwrap()), [40, 30]);
}

/// One place has missed a checkpoint, as when a run ends between the two.
#[tokio::test]
async fn a_place_that_lags_behind_is_brought_up_to_date() {
    let (_folder, store) = local();
    let (first, second) = (CheckpointStore::new(store), CheckpointStore::new(Store::open("memory://").unwrap()));
    save(&first, 10).await.unwrap();
    save(&second, 10).await.unwrap();
    assert_eq!(first.bring_up_to_date(&second).await.unwrap(), None);
    save(&first, 20).await.unwrap();
    assert_eq!(second.bring_up_to_date(&first).await.unwrap(), None);
    assert_eq!(first.bring_up_to_date(&second).await.unwrap(), Some(20));
    assert_eq!(newest(&second).await, Some(20));
}

#[tokio::test]
async fn a_part_that_has_grown_is_not_read() {
    let (faults, store) = Faults::store();
    let checkpoints = CheckpointStore::new(store.clone());
    save(&checkpoints, 1).await.unwrap();
    let part = checkpoints.newest_verified().await.unwrap().0.unwrap().parts.remove(0);
    store.put(&part.object, Bytes::from(vec![0; 1 << 20])).await.unwrap();
    let before = faults.reads.load(SeqCst);
    assert!(checkpoints.read_part(&part).await.unwrap_err().is_damage());
    assert_eq!(faults.reads.load(SeqCst), before);
}
