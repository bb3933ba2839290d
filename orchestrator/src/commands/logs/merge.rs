//! Many files, one story: messages in the order of their times, one message of each file in view at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io;

use super::source::{Ending, Message, Source};

/// Hands over all messages of the sources in the order of their times; at the same time, in the order of the sources.
pub(super) fn merge(
    sources: &mut [&mut Source],
    ending: Ending,
    each: &mut impl FnMut(&Source, Message<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut heap = BinaryHeap::with_capacity(sources.len());
    for (index, source) in sources.iter_mut().enumerate() {
        if let Some(time) = source.next(ending)? {
            heap.push(Reverse((time, index)));
        }
    }
    while let Some(mut first) = heap.peek_mut() {
        let Reverse((_, index)) = *first;
        let source = &mut *sources[index];
        each(source, source.message())?;
        match source.next(ending)? {
            Some(time) => *first = Reverse((time, index)),
            None => {
                PeekMut::pop(first);
            }
        }
    }
    Ok(())
}
