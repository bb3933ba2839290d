//! Where this process stands among the workers: rank, world size, local rank and generation, as the launcher's environment tells.

use thiserror::Error;

/// A worker's place in its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// 0-based index among all workers.
    pub rank: usize,
    /// Number of workers.
    pub world: usize,
    /// 0-based index among the workers of this host.
    pub local_rank: usize,
    /// Which start of the run this is, from 1.
    pub generation: u64,
}

/// The launcher's environment does not describe a place.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// A variable holds something else than a whole number.
    #[error("environment variable {name}={value:?} is not a whole number; start workers through the orchestrator, mpirun or srun")]
    NotANumber {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// A rank was given without a world size.
    #[error("environment variable {rank} is set but {world} is not; set both or neither")]
    Incomplete {
        /// The variable that is set.
        rank: &'static str,
        /// The variable that is missing.
        world: &'static str,
    },
    /// A rank outside of the world.
    #[error("rank {rank} ({variable}) does not fit into a world of {world} workers")]
    OutOfWorld {
        /// The variable that holds the rank.
        variable: &'static str,
        /// The rank.
        rank: usize,
        /// The world size.
        world: usize,
    },
}

/// One launcher's names for rank, world size and local rank.
struct Launcher {
    rank: &'static str,
    world: &'static str,
    local_rank: &'static str,
}

/// In order of preference: `mpirun` inside a Slurm allocation sets both, and then its own numbers count.
const LAUNCHERS: [Launcher; 3] = [
    Launcher { rank: "OMPI_COMM_WORLD_RANK", world: "OMPI_COMM_WORLD_SIZE", local_rank: "OMPI_COMM_WORLD_LOCAL_RANK" },
    Launcher { rank: "SLURM_PROCID", world: "SLURM_NTASKS", local_rank: "SLURM_LOCALID" },
    Launcher { rank: "RANK", world: "WORLD_SIZE", local_rank: "LOCAL_RANK" },
];

impl Place {
    /// The only worker of a world of one.
    pub fn alone(generation: u64) -> Self {
        Self { rank: 0, world: 1, local_rank: 0, generation }
    }

    /// The place that the environment describes: Open MPI's variables, else Slurm's, else `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, else alone.
    ///
    /// # Errors
    /// A variable that is no number, half of a pair, or a rank outside of the world.
    pub fn detect(variable: impl Fn(&str) -> Option<String>, generation: u64) -> Result<Self, PlaceError> {
        let number = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(value) => match value.trim().parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(PlaceError::NotANumber { name, value }),
            },
        };
        for launcher in &LAUNCHERS {
            let Some(rank) = number(launcher.rank)? else { continue };
            let Some(world) = number(launcher.world)? else {
                return Err(PlaceError::Incomplete { rank: launcher.rank, world: launcher.world });
            };
            if rank >= world {
                return Err(PlaceError::OutOfWorld { variable: launcher.rank, rank, world });
            }
            let local_rank = number(launcher.local_rank)?.unwrap_or(0);
            return Ok(Self { rank, world, local_rank, generation });
        }
        Ok(Self::alone(generation))
    }

    /// Rank 0 writes what all workers share: metrics, checkpoints, summaries.
    pub fn is_leader(&self) -> bool {
        self.rank == 0
    }
}

/// Whether two names are one host's: one may have its domain, and the other not.
#[must_use]
pub fn same_host(one: &str, other: &str) -> bool {
    one.split('.').next() == other.split('.').next()
}

/// The name of this host as the launcher knows it: Slurm's name for it, else the system's.
#[must_use]
pub fn host_name() -> String {
    let own =
        || std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".into(), |name| name.trim().to_owned());
    std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| own())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Result<Place, PlaceError> {
        Place::detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()), 3)
    }

    #[test]
    fn launchers_are_asked_in_order() {
        let slurm = [("SLURM_PROCID", "5"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "1")];
        assert_eq!(detect(&slurm).unwrap(), Place { rank: 5, world: 8, local_rank: 1, generation: 3 });
        let mut both = slurm.to_vec();
        both.extend([("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")]);
        assert_eq!(detect(&both).unwrap(), Place { rank: 1, world: 2, local_rank: 1, generation: 3 });
        assert_eq!(
            detect(&[("RANK", "1"), ("WORLD_SIZE", "4")]).unwrap(),
            Place { rank: 1, world: 4, local_rank: 0, generation: 3 }
        );
        assert_eq!(detect(&[]).unwrap(), Place::alone(3));
    }

    #[test]
    fn impossible_places_are_refused_by_name() {
        let message = |variables: &[(&str, &str)]| detect(variables).unwrap_err().to_string();
        assert!(message(&[("RANK", "one"), ("WORLD_SIZE", "4")]).contains("RANK=\"one\""));
        assert!(message(&[("RANK", "1")]).contains("WORLD_SIZE"));
        assert!(message(&[("SLURM_PROCID", "2"), ("SLURM_NTASKS", "2")]).contains("rank 2 (SLURM_PROCID)"));
    }
}
