//! Named files in a folder or inside of archives, which are read as they lie.
//!
//! | what | how a file is reached |
//! |---|---|
//! | a folder | by its name |
//! | `.zip` | by the directory at the archive's end |
//! | `.tar` | by an index, made once by hopping from header to header |
//! | `.tar.gz` | only in passing: the archive is unpacked in memory from its beginning, see [`stream`] |

mod samples;
mod stream;

use super::ImportError;
use super::source::{PieceReader, Source};
use bytes::Bytes;
use common::storage::Entry;
use rayon::prelude::*;
pub(super) use samples::{FileImporter, Members};
use std::io::{self, Read};
use stream::Stream;
use zip::ZipArchive;

/// Endings of images.
pub(super) const IMAGES: [&str; 4] = [".png", ".jpg", ".jpeg", ".webp"];

/// What tar archives are made of.
const BLOCK: u64 = 512;
/// Most bytes of a tar archive that are read at once, unless a single file has more.
const RUN: u64 = 8 << 20;

/// Files and the samples that they make up.
pub(super) struct Files {
    source: Source,
    entries: Vec<Entry>,
    /// Names of the archives, within the source.
    archives: Vec<String>,
    place: Place,
    samples: Vec<Vec<usize>>,
}

enum Place {
    Folder,
    /// The archives, and for each entry its archive and where it is in there.
    Archives {
        opened: Vec<Archive>,
        spots: Vec<Spot>,
    },
    Stream(Stream),
}

enum Archive {
    Zip(ZipArchive<PieceReader>),
    Tar(PieceReader),
}

/// Which archive, and which of its files: a number in a zip archive, the offset of the content in a tar archive.
struct Spot {
    archive: usize,
    at: u64,
}

impl Files {
    /// Lists the files of a folder, or those of the archives in it if it has no images of its own.
    pub(super) fn open(source: Source) -> Result<Self, ImportError> {
        let entries = source.list()?;
        let loose = entries.iter().any(|entry| is_image(&entry.name));
        let archives: Vec<Entry> = entries.iter().filter(|entry| Kind::of(&entry.name).is_some()).cloned().collect();
        if loose || archives.is_empty() {
            return Ok(Self { source, entries, archives: Vec::new(), place: Place::Folder, samples: Vec::new() });
        }
        let streams = archives.iter().filter(|entry| Kind::of(&entry.name) == Some(Kind::TarGz)).count();
        let readers: Vec<PieceReader> = archives.iter().map(|entry| source.reader(entry)).collect::<Result<_, _>>()?;
        let names = archives.iter().map(|entry| entry.name.clone()).collect();
        if streams == archives.len() {
            let (stream, entries) = Stream::open(readers)?;
            return Ok(Self { source, entries, archives: names, place: Place::Stream(stream), samples: Vec::new() });
        }
        if streams > 0 {
            let name = |packed: bool| archives.iter().find(|entry| (Kind::of(&entry.name) == Some(Kind::TarGz)) == packed);
            let [one, other] = [false, true].map(|packed| name(packed).map(|entry| entry.name.clone()).unwrap_or_default());
            return Err(ImportError::Mixed { url: source.url(), one, other });
        }
        let (mut entries, mut spots, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        let indexed = archives.par_iter().zip(readers).map(|(entry, reader)| match Kind::of(&entry.name) {
            Some(Kind::Zip) => open_zip(reader),
            _ => open_tar(reader),
        });
        for (archive, inside) in indexed.collect::<Result<Vec<_>, _>>()? {
            for (entry, at) in inside {
                entries.push(entry);
                spots.push(Spot { archive: opened.len(), at });
            }
            opened.push(archive);
        }
        Ok(Self { source, entries, archives: names, place: Place::Archives { opened, spots }, samples: Vec::new() })
    }

    /// Where they are, for messages.
    pub(super) fn url(&self) -> String {
        self.source.url()
    }

    /// The files. Their names are full paths within the folder or archive.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The file and the archive it is in, for messages.
    pub(super) fn name_url(&self, entry: usize) -> String {
        let name = &self.entries[entry].name;
        match &self.place {
            Place::Folder => self.source.name_url(name),
            _ => format!("{}: {name}", self.source.name_url(self.archive(entry))),
        }
    }

    /// Name of the archive that a file is in, within the source; empty in a folder of files.
    pub(super) fn archive(&self, entry: usize) -> &str {
        match &self.place {
            Place::Folder => "",
            Place::Stream(stream) => &self.archives[stream.part_of(entry)],
            Place::Archives { spots, .. } => &self.archives[spots[entry].archive],
        }
    }

    /// Says which files make up each sample, in an order of the caller's; returns the order in which they are kept and fetched. That is
    /// the caller's, but in streams that of the archive, in which each sample has its place where it is complete.
    pub(super) fn arrange(&mut self, samples: Vec<Vec<usize>>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..samples.len()).collect();
        if let Place::Stream(stream) = &mut self.place {
            order.sort_by_key(|&sample| samples[sample].iter().max());
            let samples: Vec<_> = order.iter().map(|&sample| samples[sample].clone()).collect();
            stream.arrange(&samples);
            self.samples = samples;
        } else {
            self.samples = samples;
        }
        order
    }

    /// The files of the samples asked for (ascending), each in the order given to [`Self::arrange`].
    pub(super) fn fetch(&self, samples: &[usize]) -> Result<Vec<Vec<Bytes>>, ImportError> {
        match &self.place {
            Place::Stream(stream) => stream.fetch(&self.samples, samples),
            _ => {
                let entries: Vec<usize> = samples.iter().flat_map(|&sample| &self.samples[sample]).copied().collect();
                let mut files = self.read_all(&entries)?.into_iter();
                Ok(samples.iter().map(|&sample| files.by_ref().take(self.samples[sample].len()).collect()).collect())
            }
        }
    }

    /// Files that can be reached at will, in the order asked. In tar archives, those that lie close together are read at once.
    fn read_all(&self, entries: &[usize]) -> Result<Vec<Bytes>, ImportError> {
        let Place::Archives { spots, .. } = &self.place else {
            return self.source.read_all(&entries.iter().map(|&entry| self.entries[entry].name.as_str()).collect::<Vec<_>>());
        };
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_unstable_by_key(|&at| (spots[entries[at]].archive, spots[entries[at]].at));
        let mut runs: Vec<Vec<usize>> = Vec::new();
        for at in order {
            match runs.last_mut() {
                Some(run) if self.belongs(entries[run[0]], entries[run[run.len() - 1]], entries[at]) => run.push(at),
                _ => runs.push(vec![at]),
            }
        }
        let read = |run: &Vec<usize>| self.read_run(&run.iter().map(|&at| entries[at]).collect::<Vec<_>>());
        let read: Vec<Vec<Bytes>> = runs.par_iter().map(read).collect::<Result<_, _>>()?;
        let mut files = vec![Bytes::new(); entries.len()];
        for (at, bytes) in runs.concat().into_iter().zip(read.concat()) {
            files[at] = bytes;
        }
        Ok(files)
    }

    /// Whether a file is read together with others that come before it, from `first` to `last`.
    fn belongs(&self, first: usize, last: usize, next: usize) -> bool {
        let Place::Archives { opened, spots } = &self.place else { return false };
        let Archive::Tar(reader) = &opened[spots[first].archive] else { return false };
        let (begin, end) = (spots[first].at, spots[last].at + self.entries[last].size);
        // A header and the rest of a record lie between neighbours.
        let near = spots[next].at.saturating_sub(end) <= reader.hop() + 2 * BLOCK;
        spots[next].archive == spots[first].archive && near && spots[next].at + self.entries[next].size - begin <= RUN
    }

    /// Files of one archive that are read at once, by their place in it.
    fn read_run(&self, entries: &[usize]) -> Result<Vec<Bytes>, ImportError> {
        let (Place::Archives { opened, spots }, [first, .., last]) = (&self.place, entries) else {
            return entries.iter().map(|&entry| self.read(entry)).collect();
        };
        let Archive::Tar(reader) = &opened[spots[*first].archive] else {
            return entries.iter().map(|&entry| self.read(entry)).collect();
        };
        let begin = spots[*first].at;
        let piece = reader.piece(begin..spots[*last].at + self.entries[*last].size);
        let piece = piece.map_err(|error| ImportError::of_io(&self.name_url(*first), error))?;
        let file = |&entry: &usize| {
            let at = (spots[entry].at - begin) as usize;
            piece.slice(at..at + self.entries[entry].size as usize)
        };
        Ok(entries.iter().map(file).collect())
    }

    /// The files of one sample, for messages.
    pub(super) fn sample(&self, sample: usize) -> &[usize] {
        &self.samples[sample]
    }

    /// One file. In a stream this is a walk from its beginning.
    pub(super) fn read(&self, entry: usize) -> Result<Bytes, ImportError> {
        let failed = |error| ImportError::of_io(&self.name_url(entry), error);
        match &self.place {
            Place::Folder => self.source.read(&self.entries[entry].name),
            Place::Stream(stream) => stream.read(entry),
            Place::Archives { opened, spots } => match &opened[spots[entry].archive] {
                Archive::Zip(archive) => {
                    let mut archive = archive.clone();
                    let mut file = archive.by_index(spots[entry].at as usize).map_err(|error| failed(error.into()))?;
                    // No more than is sure to be wanted: the size is only what the archive says.
                    let mut bytes = Vec::with_capacity(file.size().min(RUN) as usize);
                    file.read_to_end(&mut bytes).map_err(failed)?;
                    Ok(bytes.into())
                }
                Archive::Tar(reader) => {
                    let at = spots[entry].at;
                    reader.piece(at..at + self.entries[entry].size).map_err(failed)
                }
            },
        }
    }
}

/// Archives by the ends of their names.
#[derive(PartialEq, Eq)]
enum Kind {
    Zip,
    Tar,
    TarGz,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        [(".zip", Self::Zip), (".tar", Self::Tar), (".tar.gz", Self::TarGz), (".tgz", Self::TarGz)]
            .into_iter()
            .find_map(|(ending, kind)| name.ends_with(ending).then_some(kind))
    }
}

/// Whether a file is an image, by the end of its name.
pub(super) fn is_image(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Left behind in archives by macOS.
    IMAGES.iter().any(|ending| name.ends_with(ending)) && !name.contains("__macosx/")
}

type Opened = (Archive, Vec<(Entry, u64)>);

fn open_zip(reader: PieceReader) -> Result<Opened, ImportError> {
    let file = reader.file().to_owned();
    let failed = |error: zip::result::ZipError| ImportError::of_io(&file, error.into());
    let archive = ZipArchive::new(reader).map_err(failed)?;
    let mut inside = Vec::with_capacity(archive.len());
    for (index, name) in archive.file_names().enumerate() {
        let name = name.map_err(failed)?.into_owned();
        if !name.ends_with('/') {
            // Sizes are in the headers of the files, which are not read for that.
            inside.push((Entry { name, size: 0 }, index as u64));
        }
    }
    inside.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    Ok((Archive::Zip(archive), inside))
}

fn open_tar(reader: PieceReader) -> Result<Opened, ImportError> {
    let failed = |error| ImportError::of_io(reader.file(), error);
    let mut archive = tar::Archive::new(reader.clone());
    let (mut inside, mut end) = (Vec::new(), 0);
    for entry in archive.entries_with_seek().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (size, at) = (entry.size(), entry.raw_file_position());
        end = at.saturating_add(size).checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        if entry.header().entry_type().is_file() {
            inside.push((Entry { name: stream::name_of(&entry).map_err(failed)?, size }, at));
        }
    }
    // Zeros are the end; without them there was more.
    let marker =
        if end.saturating_add(BLOCK) <= reader.size() { reader.piece(end..end + BLOCK).map_err(failed)? } else { Bytes::new() };
    if marker.is_empty() || marker.iter().any(|byte| *byte != 0) {
        return Err(failed(io::Error::other("it ends without an end mark")));
    }
    inside.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    Ok((Archive::Tar(reader), inside))
}
