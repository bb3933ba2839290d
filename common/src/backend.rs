//! What the workers of a run compute on and what carries their gradients: decided once, by the coordinator, from the configuration and
//! the GPUs of its host, and told to every worker on its command line. A worker without a coordinator decides by the same rule.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{ClusterConfig, CollectiveKind, DeviceKind};

/// The environment variable that, set to 1, lets more workers than GPUs start: they share. For tests on one GPU; NCCL has to be told too.
pub const SHARE_GPUS: &str = "LSD_SHARE_GPUS";

/// What workers compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// A share of the CPU.
    Cpu,
    /// One GPU each: the one with the number of the local rank.
    Cuda,
}

/// What carries the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Collective {
    /// One worker, nothing to reduce.
    Solo,
    /// MPI, between CPUs.
    Mpi,
    /// NCCL.
    Nccl,
}

/// Device and collective of a run, the same for all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// What workers compute on.
    pub device: Device,
    /// What carries the gradients.
    pub collective: Collective,
}

/// A configuration that this machine cannot serve.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BackendError {
    /// MPI between GPUs.
    #[error(
        "cluster.collective = \"mpi\" cannot carry the gradients of {what}: they lie in the memory of the GPUs, which MPI does not reach; \
         set it to \"nccl\" or \"auto\", or cluster.device to \"cpu\""
    )]
    MpiOnGpus {
        /// Where GPUs come from: the configuration, or what was found.
        what: &'static str,
    },
    /// Several workers without anything between them.
    #[error("cluster.collective = \"solo\" is for one worker, not for {world}: set it to \"auto\"")]
    SoloWorld {
        /// Number of workers.
        world: usize,
    },
    /// GPUs are wanted where there are none.
    #[error(
        "cluster.device = \"cuda\", but host {host} has no NVIDIA GPU that this process may use (no /dev/nvidia0, or \
         CUDA_VISIBLE_DEVICES hides them all): load the driver, ask for GPUs (cluster.slurm.gpus_per_node), or set cluster.device to \"cpu\""
    )]
    NoGpu {
        /// The host.
        host: String,
    },
    /// Not one GPU asked for each worker.
    #[error(
        "cluster.workers_per_node = {workers}, but cluster.slurm.gpus_per_node = {gpus} asks for fewer GPUs on each host than there will be \
         workers: make them the same"
    )]
    FewerAsked {
        /// Workers on a host.
        workers: usize,
        /// GPUs that are asked for.
        gpus: usize,
    },
    /// Not one GPU for each worker.
    #[error(
        "cluster.workers_per_node = {workers}, but host {host} has {gpus} {}, and each worker needs one of its own: start fewer \
         (--workers {gpus}), or set cluster.device to \"cpu\"",
        if *gpus == 1 { "GPU" } else { "GPUs" }
    )]
    FewerGpus {
        /// The host.
        host: String,
        /// Workers on it.
        workers: usize,
        /// GPUs that it has.
        gpus: usize,
    },
}

impl Backend {
    /// Whether a job that asks Slurm for `gpus` GPUs on each host has room for `workers` workers there; `shared` if they may share.
    ///
    /// # Errors
    /// Fewer GPUs than workers.
    pub fn check_asked_gpus(self, workers: usize, gpus: usize, shared: bool) -> Result<(), BackendError> {
        let few = self.device == Device::Cuda && gpus < workers && !shared;
        if few { Err(BackendError::FewerAsked { workers, gpus }) } else { Ok(()) }
    }

    /// What `cluster` asks for with `world` workers. `gpus` counts those of this host; it is asked only where that decides.
    ///
    /// `device = "auto"` is `cuda` if there are GPUs. `collective = "auto"` is `solo` for one worker, else `nccl` between GPUs and `mpi`
    /// between CPUs. NCCL between CPUs is only possible with a stand-in for its library, as tests have.
    ///
    /// # Errors
    /// MPI between GPUs, or `solo` for several workers.
    pub fn resolve(cluster: &ClusterConfig, world: usize, gpus: impl FnOnce() -> usize) -> Result<Self, BackendError> {
        let device = match cluster.device {
            DeviceKind::Cpu => Device::Cpu,
            DeviceKind::Cuda => Device::Cuda,
            DeviceKind::Auto if gpus() > 0 => Device::Cuda,
            DeviceKind::Auto => Device::Cpu,
        };
        let collective = match (cluster.collective, device) {
            (CollectiveKind::Auto, _) if world == 1 => Collective::Solo,
            (CollectiveKind::Auto | CollectiveKind::Nccl, Device::Cuda) | (CollectiveKind::Nccl, Device::Cpu) => Collective::Nccl,
            (CollectiveKind::Auto | CollectiveKind::Mpi, Device::Cpu) => Collective::Mpi,
            (CollectiveKind::Mpi, Device::Cuda) => {
                let named = cluster.device == DeviceKind::Cuda;
                let what = if named { "cluster.device = \"cuda\"" } else { "the GPUs that cluster.device = \"auto\" found" };
                return Err(BackendError::MpiOnGpus { what });
            }
            (CollectiveKind::Solo, _) if world == 1 => Collective::Solo,
            (CollectiveKind::Solo, _) => return Err(BackendError::SoloWorld { world }),
        };
        Ok(Self { device, collective })
    }

    /// Whether `host`, which is one of the run's hosts and has `gpus` GPUs, can take `workers` workers; `shared` if they may share.
    ///
    /// # Errors
    /// No GPU where GPUs are needed, or fewer than workers.
    pub fn check_gpus(self, host: &str, workers: usize, gpus: usize, shared: bool) -> Result<(), BackendError> {
        let host = || host.to_owned();
        match self.device {
            Device::Cpu => Ok(()),
            Device::Cuda if gpus == 0 => Err(BackendError::NoGpu { host: host() }),
            Device::Cuda if gpus < workers && !shared => Err(BackendError::FewerGpus { host: host(), workers, gpus }),
            Device::Cuda => Ok(()),
        }
    }
}

/// Whether workers may share GPUs ([`SHARE_GPUS`]).
#[must_use]
pub fn gpus_are_shared() -> bool {
    std::env::var(SHARE_GPUS).is_ok_and(|value| value == "1")
}

/// NVIDIA GPUs of this host that this process may use. Neither driver nor libtorch is loaded for that.
#[must_use]
pub fn gpus_of_this_host() -> usize {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    count_gpus(Path::new("/dev"), Path::new("/proc/driver/nvidia/gpus"), visible.as_deref())
}

/// GPUs by their device files, or where a container has none by the driver's folders; of these the ones that `visible` leaves.
fn count_gpus(devices: &Path, driver: &Path, visible: Option<&str>) -> usize {
    let entries = |folder: &Path, is_gpu: fn(&str) -> bool| {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
    };
    let numbered = |name: &str| {
        name.strip_prefix("nvidia").is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let present = match entries(devices, numbered) {
        0 => entries(driver, |_| true),
        present => present,
    };
    // Names count, not numbers: parts of a GPU (MIG) have names of their own. As for CUDA, the list ends at the first that is none.
    let named = |names: &str| names.split(',').map(str::trim).take_while(|name| !name.is_empty() && *name != "-1").count();
    if present == 0 { 0 } else { visible.map_or(present, named) }
}

impl Device {
    /// The name on command lines and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl Collective {
    /// The name on command lines and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Solo => "solo",
            Self::Mpi => "mpi",
            Self::Nccl => "nccl",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word on a command line that is not among the choices.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{word}` is none of {choices}")]
pub struct UnknownBackend {
    word: String,
    choices: &'static str,
}

impl FromStr for Device {
    type Err = UnknownBackend;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = [Self::Cpu, Self::Cuda].into_iter().find(|device| device.name() == word);
        found.ok_or_else(|| UnknownBackend { word: word.into(), choices: "cpu and cuda" })
    }
}

impl FromStr for Collective {
    type Err = UnknownBackend;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = [Self::Solo, Self::Mpi, Self::Nccl].into_iter().find(|collective| collective.name() == word);
        found.ok_or_else(|| UnknownBackend { word: word.into(), choices: "solo, mpi and nccl" })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn resolve(device: DeviceKind, collective: CollectiveKind, world: usize, gpus: usize) -> Result<(Device, Collective), String> {
        let cluster = ClusterConfig { device, collective, ..ClusterConfig::default() };
        let backend = Backend::resolve(&cluster, world, || gpus).map_err(|error| error.to_string())?;
        Ok((backend.device, backend.collective))
    }

    #[test]
    fn gpus_and_the_number_of_workers_decide_what_the_configuration_leaves_open() {
        use CollectiveKind::{Auto, Mpi, Nccl, Solo};
        let cases = [
            (DeviceKind::Auto, Auto, 1, 0, (Device::Cpu, Collective::Solo)),
            (DeviceKind::Auto, Auto, 4, 0, (Device::Cpu, Collective::Mpi)),
            (DeviceKind::Auto, Auto, 1, 1, (Device::Cuda, Collective::Solo)),
            (DeviceKind::Auto, Auto, 4, 1, (Device::Cuda, Collective::Nccl)),
            (DeviceKind::Cpu, Auto, 4, 8, (Device::Cpu, Collective::Mpi)),
            (DeviceKind::Cuda, Auto, 4, 0, (Device::Cuda, Collective::Nccl)),
            (DeviceKind::Cpu, Nccl, 2, 0, (Device::Cpu, Collective::Nccl)),
            (DeviceKind::Cuda, Nccl, 1, 0, (Device::Cuda, Collective::Nccl)),
            (DeviceKind::Cpu, Mpi, 1, 8, (Device::Cpu, Collective::Mpi)),
            (DeviceKind::Cuda, Solo, 1, 1, (Device::Cuda, Collective::Solo)),
        ];
        for (device, collective, world, gpus, expected) in cases {
            assert_eq!(resolve(device, collective, world, gpus), Ok(expected), "{device:?} {collective:?} {world} {gpus}");
        }
        let text = resolve(DeviceKind::Auto, Mpi, 2, 1).unwrap_err();
        assert!(text.contains("cluster.device = \"auto\" found") && text.contains("\"nccl\""), "{text}");
        assert!(resolve(DeviceKind::Cuda, Mpi, 1, 0).unwrap_err().contains("of cluster.device = \"cuda\""));
        assert!(resolve(DeviceKind::Cpu, Solo, 2, 0).unwrap_err().contains("not for 2"));
    }

    #[test]
    fn a_host_needs_a_gpu_for_each_worker() {
        let backend = |device| Backend { device, collective: Collective::Nccl };
        let check =
            |device, workers, gpus, shared| backend(device).check_gpus("n1", workers, gpus, shared).map_err(|e| e.to_string());
        assert_eq!(check(Device::Cpu, 8, 0, false), Ok(()));
        assert_eq!(check(Device::Cuda, 8, 8, false), Ok(()));
        assert_eq!(check(Device::Cuda, 2, 1, true), Ok(()));
        let text = check(Device::Cuda, 8, 1, false).unwrap_err();
        assert!(
            text.contains("workers_per_node = 8") && text.contains("host n1 has 1 GPU,") && text.contains("--workers 1"),
            "{text}"
        );
        let asked = |device, gpus, shared| backend(device).check_asked_gpus(4, gpus, shared).map_err(|e| e.to_string());
        assert_eq!(
            (asked(Device::Cuda, 4, false), asked(Device::Cuda, 2, true), asked(Device::Cpu, 2, false)),
            (Ok(()), Ok(()), Ok(()))
        );
        assert!(asked(Device::Cuda, 2, false).unwrap_err().contains("cluster.slurm.gpus_per_node = 2"));
        for shared in [false, true] {
            assert!(check(Device::Cuda, 1, 0, shared).unwrap_err().contains("host n1 has no NVIDIA GPU"));
        }
    }

    #[test]
    fn gpus_are_counted_by_device_files_and_what_cuda_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (devices, driver) = (folder.path().join("dev"), folder.path().join("gpus"));
        let count = |visible| count_gpus(&devices, &driver, visible);
        assert_eq!((count(None), count(Some("0,1"))), (0, 0), "no folder at all");
        fs::create_dir_all(&devices).unwrap();
        fs::create_dir_all(driver.join("0000:01:00.0")).unwrap();
        for name in ["nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"] {
            fs::write(devices.join(name), "").unwrap();
        }
        assert_eq!(count(None), 1, "by the driver's folder");
        for number in ["nvidia0", "nvidia1", "nvidia10"] {
            fs::write(devices.join(number), "").unwrap();
        }
        let cases = [
            (None, 3),
            (Some("2,0"), 2),
            (Some(""), 0),
            (Some("-1"), 0),
            (Some("1,-1,2"), 1),
            (Some("MIG-a,MIG-b,MIG-c,MIG-d"), 4),
        ];
        for (visible, expected) in cases {
            assert_eq!(count(visible), expected, "{visible:?}");
        }
    }

    #[test]
    fn names_read_back_and_others_are_refused() {
        for device in [Device::Cpu, Device::Cuda] {
            assert_eq!(device.name().parse(), Ok(device));
        }
        for collective in [Collective::Solo, Collective::Mpi, Collective::Nccl] {
            assert_eq!(collective.name().parse(), Ok(collective));
        }
        assert_eq!("gpu".parse::<Device>().unwrap_err().to_string(), "`gpu` is none of cpu and cuda");
        assert!("auto".parse::<Collective>().is_err(), "what a worker is told is decided");
    }
}
