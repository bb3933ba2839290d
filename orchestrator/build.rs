//! Puts the git revision that the program is built from into it.

#[path = "../common/src/revision.rs"]
pub mod revision;

/// What the program is made of. As long as none of it changes, a commit is no reason to build anything again: a program that was built
/// before its sources were committed says `-dirty`.
const SOURCES: [&str; 4] = ["src", "../common/src", "../Cargo.toml", "../Cargo.lock"];

fn main() {
    SOURCES.iter().for_each(|source| println!("cargo::rerun-if-changed={source}"));
    let (version, revision) = (env!("CARGO_PKG_VERSION"), revision::of(std::path::Path::new("."), &SOURCES));
    let version = revision.as_ref().map_or_else(|| version.to_owned(), |revision| format!("{version} ({revision})"));
    println!("cargo::rustc-env=VERSION_AND_REVISION={version}");
    println!("cargo::rustc-env=SOURCE_REVISION={}", revision.unwrap_or_default());
}
