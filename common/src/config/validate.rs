//! What a value may be: pure checks over a whole [`Config`](super::Config), each error naming the key.
