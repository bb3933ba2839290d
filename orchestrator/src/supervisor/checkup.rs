//! What the checkups of a generation's workers say together: one kind of device or several, and who lags behind the others before a
//! single step was made. A pure function.

use std::collections::{BTreeMap, BTreeSet};

use common::control::Checkup;
use serde::{Deserialize, Serialize};

use crate::commands::words::{counted, names, ranges};

/// Less than this share of the others' median stands out.
const LEAST: f64 = 0.8;
/// Outliers that are named.
const NAMED: usize = 16;
/// Hosts that are named for each kind of device.
const HOSTS: usize = 4;

/// One worker's checkup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked<'a> {
    /// Its rank.
    pub(crate) rank: usize,
    /// Its host.
    pub(crate) host: &'a str,
    /// What it has measured.
    pub(crate) checkup: &'a Checkup,
}

/// What all checkups say together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// The device of all workers.
    pub(crate) device: String,
    /// How many they are.
    pub(crate) workers: usize,
    /// The slowest matrix product.
    pub(crate) slowest: Rate,
    /// The fastest one.
    pub(crate) fastest: Rate,
    /// All of them together, in TFLOP/s.
    pub(crate) total_tflops: f64,
    /// The slowest rank's all-reduce, in GB/s.
    pub(crate) all_reduce_gbps: Option<f64>,
    /// Ranks and hosts that stand out, at most some of them.
    pub(crate) outliers: Vec<Outlier>,
    /// How many others do.
    pub(crate) more_outliers: usize,
}

/// The rate of one worker's matrix product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rate {
    /// The worker.
    pub(crate) rank: usize,
    /// Its host.
    pub(crate) host: String,
    /// The rate in TFLOP/s.
    pub(crate) tflops: f64,
}

/// A worker that stands out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outlier {
    /// Its rank; of a host with another driver the first one.
    pub(crate) rank: usize,
    /// Its host.
    pub(crate) host: String,
    /// In what, in words.
    pub(crate) problem: String,
}

impl Findings {
    /// `8 x NVIDIA H200, matmul 581 (rank 3 on n1) to 752 TFLOP/s, all-reduce 310 GB/s; one stands out`.
    pub(crate) fn sentence(&self) -> String {
        let Self { device, workers, slowest, fastest, .. } = self;
        let (least, most) = (figure(slowest.tflops), figure(fastest.tflops));
        let rates = match least == most {
            true => format!("{most} TFLOP/s"),
            false => format!("{least} (rank {} on {}) to {most} TFLOP/s", slowest.rank, slowest.host),
        };
        let all_reduce = self.all_reduce_gbps.map_or_else(String::new, |rate| format!(", all-reduce {} GB/s", figure(rate)));
        let outliers = match self.outliers.len() + self.more_outliers {
            0 => String::new(),
            1 => "; one stands out".into(),
            more => format!("; {more} stand out"),
        };
        format!("{workers} x {device}, matmul {rates}{all_reduce}{outliers}")
    }
}

impl Outlier {
    /// `rank 3 on n1: matrix products at 639 TFLOP/s, ...`.
    pub(crate) fn sentence(&self) -> String {
        format!("rank {} on {}: {}", self.rank, self.host, self.problem)
    }
}

/// Judges the checkups of all workers of a generation, in the order of their ranks.
///
/// # Errors
/// Several kinds of devices: one line that names them with their ranks and hosts.
pub(crate) fn judge(all: &[Checked<'_>]) -> Result<Option<Findings>, String> {
    one_kind(all)?;
    let rate = |checked: &Checked<'_>| checked.checkup.matmul_tflops;
    let by_rate = |a: &&Checked<'_>, b: &&Checked<'_>| rate(a).total_cmp(&rate(b));
    let (Some(slowest), Some(fastest)) = (all.iter().min_by(by_rate), all.iter().max_by(by_rate)) else { return Ok(None) };
    let named = |checked: &Checked<'_>| Rate { rank: checked.rank, host: checked.host.into(), tflops: rate(checked) };
    let mut outliers: Vec<Outlier> = [slow(all), crowded(all), other_driver(all)].concat();
    outliers.sort_by_key(|outlier| outlier.rank);
    let more_outliers = outliers.len().saturating_sub(NAMED);
    outliers.truncate(NAMED);
    Ok(Some(Findings {
        device: slowest.checkup.device.clone(),
        workers: all.len(),
        slowest: named(slowest),
        fastest: named(fastest),
        total_tflops: all.iter().map(rate).sum(),
        all_reduce_gbps: all.iter().filter_map(|checked| checked.checkup.all_reduce_gbps).min_by(f64::total_cmp),
        outliers,
        more_outliers,
    }))
}

/// A step takes as long as its slowest worker, and kinds of GPUs differ in how they round.
fn one_kind(all: &[Checked<'_>]) -> Result<(), String> {
    let mut kinds: BTreeMap<&str, Vec<&Checked<'_>>> = BTreeMap::new();
    all.iter().for_each(|checked| kinds.entry(&checked.checkup.device).or_default().push(checked));
    if kinds.len() < 2 {
        return Ok(());
    }
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|(device, workers)| {
            let hosts: BTreeSet<&str> = workers.iter().map(|checked| checked.host).collect();
            let hosts = names(&hosts.into_iter().collect::<Vec<_>>(), HOSTS);
            format!("{device} is on {} ({})", of_ranks(workers.iter().map(|checked| checked.rank)), hosts)
        })
        .collect();
    Err(format!(
        "mixed devices: {}; a run needs one kind: choose hosts by cluster.slurm.constraint, cluster.slurm.exclude or --hosts",
        kinds.join(", ")
    ))
}

fn of_ranks(numbers: impl ExactSizeIterator<Item = usize>) -> String {
    let noun = if numbers.len() == 1 { "rank" } else { "ranks" };
    format!("{noun} {}", ranges(numbers))
}

fn slow(all: &[Checked<'_>]) -> Vec<Outlier> {
    let problem = |own, median| {
        format!(
            "matrix products at {} TFLOP/s, the others' median is {}: is the device throttled, or shared?",
            figure(own),
            figure(median)
        )
    };
    below(all, |checkup| checkup.matmul_tflops, problem)
}

fn crowded(all: &[Checked<'_>]) -> Vec<Outlier> {
    let gib = |bytes: f64| figure(bytes / f64::from(1_u32 << 30));
    let problem = |own, median| {
        format!("{} GiB of memory are free, the others' median is {}: is another process there?", gib(own), gib(median))
    };
    below(all, |checkup| checkup.memory_free as f64, problem)
}

/// Workers whose figure is much less than the median of the others.
fn below(all: &[Checked<'_>], figure: impl Fn(&Checkup) -> f64, problem: impl Fn(f64, f64) -> String) -> Vec<Outlier> {
    let mut sorted: Vec<f64> = all.iter().map(|checked| figure(checked.checkup)).collect();
    sorted.sort_by(f64::total_cmp);
    let outlier = |checked: &Checked<'_>| {
        let own = figure(checked.checkup);
        let median = median_without(&sorted, own)?;
        (own < LEAST * median).then(|| Outlier { rank: checked.rank, host: checked.host.into(), problem: problem(own, median) })
    };
    all.iter().filter_map(outlier).collect()
}

/// The median of sorted values without one of them; none if there are no others.
fn median_without(sorted: &[f64], own: f64) -> Option<f64> {
    let place = sorted.partition_point(|value| value.total_cmp(&own).is_lt());
    let others = sorted.len().checked_sub(1).filter(|others| *others > 0)?;
    let at = |index: usize| sorted[if index < place { index } else { index + 1 }];
    Some(if others % 2 == 1 { at(others / 2) } else { f64::midpoint(at(others / 2 - 1), at(others / 2)) })
}

/// One for each host with a driver that is not the one of most workers.
fn other_driver(all: &[Checked<'_>]) -> Vec<Outlier> {
    let mut drivers: BTreeMap<&str, usize> = BTreeMap::new();
    all.iter().filter_map(|checked| checked.checkup.driver.as_deref()).for_each(|driver| *drivers.entry(driver).or_default() += 1);
    let Some((usual, count)) = drivers.into_iter().max_by_key(|(_, count)| *count) else { return Vec::new() };
    let mut outliers: Vec<Outlier> = Vec::new();
    for Checked { rank, host, checkup } in all {
        let other = checkup.driver.as_deref().filter(|driver| *driver != usual);
        let told = outliers.iter().any(|outlier| outlier.host == *host);
        if let Some(driver) = other.filter(|_| !told) {
            let problem = format!("driver {driver} on this host, but {usual} under {}", counted(count, "worker"));
            outliers.push(Outlier { rank: *rank, host: (*host).into(), problem });
        }
    }
    outliers
}

/// Three digits say enough of a measurement.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkup(tflops: f64) -> Checkup {
        let (memory_total, memory_free) = (141 << 30, 140 << 30);
        let (device, driver) = ("NVIDIA H200".into(), Some("570.86".into()));
        Checkup { device, driver, memory_total, memory_free, matmul_tflops: tflops, all_reduce_gbps: Some(300.0 - tflops / 10.0) }
    }

    /// Two workers to a host.
    fn judged(checkups: &[Checkup]) -> Result<Option<Findings>, String> {
        let hosts: Vec<String> = (0..checkups.len()).map(|rank| format!("n{}", rank / 2)).collect();
        let all = checkups.iter().zip(&hosts).enumerate();
        judge(&all.map(|(rank, (checkup, host))| Checked { rank, host, checkup }).collect::<Vec<_>>())
    }

    fn problems(checkups: &[Checkup]) -> Vec<(usize, String)> {
        let findings = judged(checkups).unwrap().unwrap();
        findings.outliers.into_iter().map(|outlier| (outlier.rank, outlier.problem)).collect()
    }

    #[test]
    fn an_even_crew_is_told_in_one_line() {
        let findings = judged(&[740.0, 752.0, 738.5, 745.0].map(checkup)).unwrap().unwrap();
        assert_eq!(findings.outliers, []);
        assert!((findings.total_tflops - 2975.5).abs() < 1e-9);
        assert_eq!(findings.sentence(), "4 x NVIDIA H200, matmul 738 (rank 2 on n1) to 752 TFLOP/s, all-reduce 225 GB/s");
        let alone = judged(&[Checkup { all_reduce_gbps: None, ..checkup(1.234) }]).unwrap().unwrap();
        assert_eq!(alone.sentence(), "1 x NVIDIA H200, matmul 1.23 TFLOP/s");
        assert_eq!(judged(&[]), Ok(None));
    }

    #[test]
    fn who_is_a_fifth_behind_the_others_median_stands_out_and_nobody_else() {
        assert_eq!(problems(&[800.0, 640.0, 800.0].map(checkup)), [], "0.8 of the median is enough");
        let slow = problems(&[800.0, 639.0, 800.0].map(checkup));
        assert_eq!(slow[0].0, 1);
        assert!(slow[0].1.starts_with("matrix products at 639 TFLOP/s, the others' median is 800:"), "{slow:?}");
        // Of two the slow one; a slow half does not make itself the rule.
        assert_eq!(problems(&[300.0, 800.0].map(checkup)).len(), 1);
        assert_eq!(problems(&[300.0, 300.0, 800.0, 800.0, 800.0].map(checkup)).len(), 2);
        // One that has measured nothing does not spoil the others.
        assert_eq!(problems(&[0.0, 800.0, f64::NAN, 800.0].map(checkup)).iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [0]);

        let mut crew = [800.0; 4].map(checkup);
        crew[3].memory_free = 100 << 30;
        let crowded = problems(&crew);
        assert_eq!(crowded[0].0, 3);
        assert!(crowded[0].1.starts_with("100 GiB of memory are free, the others' median is 140:"), "{crowded:?}");
    }

    #[test]
    fn another_driver_is_told_once_for_a_host_and_many_outliers_are_counted() {
        let mut crew: Vec<Checkup> = vec![checkup(800.0); 6];
        (2..4).for_each(|rank| crew[rank].driver = Some("550.54".into()));
        assert_eq!(problems(&crew), [(2, "driver 550.54 on this host, but 570.86 under 4 workers".into())]);
        let mut crew: Vec<Checkup> = vec![checkup(800.0); 64];
        crew[..30].iter_mut().for_each(|checkup| checkup.matmul_tflops = 1.0);
        let findings = judged(&crew).unwrap().unwrap();
        assert_eq!((findings.outliers.len(), findings.more_outliers), (16, 14));
    }

    #[test]
    fn mixed_devices_are_named_with_their_ranks_and_hosts() {
        let mut crew: Vec<Checkup> = vec![checkup(800.0); 6];
        crew[4].device = "NVIDIA A100".into();
        let problem = judged(&crew).unwrap_err();
        assert!(
            problem.starts_with(
                "mixed devices: NVIDIA A100 is on rank 4 (n2), NVIDIA H200 is on ranks 0-3, 5 (n0, n1, n2); a run needs"
            ),
            "{problem}"
        );
    }
}
