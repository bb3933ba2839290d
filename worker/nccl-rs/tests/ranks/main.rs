//! Ranks as real processes. They load a library and meet as a trainer's do; the library is the stand-in, so no GPU is needed.

// A test says what it expects by panicking; clippy only knows that of functions marked #[test], not of their helpers.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

mod actor;
mod elements;
mod failures;
mod installed;
mod loading;
mod parts;
mod together;
