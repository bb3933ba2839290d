//! The networks against the official sizes.
