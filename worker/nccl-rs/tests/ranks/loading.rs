//! Where a library is looked for, and what is said if there is none that fits.

use crate::actor::{Actor, Environment, stand_in};
use std::os::unix::fs::symlink;

/// What an actor says about loading.
fn loading(environment: Environment) -> String {
    Actor::start("load", environment).hear()
}

#[test]
fn the_named_library_comes_first_then_the_process_then_the_loader() {
    let library = nccl_stand_in::library_path().unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(&library, folder.path().join("libnccl.so.2")).unwrap();
    let (named, path) = (stand_in(), vec![("LD_LIBRARY_PATH", folder.path().into())]);
    let process: Environment = vec![("LD_PRELOAD", library.clone().into()), ("NCCL_LIB", "".into())];
    assert_eq!(loading([named, path.clone()].concat()), format!("NCCL 2.28.9 from {} (named by NCCL_LIB)", library.display()));
    assert_eq!(loading([process, path.clone()].concat()), "NCCL 2.28.9 from the NCCL that is in this process already");
    assert_eq!(loading(path), "NCCL 2.28.9 from libnccl.so.2 as the loader finds it");
}

#[test]
fn a_library_that_does_not_fit_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("libnccl.so.2");
    std::fs::write(&broken, "no library").unwrap();
    let nothing: Environment = vec![("LD_LIBRARY_PATH", folder.path().into())];
    let missing = loading(vec![("NCCL_LIB", "/nowhere/libnccl.so.2".into())]);
    for (error, words) in [
        (&missing, "NCCL_LIB=/nowhere/libnccl.so.2: "),
        (&missing, "No such file"),
        (&missing, "or unset NCCL_LIB"),
        (&loading(vec![("NCCL_LIB", "libnccl.so.2".into())]), "NCCL_LIB=libnccl.so.2: not an absolute path"),
        (&loading(nothing), "no NCCL: NCCL_LIB is not set, none is in this process, and the loader says "),
        (&loading(vec![("NCCL_LIB", libc())]), "libc.so.6 (named by NCCL_LIB) has no ncclGetVersion: it is no NCCL"),
        (
            &loading([stand_in(), vec![("NCCL_STAND_IN_VERSION", "21000".into())]].concat()),
            "is version 2.10.0, 2.18.0 or newer is needed",
        ),
        (&loading([stand_in(), vec![("NCCL_STAND_IN_VERSION", "new".into())]].concat()), "NCCL_STAND_IN_VERSION=new: not a number"),
    ] {
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
}

/// The C library of this process: certainly there, certainly no NCCL.
fn libc() -> std::ffi::OsString {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|path| path.contains("/libc.so"));
    path.unwrap().into()
}
