//! Links the worker with libtorch, as torch-shim's build script says, compiles what of MPI only C can see, and puts the git revision that
//! the worker is built from into it.

#[path = "../common/src/revision.rs"]
pub mod revision;

use std::error::Error;
use std::path::Path;

/// What the worker is made of. As long as none of it changes, a commit is no reason to build anything again: a worker that was built before
/// its sources were committed says `-dirty`.
const SOURCES: [&str; 6] = ["src", "../common/src", "torch-shim", "nccl-rs", "../Cargo.toml", "../Cargo.lock"];

fn main() -> Result<(), Box<dyn Error>> {
    SOURCES.iter().chain(&["build.rs"]).for_each(|source| println!("cargo::rerun-if-changed={source}"));
    let (version, revision) = (env!("CARGO_PKG_VERSION"), revision::of(Path::new("."), &SOURCES));
    let version = revision.map_or_else(|| version.to_owned(), |revision| format!("{version} ({revision})"));
    println!("cargo::rustc-env=VERSION_AND_REVISION={version}");
    let arguments = std::env::var("DEP_TORCH_SHIM_LINK_ARGUMENTS")?;
    arguments.split(';').for_each(|argument| println!("cargo::rustc-link-arg={argument}"));
    #[cfg(feature = "mpi")]
    compile_mpi()?;
    Ok(())
}

/// With the compiler or the headers of the MPI library that the crate `mpi` has found.
#[cfg(feature = "mpi")]
fn compile_mpi() -> Result<(), Box<dyn Error>> {
    const SOURCE: &str = "src/collectives/in_place.c";
    let library = build_probe_mpi::probe().map_err(|reasons| format!("no MPI library: {reasons:?}"))?;
    let mut build = cc::Build::new();
    match library.mpicc {
        Some(compiler) => build.compiler(compiler),
        None => build.includes(&library.include_paths),
    };
    build.file(SOURCE).try_compile("lsd_mpi")?;
    Ok(())
}
