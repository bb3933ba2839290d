//! The Slurm allocation that this process runs in, as its environment tells.

use super::tool::{SlurmError, run};

/// An allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// The job's number, as `1234`.
    pub(crate) job: String,
    /// Its hosts, as `node[1-4]`.
    pub(crate) node_list: String,
    /// How often it was put back into the queue before.
    pub(crate) restarts: u64,
    /// CPUs on each host, the least of all; unknown if Slurm does not say.
    pub(crate) cpus_per_node: Option<usize>,
}

impl Allocation {
    /// The allocation that `variable` describes.
    pub(crate) fn detect(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let job = variable("SLURM_JOB_ID").filter(|job| !job.is_empty())?;
        let node_list = variable("SLURM_JOB_NODELIST").or_else(|| variable("SLURM_NODELIST"))?;
        let restarts = variable("SLURM_RESTART_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
        let cpus_per_node = variable("SLURM_JOB_CPUS_PER_NODE").and_then(|cpus| least_cpus(&cpus));
        Some(Self { job, node_list, restarts, cpus_per_node })
    }

    /// That of this process.
    pub(crate) fn here() -> Option<Self> {
        Self::detect(|name| std::env::var(name).ok())
    }

    /// The names of its hosts, in the order in which Slurm gives them ranks.
    pub(crate) fn hosts(&self) -> Result<Vec<String>, SlurmError> {
        let arguments = ["show", "hostnames", &self.node_list].map(str::to_owned);
        let (names, _) = run("scontrol", &arguments)?;
        Ok(names.lines().map(|name| name.trim().to_owned()).collect())
    }
}

/// The least number in `72(x2),36`.
fn least_cpus(text: &str) -> Option<usize> {
    text.split(',').map(|part| part.split('(').next()?.trim().parse().ok()).collect::<Option<Vec<usize>>>()?.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Option<Allocation> {
        Allocation::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn an_allocation_is_a_job_with_hosts() {
        assert_eq!(detect(&[("SLURM_CONF", "/etc/slurm.conf")]), None);
        let job = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_NODELIST", "node[1-4]"), ("SLURM_JOB_CPUS_PER_NODE", "72(x2),36,40")];
        let expected = Allocation { job: "7".into(), node_list: "node[1-4]".into(), restarts: 0, cpus_per_node: Some(36) };
        assert_eq!(detect(&job), Some(expected.clone()));
        let again = [&job[..], &[("SLURM_RESTART_COUNT", "2")]].concat();
        assert_eq!(detect(&again), Some(Allocation { restarts: 2, ..expected }));
    }
}
