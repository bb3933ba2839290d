//! The real NCCL of the virtual environment, as far as it goes without a GPU.

use crate::actor::Actor;
use std::path::{Path, PathBuf};

/// The library that is installed beside libtorch.
fn library() -> Option<PathBuf> {
    let torch = PathBuf::from(std::env::var_os("LIBTORCH")?).canonicalize().ok()?;
    Some(torch.parent()?.join("nvidia/nccl/lib/libnccl.so.2")).filter(|path| path.exists())
}

#[test]
fn the_installed_nccl_loads_and_fails_cleanly_without_a_gpu() {
    let name = "installed::the_installed_nccl_loads_and_fails_cleanly_without_a_gpu";
    let Some(library) = library() else {
        eprintln!("skipped {name}: no nvidia/nccl/lib/libnccl.so.2 beside LIBTORCH");
        return;
    };
    let mut actor = Actor::start("connect_without_device", vec![("NCCL_LIB", library.into())]);
    let version = actor.hear();
    assert!(version.starts_with("2."), "{version}");
    let said = actor.hear();
    if Path::new("/dev/nvidiactl").exists() {
        assert_eq!(said, "fine");
    } else {
        assert!(said.starts_with("connect failed on rank 0 of 1: ") && said.contains("(NCCL result "), "{said}");
        println!("{version}: {said}");
    }
    actor.succeed();
}
