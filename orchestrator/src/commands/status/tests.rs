//! The rows about workers, few and many.

use super::text::deadline;
use super::workers::rows;
use crate::observe::Forecast;
use crate::observe::testing::status;
use crate::supervisor::State;

fn text(status: &crate::coordinator::Status) -> String {
    rows(status).into_iter().map(|(name, text)| format!("{name}|{text}\n")).collect()
}

#[test]
fn a_few_workers_are_shown_one_by_one() {
    let mut few = status(State::Running, 3);
    few.workers[1].connected = false;
    few.workers[2].straggler = true;
    few.workers[2].phase_seconds = 31.0;
    few.workers.remove(0);
    assert_eq!(
        text(&few),
        "workers|1 of 3 connected, on 1 host; not heard of: rank 0\n\
         |rank 1   cuda:1 on n000, at 1200, connection closed; 80 % computing, 14 % collective, 5.0 % data, 1.0 % checkpoint\n\
         |rank 2   cuda:2 on n000, at 1200, computing for 31 s; 80 % computing, 14 % collective, 5.0 % data, 1.0 % checkpoint; KEEPS \
         THE OTHERS WAITING\n"
    );
}

#[test]
fn of_many_only_those_that_stand_out_are_named() {
    let mut many = status(State::Running, 4096);
    for rank in [7, 99, 100, 101, 102, 103] {
        many.workers[rank].connected = false;
    }
    many.workers[13].straggler = true;
    many.workers[13].compute_per_step = Some(0.25);
    many.workers[13].step = 1198;
    let text = text(&many);
    assert!(text.lines().count() <= 6, "{text}");
    for words in [
        "4090 of 4096 connected, on 512 hosts",
        "at 1198 to 1200, 4090 computing",
        "connection closed: rank 7 on n000, rank 99 on n012, rank 100 on n012, rank 101 on n012 and 2 more",
        "KEEP THE OTHERS WAITING: rank 13 on n001\n",
        "slowest to compute a step: rank 13 on n001 250 ms",
        "median 125 ms",
    ] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn the_deadline_is_told_in_allocations() {
    let forecast = |eta_seconds, allocations| Forecast { eta_seconds, deadline_seconds: Some(3600.0), allocations };
    assert_eq!(deadline(forecast(600.0, Some(0))).as_deref(), Some("done 50m before the allocation ends"));
    let more = deadline(forecast(9000.0, Some(2)));
    assert_eq!(more.as_deref(), Some("the allocation ends 1h 30m too early: needs about 2 more allocations"));
}
