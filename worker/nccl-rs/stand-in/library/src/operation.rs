//! All-reduce and broadcast, in steps of one chunk. In each step
//!
//! 1. every rank that has something to bring copies it into its own chunk;
//! 2. when all have done so, an all-reduce sums: rank r the r-th part of all chunks, into the chunk of the result; a broadcast copies the
//!    root's chunk out;
//! 3. when all have done that, an all-reduce copies the result out.
//!
//! A chunk is overwritten one step later at the earliest, when all ranks have told that they do not need it any more.

use crate::element::Element;
use crate::failure::Failure;
use crate::segment::{CHUNK, Rank, Segment};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Instant;

/// What the ranks do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sum,
    Broadcast { root: usize },
}

/// The part of a step that is next.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Bring,
    Use,
    Take,
}

/// An operation under way.
pub(crate) struct Operation {
    kind: Kind,
    element: Element,
    source: *const u8,
    target: *mut u8,
    elements: usize,
    /// How many elements are done.
    done: usize,
    phase: Phase,
}

// SAFETY: the caller of the C function lends the memory to the communicator, whichever thread is in it.
unsafe impl Send for Operation {}

impl Operation {
    /// # Safety
    /// `source` can be read and `target` be written, `elements` elements each, until the operation is done or dropped. They are the same
    /// or do not overlap.
    pub(crate) unsafe fn new(kind: Kind, element: Element, source: *const u8, target: *mut u8, elements: usize) -> Self {
        Self { kind, element, source, target, elements, done: 0, phase: Phase::Bring }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Goes on until the operation is done, or `until`; whether it is done. `step` counts the steps of all operations.
    pub(crate) fn advance(&mut self, segment: &Segment, step: &mut u64, until: Instant) -> Result<bool, Failure> {
        while self.done < self.elements {
            match self.phase {
                Phase::Bring => {
                    self.bring(segment);
                    publish(segment, |rank| &rank.brought, *step + 1);
                    self.phase = Phase::Use;
                }
                Phase::Use => {
                    if !segment.wait(until, || all_have(segment, |rank| &rank.brought, *step + 1))? {
                        return Ok(false);
                    }
                    if self.done == 0 {
                        check_calls(segment)?;
                    }
                    self.use_chunks(segment);
                    publish(segment, |rank| &rank.used, *step + 1);
                    self.phase = Phase::Take;
                }
                Phase::Take => {
                    if !segment.wait(until, || all_have(segment, |rank| &rank.used, *step + 1))? {
                        return Ok(false);
                    }
                    self.take(segment);
                    self.done += self.count();
                    *step += 1;
                    self.phase = Phase::Bring;
                }
            }
        }
        Ok(true)
    }

    /// Whom the operation waits for.
    pub(crate) fn waiting(&self, segment: &Segment) -> String {
        let counter =
            |rank: &Rank| if matches!(self.phase, Phase::Use) { rank.brought.load(SeqCst) } else { rank.used.load(SeqCst) };
        let own = counter(segment.own());
        let late = segment.ranks().iter().enumerate().filter(|(_, rank)| counter(rank) < own);
        let late = late.map(|(rank, _)| rank.to_string()).collect::<Vec<_>>().join(", ");
        format!("waiting for rank {late} in {}", words((self.call(), self.elements as u64)))
    }

    fn bring(&self, segment: &Segment) {
        if self.done == 0 {
            segment.own().call.store(self.call(), Relaxed);
            segment.own().elements.store(self.elements as u64, Relaxed);
        }
        if matches!(self.kind, Kind::Sum) || self.kind == (Kind::Broadcast { root: segment.rank() }) {
            // SAFETY: `done + count` elements are there; all ranks are done with this rank's chunk of the step before.
            unsafe { segment.input(segment.rank()).copy_from_nonoverlapping(self.source.add(self.offset()), self.bytes()) };
        }
    }

    fn use_chunks(&self, segment: &Segment) {
        match self.kind {
            Kind::Sum => {
                let inputs: Vec<*const u8> = (0..segment.world()).map(|rank| segment.input(rank).cast_const()).collect();
                let part = part(self.count(), segment.rank(), segment.world());
                // SAFETY: all ranks have brought their chunks and leave them alone until this rank has told that it has used them;
                // its part of the result is written by nobody else. Chunks begin at multiples of a page.
                unsafe { self.element.sum(&inputs, segment.result(), part) };
            }
            Kind::Broadcast { root } if root == segment.rank() && self.source == self.target.cast_const() => {}
            // SAFETY: as above, and the target has room for `done + count` elements.
            Kind::Broadcast { root } => unsafe {
                self.target.add(self.offset()).copy_from_nonoverlapping(segment.input(root), self.bytes());
            },
        }
    }

    fn take(&self, segment: &Segment) {
        if self.kind == Kind::Sum {
            // SAFETY: all parts of the result are there, and stay until this rank has brought the chunk of the next step.
            unsafe { self.target.add(self.offset()).copy_from_nonoverlapping(segment.result(), self.bytes()) };
        }
    }

    /// Elements of the step that is under way.
    fn count(&self) -> usize {
        (CHUNK / self.element.bytes()).min(self.elements - self.done)
    }

    fn bytes(&self) -> usize {
        self.count() * self.element.bytes()
    }

    fn offset(&self) -> usize {
        self.done * self.element.bytes()
    }

    /// What all ranks have to agree about, but for the number of elements.
    fn call(&self) -> u64 {
        let kind = match self.kind {
            Kind::Sum => 1,
            Kind::Broadcast { root } => 2 + root as u64,
        };
        kind << 32 | self.element as u64
    }
}

/// The `rank`-th part of `count` elements.
fn part(count: usize, rank: usize, world: usize) -> Range<usize> {
    count * rank / world..count * (rank + 1) / world
}

/// Tells that this rank has done something `value` times; whoever is last wakes the others.
fn publish(segment: &Segment, counter: fn(&Rank) -> &AtomicU64, value: u64) {
    counter(segment.own()).store(value, SeqCst);
    if all_have(segment, counter, value) {
        segment.header().bell.ring();
    }
}

/// Whether all ranks have done something `value` times.
fn all_have(segment: &Segment, counter: fn(&Rank) -> &AtomicU64, value: u64) -> bool {
    segment.ranks().iter().all(|rank| counter(rank).load(SeqCst) >= value)
}

/// Checks that all ranks have called the same, all with the same result.
fn check_calls(segment: &Segment) -> Result<(), Failure> {
    let call = |rank: &Rank| (rank.call.load(Relaxed), rank.elements.load(Relaxed));
    let first = call(&segment.ranks()[0]);
    match segment.ranks().iter().position(|rank| call(rank) != first) {
        None => Ok(()),
        Some(rank) => {
            let (other, first) = (words(call(&segment.ranks()[rank])), words(first));
            Err(Failure::usage(format!("rank {rank} calls {other}, rank 0 {first}")))
        }
    }
}

/// A call as a person would write it.
fn words((call, elements): (u64, u64)) -> String {
    let element = Element::from_code((call & 0xff) as i32).map_or_else(|_| "?".into(), |element| format!("{element:?}"));
    match call >> 32 {
        1 => format!("all_reduce of {elements} {element}"),
        kind => format!("broadcast of {elements} {element} from rank {}", kind - 2),
    }
}
