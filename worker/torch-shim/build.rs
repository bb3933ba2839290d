//! Compiles `cpp/` against the libtorch that torch-sys has found, and says how a binary is linked with libtorch.
//!
//! Cargo does not hand link arguments on to dependents, so a package with binaries, tests or examples that link libtorch has
//! `torch-shim` among its dependencies and, in its own build script, the two lines
//!
//! ```text
//! let arguments = std::env::var("DEP_TORCH_SHIM_LINK_ARGUMENTS")?;
//! arguments.split(';').for_each(|argument| println!("cargo::rustc-link-arg={argument}"));
//! ```
//!
//! They give the binary an rpath to libtorch, so that it starts without environment variables, and keep `libtorch.so`, through which
//! alone libtorch's CUDA half is loaded: no symbol of it need be named.
//!
//! The CUDA half of this crate (`cpp/cuda.cpp`) is compiled where the headers of the CUDA runtime are: in the wheels that
//! requirements.txt lists, or under `CUDA_HOME`. `TORCH_SHIM_CUDA=0` leaves it out. It calls `libc10_cuda` and `libtorch_cuda` and
//! never the CUDA runtime itself, so that no binary needs `libcudart`: the wheel has it in a folder of its own, which libtorch's
//! libraries find by their rpath and a binary would need another rpath or `LD_LIBRARY_PATH` for.

use std::env;
use std::path::{Path, PathBuf};

const COMMON: [&str; 7] = ["autocast", "hooks", "memory", "numerics", "optimizer", "profiler", "status"];

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cpp");
    println!("cargo::rustc-check-cfg=cfg(shim_cuda)");
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").map_err(|_| "torch-sys has not said where libtorch is")?);
    let include = lib.with_file_name("include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(true).extra_warnings(true);
    for folder in [include.clone(), include.join("torch/csrc/api/include")] {
        as_system_headers(&mut build, &folder);
    }
    build.files(COMMON.map(|name| format!("cpp/{name}.cpp")));
    let cuda = cuda_headers(&lib);
    if let Some(folders) = &cuda {
        folders.iter().for_each(|folder| as_system_headers(&mut build, folder));
        build.file("cpp/cuda.cpp");
        println!("cargo::rustc-cfg=shim_cuda");
    }
    build.try_compile("torch_shim").map_err(|error| error.to_string())?;
    println!("cargo::rustc-link-search=native={}", lib.display());
    let cuda_libraries: &[&str] = if cuda.is_some() { &["torch_cuda", "c10_cuda"] } else { &[] };
    for library in cuda_libraries.iter().chain(&["torch_cpu", "c10"]) {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    say_link_arguments(&lib);
    Ok(())
}

/// Warnings about libtorch's headers are not ours to mend.
fn as_system_headers(build: &mut cc::Build, folder: &Path) {
    build.flag("-isystem").flag(folder);
}

/// The folders with the headers of the CUDA runtime, where libtorch has a CUDA half and all headers are there.
fn cuda_headers(lib: &Path) -> Option<Vec<PathBuf>> {
    for variable in ["TORCH_SHIM_CUDA", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if env::var("TORCH_SHIM_CUDA").is_ok_and(|value| value == "0") || !lib.join("libtorch_cuda.so").is_file() {
        return None;
    }
    // The wheels lie beside torch's, and `.venv/torch` is a link to that one.
    let torch = lib.canonicalize().ok()?;
    let wheels = torch.ancestors().nth(2).map(|packages| packages.join("nvidia"));
    let homes = env::var_os("CUDA_HOME").map(PathBuf::from).into_iter();
    let homes = homes.chain(wheels.into_iter().flat_map(|folder| ["cu13", "cuda_runtime"].map(|name| folder.join(name))));
    for include in homes.map(|home| home.join("include")).filter(|include| include.is_dir()) {
        println!("cargo::rerun-if-changed={}", include.display());
        let folders = vec![include.clone(), include.join("cccl")];
        let has = |header: &str| folders.iter().any(|folder| folder.join(header).is_file());
        if ["cuda_runtime_api.h", "crt/host_defines.h", "nv/target"].into_iter().all(has) {
            return Some(folders);
        }
    }
    println!(
        "cargo::warning=torch-shim is built without its CUDA half: the headers of the CUDA runtime are not there (requirements.txt)"
    );
    None
}

/// For the targets of this package, and for the build scripts of those that depend on it.
fn say_link_arguments(lib: &Path) {
    let arguments = [&format!("-Wl,-rpath,{}", lib.display()), "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"];
    arguments.iter().for_each(|argument| println!("cargo::rustc-link-arg={argument}"));
    println!("cargo::metadata=link_arguments={}", arguments.join(";"));
}
