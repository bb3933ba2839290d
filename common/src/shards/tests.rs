//! Tests of the data set format.
