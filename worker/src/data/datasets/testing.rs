//! Tiny data sets in the published layouts, written by the tests themselves.
