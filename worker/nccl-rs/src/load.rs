//! Finding an NCCL: one that is named, the one that is in the process already, or one that the loader knows.

use crate::error::{Code, Error, Words};
use crate::ffi::{RawCommunicator, RawUniqueId, Table, UNIQUE_ID_BYTES};
use crate::{UniqueId, Version};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, OsString, c_char, c_int};
use std::fmt;
use std::path::PathBuf;

/// The environment variable that names the library to use.
pub const VARIABLE: &str = "NCCL_LIB";

/// What the loader is asked for.
const SONAME: &str = "libnccl.so.2";

/// glibc's `RTLD_DEEPBIND`: the library prefers its own functions to those of the same name that are in the process already.
const RTLD_DEEPBIND: c_int = 8;

/// Where an NCCL was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `NCCL_LIB` names it.
    Named(PathBuf),
    /// It was in the process already, brought by a library such as libtorch's.
    Process,
    /// The loader found it by its name, along its search path.
    Loader,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(path) => write!(formatter, "{} (named by {VARIABLE})", path.display()),
            Self::Process => write!(formatter, "the NCCL that is in this process already"),
            Self::Loader => write!(formatter, "{SONAME} as the loader finds it"),
        }
    }
}

/// Why there is no NCCL to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// `NCCL_LIB` is relative, so that what it names would depend on where the process was started.
    #[error("{VARIABLE}={}: not an absolute path; name the library from / on", path.display())]
    Relative {
        /// Its value.
        path: PathBuf,
    },
    /// What `NCCL_LIB` names cannot be loaded.
    #[error("{VARIABLE}={}: {cause}; name an existing {SONAME}, or unset {VARIABLE}", path.display())]
    Named {
        /// Its value.
        path: PathBuf,
        /// What the loader says.
        cause: String,
    },
    /// There is no NCCL anywhere.
    #[error(
        "no NCCL: {VARIABLE} is not set, none is in this process, and the loader says {cause}; set {VARIABLE} to the absolute path of \
         {SONAME}, or its folder in LD_LIBRARY_PATH"
    )]
    Nowhere {
        /// What the loader says.
        cause: String,
    },
    /// A library without a function that is needed.
    #[error("{library} has no {symbol}: it is no NCCL, or one older than {}; name another one by {VARIABLE}", Version::NEEDED)]
    Symbol {
        /// Where the library was found.
        library: Source,
        /// The first function that is missing.
        symbol: &'static str,
    },
    /// An NCCL that is too old.
    #[error("{library} is version {found}, {needed} or newer is needed; name another one by {VARIABLE}")]
    TooOld {
        /// Where the library was found.
        library: Source,
        /// Its version.
        found: Version,
        /// [`Version::NEEDED`].
        needed: Version,
    },
    /// An NCCL that does not tell its version.
    #[error("{library} does not tell its version: {words}; name another one by {VARIABLE}")]
    Version {
        /// Where the library was found.
        library: Source,
        /// NCCL's own words.
        words: Words,
    },
}

/// An NCCL library, ready to be called. Copies are cheap and all mean the same library.
#[derive(Clone, Copy)]
pub struct Nccl {
    loaded: &'static Loaded,
}

struct Loaded {
    table: Table,
    version: Version,
    source: Source,
}

impl Nccl {
    /// Finds NCCL: the library whose absolute path is in the environment variable `NCCL_LIB` if that is set and not empty, else the one
    /// that is in the process already, else `libnccl.so.2` along the loader's search path. A named library may stand beside another
    /// NCCL in the same process: neither calls into the other.
    ///
    /// The library stays loaded for the rest of the process, also if it is refused: threads of NCCL may run on after a communicator
    /// has failed, and would find their code gone. So load once and pass the result on.
    ///
    /// # Errors
    /// No library, one that lacks a function, or one older than [`Version::NEEDED`].
    pub fn load() -> Result<Self, LoadError> {
        let (library, source) = find(std::env::var_os(VARIABLE).filter(|path| !path.is_empty()))?;
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the types of the table are those of NCCL, which is what has these functions; the library is never unloaded.
        let table = match unsafe { Table::resolve(library) } {
            Ok(table) => table,
            Err(symbol) => return Err(LoadError::Symbol { library: source, symbol }),
        };
        let mut code = 0;
        // SAFETY: writes one int.
        let result = unsafe { (table.get_version)(&raw mut code) };
        if Code::from(result) != Code::Success {
            return Err(LoadError::Version { library: source, words: words(&table, result) });
        }
        let version = Version::from_code(code);
        if version < Version::NEEDED {
            return Err(LoadError::TooOld { library: source, found: version, needed: Version::NEEDED });
        }
        Ok(Self { loaded: Box::leak(Box::new(Loaded { table, version, source })) })
    }

    /// The library's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.loaded.version
    }

    /// Where the library was found.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.loaded.source
    }

    /// A new id, for one communicator. The process that asks for it listens for the others until the communicator is there; it may be
    /// of any rank.
    ///
    /// # Errors
    /// NCCL finds no network interface to listen at.
    pub fn unique_id(&self) -> Result<UniqueId, Error> {
        let mut id = RawUniqueId([0; UNIQUE_ID_BYTES]);
        // SAFETY: writes the 128 bytes of an id.
        let code = unsafe { (self.table().get_unique_id)(&raw mut id) };
        match Code::from(code) {
            Code::Success => Ok(UniqueId::from_raw(id)),
            _ => Err(Error::UniqueId { words: self.words(code) }),
        }
    }

    pub(crate) fn table(&self) -> &'static Table {
        &self.loaded.table
    }

    /// What NCCL says about a result code that it has just returned to this thread.
    pub(crate) fn words(&self, code: c_int) -> Words {
        words(self.table(), code)
    }

    /// The particular cause of the last failure, if NCCL tells one.
    pub(crate) fn last_error(&self) -> Option<String> {
        last_error(self.table())
    }
}

impl fmt::Debug for Nccl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NCCL {} from {}", self.version(), self.source())
    }
}

/// Opens the library that `named` or the search order says.
fn find(named: Option<OsString>) -> Result<(Library, Source), LoadError> {
    if let Some(path) = named.map(PathBuf::from) {
        if !path.is_absolute() {
            return Err(LoadError::Relative { path });
        }
        // SAFETY: runs the library's initialisers, on the word of whoever has set the variable.
        return match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) } {
            Ok(library) => Ok((library, Source::Named(path))),
            Err(error) => Err(LoadError::Named { path, cause: error.to_string() }),
        };
    }
    let process = Library::this();
    // SAFETY: the symbol is only looked for, not used.
    if unsafe { process.get::<*const ()>(b"ncclGetVersion") }.is_ok() {
        return Ok((process, Source::Process));
    }
    // SAFETY: runs the initialisers of a library of this name.
    match unsafe { Library::open(Some(SONAME), RTLD_NOW | RTLD_LOCAL) } {
        Ok(library) => Ok((library, Source::Loader)),
        Err(error) => Err(LoadError::Nowhere { cause: error.to_string() }),
    }
}

fn words(table: &Table, code: c_int) -> Words {
    // SAFETY: takes any integer and returns a constant.
    let meaning = unsafe { text((table.get_error_string)(code)) };
    let meaning = meaning.unwrap_or_else(|| "no description".into());
    Words { code: code.into(), meaning: format!("{meaning} (NCCL result {code})"), detail: last_error(table) }
}

fn last_error(table: &Table) -> Option<String> {
    // SAFETY: the communicator is allowed to be null, as what is returned belongs to the library: a buffer that always ends in a zero.
    unsafe { text((table.get_last_error)(RawCommunicator::from(std::ptr::null_mut()))) }
}

/// Copies a C string; nothing if there is none or it is empty.
///
/// # Safety
/// `pointer` is null or points at a string that ends in a zero.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) }.to_string_lossy();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
