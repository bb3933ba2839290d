//! What programs did to the files below a folder, written down by the library that `tests/power_cut/trace.c` becomes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::lab::target;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/power_cut/trace.c");

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Open { file: File, path: PathBuf, empties: bool },
    Write { file: File, offset: usize, bytes: Vec<u8> },
    Resize { file: File, length: usize },
    Sync { file: File },
    Close { file: File },
    Rename { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    MakeFolder { path: PathBuf },
}

/// An open file: process and descriptor.
pub type File = (u32, u32);

/// A folder in which everything that is done is written down.
pub struct Traced {
    root: PathBuf,
    file: PathBuf,
}

impl Traced {
    /// Watches `root`; the records go to `file`, which lies elsewhere.
    pub fn new(root: &Path, file: PathBuf) -> Self {
        Self { root: root.canonicalize().unwrap(), file }
    }

    /// Has `command`, and what it starts, written down.
    pub fn watch(&self, command: &mut Command) {
        command.env("LD_PRELOAD", library()).env("LSD_TRACE_ROOT", &self.root).env("LSD_TRACE_FILE", &self.file);
    }

    /// Everything so far, paths relative to the root.
    pub fn actions(&self) -> Vec<Action> {
        let bytes = fs::read(&self.file).unwrap();
        let mut rest = &bytes[..];
        let mut actions = Vec::new();
        while !rest.is_empty() {
            let (header, behind) = rest.split_at(32);
            let number = |index: usize| u32::from_le_bytes(header[4 * index..4 * index + 4].try_into().unwrap());
            let (first, behind) = behind.split_at(number(6) as usize);
            let (second, behind) = behind.split_at(number(7) as usize);
            rest = behind;
            let file = (number(1), number(2));
            let flags = nix::libc::c_int::try_from(number(3)).unwrap();
            let offset = (u64::from(number(5)) << 32 | u64::from(number(4))) as usize;
            let path = |name: &[u8]| {
                let path = Path::new(std::str::from_utf8(name).unwrap());
                path.strip_prefix(&self.root).unwrap().to_owned()
            };
            actions.push(match char::from_u32(number(0)).unwrap() {
                'O' => Action::Open { file, path: path(first), empties: flags & nix::libc::O_TRUNC != 0 },
                'W' => Action::Write { file, offset, bytes: first.to_vec() },
                'T' => Action::Resize { file, length: offset },
                'S' => Action::Sync { file },
                'C' => Action::Close { file },
                'R' => Action::Rename { from: path(first), to: path(second) },
                'L' => Action::Link { from: path(first), to: path(second) },
                'U' => Action::Remove { path: path(first) },
                'M' => Action::MakeFolder { path: path(first) },
                kind => panic!("a record of kind {kind:?}"),
            });
        }
        actions
    }
}

/// The library, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = target().join("release/liblsd_trace.so");
        let building = library.with_extension(format!("so.{}", std::process::id()));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&building).arg(SOURCE);
        let output = compiler.args(["-ldl", "-lpthread"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Whoever uses it at this moment keeps the old one.
        fs::rename(building, &library).unwrap();
        library.canonicalize().unwrap()
    })
}
