//! Stories whose books are known, and random ones whose books must add up.

use std::time::Duration;

use common::control::{Setback, SetbackKind};
use common::journal::{Entry, Event};
use proptest::prelude::*;

use super::testing::{START, at, failed, launched, record, started};
use super::{Book, Ledger, Present, Record, Time};

fn present(now: f64, seen: f64) -> Present {
    let time = |seconds| Duration::from_secs(START) + Duration::from_secs_f64(seconds);
    Present { now: time(now), seen: time(seen) }
}

/// Whole seconds in the books that hold any.
fn books(entries: &[Entry], records: &[Record], present: Present) -> Vec<(Book, u64)> {
    let ledger = Ledger::keep(entries, records, present).unwrap();
    assert_eq!(ledger.books.total(), ledger.elapsed());
    let rounded = Book::ALL.map(|book| (book, ledger.books.get(book).as_secs_f64().round() as u64));
    rounded.into_iter().filter(|(_, seconds)| *seconds > 0).collect()
}

fn submitted() -> Event {
    Event::Submitted { slurm_job: "7".into() }
}

fn first(step: u64) -> Event {
    Event::FirstStep { step }
}

#[test]
fn a_run_without_incidents() {
    let mut entries = vec![at(0.0, 0, submitted()), at(100.0, 1, launched(Some("7"))), at(101.0, 1, started())];
    assert_eq!(books(&entries[..1], &[], present(60.0, 0.0)), [(Book::Queue, 60)]);
    entries.extend([at(110.0, 1, Event::Running), at(120.0, 1, first(1))]);
    let shares = |record: Record| Record { data_stall: Some(0.1), collective: Some(0.2), checkpoint: Some(0.05), ..record };
    let records = [shares(record(140.0, 1, 11, 21.0)), shares(record(160.0, 1, 21, 20.0))];
    let expected = [
        (Book::Useful, 26),
        (Book::DataStall, 4),
        (Book::Waiting, 8),
        (Book::Checkpoint, 2),
        (Book::Start, 20),
        (Book::Queue, 100),
    ];
    assert_eq!(books(&entries, &records, present(160.0, 160.0)), expected);
    assert_eq!(books(&entries, &records, present(200.0, 170.0))[0], (Book::Useful, 36), "it was last seen 10 s after the record");
    entries.extend([at(165.0, 1, Event::GenerationEnded), at(165.0, 1, Event::Finished)]);
    let over = books(&entries, &records, present(9999.0, 9999.0));
    assert!(over.contains(&(Book::Checkpoint, 7)) && over.contains(&(Book::Useful, 26)), "the last save: {over:?}");
}

#[test]
fn a_failure_costs_what_went_unnoticed_the_restart_and_the_steps_done_again() {
    let mut entries = vec![at(0.0, 1, launched(None)), at(0.0, 1, started()), at(10.0, 1, first(1))];
    let mut records = vec![record(20.0, 1, 11, 10.0), record(30.0, 1, 21, 10.0)];
    entries.extend([at(24.0, 1, Event::CheckpointCommitted { step: 15, seconds: 1.0 }), at(38.0, 1, failed(25))]);
    entries.extend([at(39.0, 1, Event::GenerationEnded), at(40.0, 2, started()), at(50.0, 2, first(16))]);
    // A word of the dead that arrives late changes nothing.
    records.push(record(38.5, 1, 25, 8.0));
    records.push(record(60.0, 2, 26, 10.0));
    let expected = [(Book::Useful, 25), (Book::Redone, 9), (Book::Restart, 16), (Book::Start, 10)];
    assert_eq!(books(&entries, &records, present(60.0, 60.0)), expected);
    let ledger = Ledger::keep(&entries, &records, present(60.0, 60.0)).unwrap();
    assert_eq!((ledger.failures, ledger.checkpoints, ledger.pace), (1, 1, Some(1.0)));
}

#[test]
fn steps_after_a_way_back_to_a_checkpoint_are_done_again() {
    let back = Event::Setback(Setback { step: 26, kind: SetbackKind::BackTo(16) });
    let entries = [at(0.0, 1, launched(None)), at(0.0, 1, started()), at(10.0, 1, first(1)), at(35.0, 1, back)];
    let records = [record(20.0, 1, 11, 10.0), record(30.0, 1, 21, 10.0), record(50.0, 1, 31, 15.0)];
    // 25 steps in as many seconds; then 15 in 15, of which 9 had been done.
    let expected = [(Book::Useful, 31), (Book::Redone, 9), (Book::Start, 10)];
    assert_eq!(books(&entries, &records, present(50.0, 50.0)), expected);
}

#[test]
fn between_two_launches_nobody_is_in_charge_unless_slurm_is() {
    let run = |job: Option<&str>, from: f64, generation| {
        vec![at(from, generation, launched(job)), at(from, generation, started()), at(from + 1.0, generation, first(1))]
    };
    let again = |job: Option<&str>, between: Vec<Entry>| {
        let entries = [run(job, 0.0, 1), between, run(job, 50.0, 2)].concat();
        books(&entries, &[record(11.0, 1, 10, 10.0)], present(51.0, 51.0))
    };
    let ended = at(11.0, 1, Event::Ended { exit_code: 130 });
    assert_eq!(again(None, vec![ended.clone()]), [(Book::Useful, 10), (Book::Start, 2), (Book::Stopped, 39)]);
    assert_eq!(again(None, Vec::new()), [(Book::Useful, 10), (Book::Start, 2), (Book::Stopped, 39)], "it vanished");
    assert_eq!(again(Some("7"), Vec::new()), [(Book::Useful, 10), (Book::Start, 2), (Book::Queue, 39)], "its host was lost");
    let requeued = at(11.0, 1, Event::Requeued { slurm_job: "7".into() });
    assert_eq!(again(None, vec![requeued, ended.clone()]), [(Book::Useful, 10), (Book::Start, 2), (Book::Queue, 39)]);
    let resubmitted = at(31.0, 1, submitted());
    let both = [(Book::Useful, 10), (Book::Start, 2), (Book::Queue, 19), (Book::Stopped, 20)];
    assert_eq!(again(None, vec![ended, resubmitted]), both);
}

#[test]
fn journals_and_metrics_from_before_the_cluster() {
    let started_once = Event::GenerationStarted { world: 0, hosts: Vec::new() };
    let mut entries = vec![at(0.0, 1, launched(None)), at(0.0, 1, started_once), at(2.0, 1, Event::Running)];
    let old = |seconds, step| Record { seconds: None, data_stall: Some(0.5), ..record(seconds, 1, step, 0.0) };
    let records = [old(10.0, 10), old(20.0, 20)];
    assert_eq!(books(&entries, &records, present(20.0, 20.0)), [(Book::Useful, 9), (Book::DataStall, 9), (Book::Start, 2)]);
    entries.extend([at(30.0, 1, Event::GenerationEnded), at(30.0, 1, Event::Finished)]);
    assert_eq!(books(&entries, &[], present(30.0, 30.0)), [(Book::Useful, 28), (Book::Start, 2)], "a job that writes no records");
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(submitted()),
        Just(launched(None)),
        Just(launched(Some("7"))),
        Just(started()),
        Just(Event::Running),
        (0_u64..50).prop_map(first),
        (0_u64..50).prop_map(|step| Event::CheckpointCommitted { step, seconds: 1.0 }),
        (0_u64..50, 0_u64..50).prop_map(|(step, saved)| Event::Setback(Setback { step, kind: SetbackKind::BackTo(saved) })),
        (0_u64..50).prop_map(failed),
        Just(Event::StopRequested),
        Just(Event::Requeued { slurm_job: "7".into() }),
        Just(Event::GenerationEnded),
        Just(Event::Finished),
        Just(Event::Ended { exit_code: 3 }),
    ]
}

fn any_figure() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        Just(None),
        Just(Some(f64::NAN)),
        Just(Some(f64::INFINITY)),
        (-1.0..3.0_f64).prop_map(Some),
        (0.0..1.0_f64).prop_map(Some)
    ]
}

prop_compose! {
    fn any_record()(
        time in 0.0..100.0_f64,
        (generation, step) in (0_u64..4, 0_u64..50),
        (seconds, shares) in (any_figure(), [any_figure(), any_figure(), any_figure()]),
    ) -> Record {
        let [data_stall, collective, checkpoint] = shares;
        let time = START as f64 + time;
        let seconds = seconds.map(|seconds| seconds * 10.0);
        Record { step, generation, time, seconds, data_stall, collective, checkpoint, ..Record::default() }
    }
}

/// Mostly in the order of time, as files are, but not always.
fn any_story() -> impl Strategy<Value = (Vec<Entry>, Vec<Record>)> {
    let entries = prop::collection::vec((0.0..100.0_f64, 0_u64..4, any_event()), 0..40);
    (entries, prop::collection::vec(any_record(), 0..40), any::<bool>()).prop_map(|(mut entries, mut records, sorted)| {
        if sorted {
            entries.sort_by(|a, b| a.0.total_cmp(&b.0));
            records.sort_by(|a, b| a.time.total_cmp(&b.time));
        }
        (entries.into_iter().map(|(seconds, generation, event)| at(seconds, generation, event)).collect(), records)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_books_add_up_and_later_looks_only_add(story in any_story(), now in 0.0..200.0_f64, seen in 0.0..200.0_f64) {
        let (entries, records) = story;
        let Some(ledger) = Ledger::keep(&entries, &records, present(now, seen)) else {
            let begun = entries.iter().any(|entry| matches!(entry.event, Event::Submitted { .. } | Event::Launched { .. }));
            prop_assert!(!begun);
            return Ok(());
        };
        prop_assert_eq!(ledger.books.total(), ledger.elapsed());
        let newest: Time = Duration::from_secs(START + 200);
        prop_assert!(ledger.until <= newest && ledger.from <= ledger.until);
        let later = Ledger::keep(&entries, &records, present(now + 9.0, seen + 9.0)).unwrap();
        for book in Book::ALL {
            prop_assert!(later.books.get(book) >= ledger.books.get(book));
        }
    }
}
