//! The text exposition format, version 0.0.4: a status as gauges.

use std::fmt::{Display, Write};

use crate::coordinator::{Status, WorkerStatus};
use crate::story::time;
use crate::supervisor::State;

/// All states, of which one is 1.
const STATES: [State; 8] = [
    State::Starting,
    State::Running,
    State::Waiting,
    State::Stopping,
    State::Ending,
    State::Finished,
    State::Stopped,
    State::Failed,
];

/// A status as a page for Prometheus.
pub(crate) fn render(status: &Status) -> String {
    let mut page = Page::default();
    launch(&mut page, status);
    work(&mut page, status);
    workers(&mut page, &status.workers);
    page.0
}

fn launch(page: &mut Page, status: &Status) {
    let slurm_job = status.slurm_job.as_deref().unwrap_or_default();
    let info: [(&str, &dyn Display); 3] =
        [("job", &status.job), ("slurm_job", &slurm_job), ("coordinator_host", &status.coordinator_host)];
    page.gauge("lsd_info", "What is being done, and where.", [(labels(&info), 1.0)]);
    let state =
        |state: State| (labels(&[("state", &format!("{state:?}").to_lowercase())]), f64::from(u8::from(state == status.state)));
    page.gauge("lsd_state", "Where the launch stands: the state that is 1.", STATES.map(state));
    let connected = status.workers.iter().filter(|worker| worker.connected).count();
    page.count("lsd_generation", "Number of the generation.", status.generation);
    page.count("lsd_world_size", "Workers that the generation has.", status.world as u64);
    page.count("lsd_workers_connected", "Workers that are connected.", connected as u64);
    page.count("lsd_lost_hosts", "Hosts that the generation does without.", status.lost_hosts.len() as u64);
    page.count("lsd_steps_skipped", "Steps skipped for gradients that were no numbers.", status.setbacks.skipped);
    page.count("lsd_ways_back", "Ways back to a checkpoint for gradients that were no numbers.", status.setbacks.back);
    page.count("lsd_checkpoints_failed", "Checkpoints that were not saved while training went on.", status.failed_saves);
    page.count("lsd_restarts", "Restarts since the newest checkpoint.", status.restarts as u64);
    page.time("lsd_updated_timestamp_seconds", "When these figures were taken.", Some(&status.updated));
    page.time("lsd_started_timestamp_seconds", "When the launch began.", Some(&status.started));
    page.time("lsd_deadline_timestamp_seconds", "When the allocation ends.", status.deadline.as_deref());
}

fn work(page: &mut Page, status: &Status) {
    if let Some(progress) = &status.progress {
        page.count("lsd_steps_done", "Units of work done.", progress.done);
        page.count("lsd_steps_total", "Units of work in all.", progress.total);
        page.one("lsd_steps_per_second", "Units of work per second over the recent past.", Some(progress.rate));
        let figures = progress.fields.iter().map(|(name, value)| (labels(&[("name", name)]), *value));
        page.one("lsd_model_flops_utilisation", "Share of the measured rate of matrix products (MFU).", status.utilisation);
        page.gauge("lsd_figure", "Figures of the newest record, as the loss.", figures);
    }
    if let Some(evaluation) = &status.evaluation {
        let figures = evaluation.figures.iter().map(|(name, value)| (labels(&[("name", name)]), *value));
        page.gauge("lsd_evaluation", "Figures of the newest evaluation on held-out images, as fg_ari.", figures);
        page.count("lsd_evaluation_step", "Steps done before it.", evaluation.step);
    }
    page.one("lsd_checkpoint_step", "Steps in the newest checkpoint.", status.checkpoint.map(|step| step as f64));
    page.time("lsd_checkpoint_timestamp_seconds", "When it was committed.", status.checkpoint_committed.as_deref());
    page.one("lsd_checkpoint_seconds", "Longest time from the wish to save to the commit.", status.checkpoint_seconds);
}

fn workers(page: &mut Page, workers: &[WorkerStatus]) {
    let who: Vec<String> = workers.iter().map(|worker| labels(&[("rank", &worker.rank), ("host", &worker.host)])).collect();
    let mut each = |name: &str, help: &str, value: &dyn Fn(&WorkerStatus) -> Option<f64>| {
        let samples = who.iter().zip(workers).filter_map(|(who, worker)| Some((who.clone(), value(worker)?)));
        page.gauge(name, help, samples);
    };
    let truth = |truth: bool| Some(f64::from(u8::from(truth)));
    each("lsd_worker_connected", "Whether the worker is connected.", &|worker| truth(worker.connected));
    each("lsd_worker_straggler", "Whether it keeps the others waiting.", &|worker| truth(worker.straggler));
    each("lsd_worker_steps_done", "Units of work that it has done.", &|worker| Some(worker.step as f64));
    each("lsd_worker_compute_seconds_per_step", "Its computing time per step.", &|worker| worker.compute_per_step);
    each("lsd_worker_matmul_tflops", "Rate of its matrix products before the first step.", &|worker| worker.matmul_tflops);
    each("lsd_worker_phase_seconds", "For how long it has been doing what it does.", &|worker| Some(worker.phase_seconds));
    let shares = workers.iter().flat_map(|worker| {
        let spent = &worker.recent;
        let phases = [
            ("starting", spent.starting),
            ("data", spent.data),
            ("compute", spent.compute),
            ("collective", spent.collective),
            ("checkpoint", spent.checkpoint),
            ("evaluate", spent.evaluate),
        ];
        let total: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
        let share = move |(phase, seconds): (&str, f64)| {
            (labels(&[("rank", &worker.rank), ("host", &worker.host), ("phase", &phase)]), seconds / total)
        };
        phases.into_iter().filter(move |_| total > 0.0).map(share)
    });
    page.gauge("lsd_worker_time_share", "Share of its recent time in each phase.", shares);
}

/// Labels with their braces; values may be any text.
fn labels(pairs: &[(&str, &dyn Display)]) -> String {
    let escaped = |value: &dyn Display| value.to_string().replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(*value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[derive(Default)]
struct Page(String);

impl Page {
    /// A family of gauges, left out when it has no samples.
    fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
        for (index, (labels, value)) in samples.into_iter().enumerate() {
            if index == 0 {
                let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge\n");
            }
            let _ = match value {
                f64::INFINITY => writeln!(self.0, "{name}{labels} +Inf"),
                f64::NEG_INFINITY => writeln!(self.0, "{name}{labels} -Inf"),
                // A number that is none is written as NaN here and there alike.
                value => writeln!(self.0, "{name}{labels} {value}"),
            };
        }
    }

    fn one(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.gauge(name, help, value.map(|value| (String::new(), value)));
    }

    fn count(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, help, Some(value as f64));
    }

    fn time(&mut self, name: &str, help: &str, text: Option<&str>) {
        self.one(name, help, text.and_then(time).map(|time| time.as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::status;
    use std::collections::BTreeSet;

    #[test]
    fn the_page_follows_the_format() {
        let mut status = status(State::Running, 2);
        status.coordinator_host = "a\"b\\c\nd".into();
        if let Some(progress) = &mut status.progress {
            progress.fields.insert("loss".into(), f64::NAN);
            progress.rate = f64::INFINITY;
        }
        status.workers[1].compute_per_step = None;
        status.workers[1].matmul_tflops = Some(741.5);
        status.utilisation = Some(0.43);
        status.setbacks.skipped = 5;
        let page = render(&status);
        for line in [
            r#"lsd_info{job="train",slurm_job="4711",coordinator_host="a\"b\\c\nd"} 1"#,
            r#"lsd_state{state="running"} 1"#,
            r#"lsd_state{state="failed"} 0"#,
            r#"lsd_figure{name="loss"} NaN"#,
            "lsd_steps_per_second +Inf",
            "lsd_checkpoint_step 1000",
            "lsd_model_flops_utilisation 0.43",
            "lsd_steps_skipped 5",
            "lsd_ways_back 0",
            r#"lsd_worker_matmul_tflops{rank="1",host="n000"} 741.5"#,
            "lsd_updated_timestamp_seconds 1789998400",
            r#"lsd_worker_time_share{rank="1",host="n000",phase="compute"} 0.8"#,
            r#"lsd_worker_compute_seconds_per_step{rank="0",host="n000"} 0.125"#,
        ] {
            assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
        }
        assert!(!page.contains(r#"compute_seconds_per_step{rank="1""#) && !page.contains(r#"matmul_tflops{rank="0""#));
        let mut families = BTreeSet::new();
        for line in page.lines() {
            let mut words = line.split([' ', '{']);
            match (words.next(), words.next()) {
                (Some("#"), Some("HELP")) => assert!(families.insert(words.next().unwrap().to_owned()), "twice: {line}"),
                (Some("#"), _) => {}
                (name, _) => assert!(families.contains(name.unwrap()), "no HELP before {line}"),
            }
        }
        assert!(page.ends_with('\n') && !page.contains("\n\n"));
    }
}
