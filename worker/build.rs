//! Links the worker with libtorch, as torch-shim's build script says, and compiles what of MPI only C can see.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
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
    println!("cargo::rerun-if-changed={SOURCE}");
    let library = build_probe_mpi::probe().map_err(|reasons| format!("no MPI library: {reasons:?}"))?;
    let mut build = cc::Build::new();
    match library.mpicc {
        Some(compiler) => build.compiler(compiler),
        None => build.includes(&library.include_paths),
    };
    build.file(SOURCE).try_compile("lsd_mpi")?;
    Ok(())
}
