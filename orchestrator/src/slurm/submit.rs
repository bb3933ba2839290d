//! Handing a run to Slurm: the options of sbatch that a configuration asks for, and the answer.

use common::config::{ClusterConfig, DeviceKind};

use super::tool::{SlurmError, line, run};

/// A job script with its options and arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submission {
    /// Options of sbatch.
    pub(crate) options: Vec<String>,
    /// The script.
    pub(crate) script: String,
    /// The script's arguments.
    pub(crate) arguments: Vec<String>,
}

impl Submission {
    /// The arguments of sbatch.
    pub(crate) fn command_line(&self) -> Vec<String> {
        [&self.options[..], std::slice::from_ref(&self.script), &self.arguments].concat()
    }
}

/// The options for the hosts, workers and wishes of a configuration.
pub(crate) fn sbatch_arguments(cluster: &ClusterConfig, name: &str, output: &str, threads: usize) -> Vec<String> {
    let slurm = &cluster.slurm;
    let mut options = vec![
        format!("--job-name={name}"),
        format!("--nodes={}", cluster.nodes),
        format!("--ntasks-per-node={}", cluster.workers_per_node),
        format!("--cpus-per-task={threads}"),
        format!("--output={output}"),
        "--open-mode=append".into(),
        "--no-kill".into(),
        if slurm.requeue { "--requeue" } else { "--no-requeue" }.into(),
    ];
    let named = [
        ("partition", &slurm.partition),
        ("account", &slurm.account),
        ("qos", &slurm.qos),
        ("time", &slurm.time),
        ("mem", &slurm.memory),
        ("constraint", &slurm.constraint),
        ("exclude", &slurm.exclude),
    ];
    options.extend(named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))));
    // Whoever asks for GPUs in a way of the site's own is not asked twice for them.
    let own_way = slurm.gpus_per_node == 0 && slurm.options.iter().any(|option| option.contains("gpu"));
    match gpus_per_node(cluster) {
        0 => {}
        _ if own_way => {}
        gpus => options.push(format!("--gpus-per-node={gpus}")),
    }
    options.extend(slurm.options.iter().cloned());
    options
}

/// GPUs that are asked for on each host: those of the configuration, else one for each worker where workers need GPUs.
pub(crate) fn gpus_per_node(cluster: &ClusterConfig) -> usize {
    match cluster.slurm.gpus_per_node {
        0 if cluster.device == DeviceKind::Cuda => cluster.workers_per_node,
        gpus => gpus,
    }
}

/// Submits; the job's number.
pub(crate) fn submit(submission: &Submission) -> Result<String, SlurmError> {
    let arguments = [&["--parsable".to_owned()], &submission.command_line()[..]].concat();
    let (answer, _) = run("sbatch", &arguments)?;
    // `1234` or `1234;cluster`, after whatever a site's plugins print.
    let number = answer.lines().next_back().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(SlurmError::Answer { line: line("sbatch", &arguments), answer });
    }
    Ok(number.into())
}

/// Asks whether Slurm would take it; what it says, as when the job would start.
pub(crate) fn test_only(submission: &Submission) -> Result<String, SlurmError> {
    let (_, said) = run("sbatch", &[&["--test-only".to_owned()], &submission.command_line()[..]].concat())?;
    Ok(said.lines().next_back().unwrap_or_default().trim_start_matches("sbatch: ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::config::SlurmConfig;

    #[test]
    fn the_configuration_s_wishes_become_options_and_what_it_leaves_open_stays_open() {
        let slurm = SlurmConfig {
            partition: Some("gpu".into()),
            gpus_per_node: 8,
            options: vec!["--reservation=lsd".into()],
            requeue: false,
            ..SlurmConfig::default()
        };
        let cluster = ClusterConfig { nodes: 4, workers_per_node: 8, slurm, ..ClusterConfig::default() };
        let options = sbatch_arguments(&cluster, "lsd-movi-e", "runs/movi-e/slurm-%j.out", 12);
        let text = options.join(" ");
        assert_eq!(
            text,
            "--job-name=lsd-movi-e --nodes=4 --ntasks-per-node=8 --cpus-per-task=12 --output=runs/movi-e/slurm-%j.out \
             --open-mode=append --no-kill --no-requeue --partition=gpu --gpus-per-node=8 --reservation=lsd"
        );
    }

    #[test]
    fn workers_that_need_gpus_are_asked_one_each_unless_the_configuration_asks_itself() {
        let asked = |device, gpus_per_node, option: &[&str]| {
            let options = option.iter().map(ToString::to_string).collect();
            let slurm = SlurmConfig { gpus_per_node, options, ..SlurmConfig::default() };
            let cluster = ClusterConfig { workers_per_node: 4, device, slurm, ..ClusterConfig::default() };
            sbatch_arguments(&cluster, "lsd", "out", 1).into_iter().filter(|option| option.contains("gpu")).collect::<Vec<_>>()
        };
        assert_eq!(asked(DeviceKind::Cuda, 0, &[]), ["--gpus-per-node=4"]);
        assert_eq!(asked(DeviceKind::Cuda, 8, &[]), ["--gpus-per-node=8"]);
        assert_eq!(asked(DeviceKind::Cuda, 0, &["--gres=gpu:h200:4"]), ["--gres=gpu:h200:4"]);
        assert_eq!(asked(DeviceKind::Auto, 2, &[]), ["--gpus-per-node=2"]);
        assert_eq!(asked(DeviceKind::Auto, 0, &[]), [] as [String; 0]);
        assert_eq!(asked(DeviceKind::Cpu, 0, &[]), [] as [String; 0]);
    }
}
