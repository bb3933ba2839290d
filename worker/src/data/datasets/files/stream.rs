//! Gzipped tar archives, which can only be read from their beginning.
//!
//! Samples are taken in the order in which they become complete, so that one pass serves all of them. Files of samples that are not
//! complete yet are held in memory; that is no more than one folder of the archive, since archives are packed folder by folder. A pass
//! goes on where the last request ended, so shards that are asked for in order cost one pass in all. The workers of a job each make
//! their own: unpacking costs little beside decoding.

use super::super::ImportError;
use super::super::source::PieceReader;
use bytes::Bytes;
use common::storage::Entry;
use flate2::bufread::MultiGzDecoder;
use rayon::prelude::*;
use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Files that are unpacked ahead of those who wait for them.
const AHEAD: usize = 32;
/// The sample of a file that belongs to none.
const NONE: usize = usize::MAX;
/// How a gzip file begins.
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// All parts of an archive, or several archives.
pub(super) struct Stream {
    /// What is unpacked as one stream each: single archives, or the pieces of one that was cut.
    parts: Arc<Vec<Vec<PieceReader>>>,
    /// The first entry of each.
    starts: Vec<usize>,
    /// The sample of each entry.
    sample_of: Arc<Vec<usize>>,
    /// The last entry of each sample.
    ends: Vec<usize>,
    cursor: Mutex<Option<Cursor>>,
}

/// A pass that is under way.
struct Cursor {
    files: Receiver<Result<(usize, Bytes), ImportError>>,
    /// Files of samples that are not complete yet.
    held: HashMap<usize, Bytes>,
    /// Samples before this one are gone.
    next: usize,
}

impl Stream {
    /// Unpacks everything once to learn what is inside, in its order, and to check it.
    pub(super) fn open(archives: Vec<PieceReader>) -> Result<(Self, Vec<Entry>), ImportError> {
        let mut whole = true;
        for reader in &archives {
            let begin = reader.piece(0..2.min(reader.size())).map_err(|error| ImportError::of_io(reader.file(), error))?;
            whole &= begin[..] == MAGIC;
        }
        let parts: Vec<Vec<_>> = if whole { archives.into_iter().map(|archive| vec![archive]).collect() } else { vec![archives] };
        let index = |part: &Vec<PieceReader>| {
            let mut entries = Vec::new();
            unpack(part, |name, size, _| {
                entries.push(Entry { name, size });
                Ok(true)
            })?;
            Ok(entries)
        };
        let inside: Vec<Vec<Entry>> = parts.par_iter().map(index).collect::<Result<_, ImportError>>()?;
        let starts = inside.iter().scan(0, |start, entries| Some(std::mem::replace(start, *start + entries.len()))).collect();
        let entries = inside.concat();
        let sample_of = Arc::new(vec![NONE; entries.len()]);
        Ok((Self { parts: Arc::new(parts), starts, sample_of, ends: Vec::new(), cursor: Mutex::new(None) }, entries))
    }

    /// The archive of an entry: the first of its pieces if it was cut.
    pub(super) fn part_of(&self, entry: usize) -> usize {
        self.starts.partition_point(|start| *start <= entry).saturating_sub(1)
    }

    /// Says which entries make up each sample.
    pub(super) fn arrange(&mut self, samples: &[Vec<usize>]) {
        let mut sample_of = vec![NONE; self.sample_of.len()];
        for (sample, entries) in samples.iter().enumerate() {
            entries.iter().for_each(|&entry| sample_of[entry] = sample);
        }
        self.sample_of = Arc::new(sample_of);
        self.ends = samples.iter().map(|entries| entries.iter().copied().max().unwrap_or_default()).collect();
    }

    /// The files of the samples asked for, ascending.
    pub(super) fn fetch(&self, samples: &[Vec<usize>], asked: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        let mut place = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = asked.first().copied().unwrap_or_default();
        let mut cursor = match place.take() {
            Some(cursor) if cursor.next <= begin => cursor,
            _ => self.begin(),
        };
        let found: Result<_, _> = asked.iter().map(|&sample| cursor.take(sample, samples, &self.ends, &self.sample_of)).collect();
        *place = Some(cursor);
        found
    }

    /// Starts a pass at the beginning.
    fn begin(&self) -> Cursor {
        let (sender, files) = sync_channel(AHEAD);
        let (parts, sample_of) = (self.parts.clone(), self.sample_of.clone());
        std::thread::spawn(move || deliver(&parts, &sample_of, &sender));
        Cursor { files, held: HashMap::new(), next: 0 }
    }

    /// One file, by a pass of its own.
    pub(super) fn read(&self, entry: usize) -> Result<Bytes, ImportError> {
        let part = self.part_of(entry);
        let (mut at, mut found) = (self.starts[part], Bytes::new());
        unpack(&self.parts[part], |_, size, content| {
            if at == entry {
                found = whole(size, content)?;
            }
            at += 1;
            Ok(at <= entry)
        })?;
        Ok(found)
    }
}

impl Cursor {
    /// Goes on until `sample` is complete. Samples that are passed by are dropped.
    fn take(
        &mut self,
        sample: usize,
        samples: &[Vec<usize>],
        ends: &[usize],
        sample_of: &[usize],
    ) -> Result<Vec<Bytes>, ImportError> {
        loop {
            let (entry, bytes) = self.files.recv().unwrap_or_else(|_| Err(gone()))?;
            self.held.insert(entry, bytes);
            let completed = sample_of[entry];
            if ends[completed] != entry {
                continue;
            }
            self.next = completed + 1;
            let files = samples[completed].iter().map(|entry| self.held.remove(entry).ok_or_else(gone)).collect();
            if completed == sample {
                return files;
            }
        }
    }
}

/// The archive is not what it was when it was indexed.
fn gone() -> ImportError {
    ImportError::Archive { file: "import.source".into(), reason: "it changed while it was read".into() }
}

/// Unpacks all parts and sends the files of samples, in order, until nobody listens.
fn deliver(parts: &[Vec<PieceReader>], sample_of: &[usize], sender: &SyncSender<Result<(usize, Bytes), ImportError>>) {
    let mut entry = 0;
    for part in parts {
        let unpacked = unpack(part, |_, size, content| {
            let mut heard = true;
            if sample_of.get(entry).is_some_and(|sample| *sample != NONE) {
                heard = sender.send(Ok((entry, whole(size, content)?))).is_ok();
            }
            entry += 1;
            Ok(heard)
        });
        match unpacked {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                // Without a listener there is nobody to tell.
                let _ = sender.send(Err(error));
                return;
            }
        }
    }
}

fn whole(size: u64, content: &mut dyn Read) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(size as usize);
    content.read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Shows every file of one stream, with name and size, until `each` has enough; whether it had not.
fn unpack(part: &[PieceReader], mut each: impl FnMut(String, u64, &mut dyn Read) -> io::Result<bool>) -> Result<bool, ImportError> {
    let file = part.first().map(PieceReader::file).unwrap_or_default();
    let failed = |error| ImportError::of_io(file, error);
    let chained = part.iter().fold(Box::new(io::empty()) as Box<dyn Read>, |chain, piece| Box::new(chain.chain(piece.clone())));
    let mut archive = tar::Archive::new(MultiGzDecoder::new(BufReader::with_capacity(256 << 10, chained)));
    // Archives behind each other, and the checksum at the end is looked at.
    archive.set_ignore_zeros(true);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        if entry.header().entry_type().is_file() {
            let (name, size) = (name_of(&entry).map_err(failed)?, entry.size());
            if !each(name, size, &mut entry).map_err(failed)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Name of a file inside of a tar archive, without a leading `./`.
pub(super) fn name_of<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<String> {
    let path = entry.path()?;
    let name = path.to_str().ok_or_else(|| io::Error::other("a file name is not Unicode"))?;
    Ok(name.strip_prefix("./").unwrap_or(name).to_owned())
}
