//! Links the worker with libtorch, as torch-shim's build script says.

fn main() -> Result<(), std::env::VarError> {
    println!("cargo::rerun-if-changed=build.rs");
    let arguments = std::env::var("DEP_TORCH_SHIM_LINK_ARGUMENTS")?;
    arguments.split(';').for_each(|argument| println!("cargo::rustc-link-arg={argument}"));
    Ok(())
}
