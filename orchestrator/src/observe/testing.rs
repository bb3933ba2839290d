//! A status for tests, made as its file is.

use serde_json::{Value, json};

use crate::coordinator::Status;
use crate::supervisor::{Findings, State};

/// Two devices of which each does so many TFLOP/s; the second one stands out.
pub(crate) fn findings(tflops: f64) -> Findings {
    let rate = |rank: usize| json!({"rank": rank, "host": "n000", "tflops": tflops});
    let outliers = json!([{"rank": 1, "host": "n000", "problem": "it is slow"}]);
    serde_json::from_value(json!({
        "device": "NVIDIA H200", "workers": 2, "slowest": rate(1), "fastest": rate(0), "total_tflops": 2.0 * tflops,
        "all_reduce_gbps": 300.0, "outliers": outliers, "more_outliers": 3,
    }))
    .unwrap()
}

/// A job of that many workers, eight to a host.
pub(crate) fn status(state: State, workers: usize) -> Status {
    serde_json::from_value(status_json(&json!(state), workers)).unwrap()
}

fn status_json(state: &Value, workers: usize) -> Value {
    let worker = |rank: usize| {
        json!({
            "rank": rank, "host": format!("n{:03}", rank / 8), "pid": 1000 + rank, "device": format!("cuda:{}", rank % 8),
            "step": 1200, "connected": true, "phase": "compute", "phase_seconds": 0.2,
            "recent": {"starting": 0.0, "data": 1.5, "compute": 24.0, "collective": 4.2, "checkpoint": 0.3},
            "compute_per_step": 0.125, "straggler": false,
        })
    };
    json!({
        "job": "train", "state": state, "updated": "2026-09-21T13:46:40.000Z", "started": "2026-09-21T12:46:40.000Z",
        "slurm_job": "4711", "deadline": "2026-09-21T16:46:40.000Z", "coordinator_pid": 77, "coordinator_host": "n000",
        "generation": 2, "world": workers, "lost_hosts": [], "workers": (0..workers).map(worker).collect::<Vec<_>>(),
        "progress": {"done": 1200, "total": 100_000, "unit": "steps", "rate": 6.5,
                     "fields": {"loss": 0.4125, "data_stall": 0.05, "images_per_second": 208.0}},
        "checkpoint": 1000, "checkpoint_committed": "2026-09-21T13:46:10.000Z", "checkpoint_seconds": 3.1,
        "restarts": 0, "failure": null, "exit_code": null,
    })
}
