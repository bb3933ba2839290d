//! What rank 0 writes down while a job runs: `metrics.jsonl`, one JSON object per record, and an event file for TensorBoard.
//!
//! A thread does the writing, so the job never waits for a file system.

mod tensorboard;

use crate::evaluation::{self, PictureError};
use anyhow::Context;
use common::run_dir::{RunDir, replace_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use tensorboard::EventFile;
pub(crate) use tensorboard::masked_crc;

/// One line of `metrics.jsonl`. After a restart the steps since the resumed checkpoint appear again, with a higher generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps done.
    pub step: u64,
    /// The generation of workers that wrote the record.
    pub generation: u64,
    /// When, as seconds since 1970.
    pub time: f64,
    /// `loss`, `grad_norm`, `learning_rate/backbone`, `images_per_second` and so on.
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
}

/// A picture for TensorBoard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Steps done.
    pub step: u64,
    /// Its name.
    pub tag: String,
    /// Width and height in pixels.
    pub size: [u32; 2],
    /// A PNG file, RGB.
    pub png: Vec<u8>,
}

/// A picture that is still to be drawn.
struct Drawing {
    step: u64,
    tag: &'static str,
    file: PathBuf,
    draw: Box<dyn FnOnce() -> Result<evaluation::Picture, PictureError> + Send>,
}

enum Entry {
    Record(Record),
    Picture(Picture),
    Drawing(Drawing),
}

/// Figures that are not the job's own, asked for before each record.
type Beside = Box<dyn FnMut() -> Vec<(&'static str, f64)> + Send>;

/// Hands records to the writing thread. Dropping it waits until all are written.
pub struct MetricsWriter {
    beside: Mutex<Option<Beside>>,
    entries: Option<Sender<Entry>>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsWriter {
    /// Opens the files of `run` for a generation that starts or resumes after `step` steps.
    ///
    /// # Errors
    /// Any failure of the file system.
    pub fn open(run: &RunDir, generation: u64, step: u64) -> io::Result<Self> {
        fs::create_dir_all(run.path())?;
        let lines = OpenOptions::new().create(true).append(true).open(run.metrics())?;
        end_torn_line(&lines, &run.metrics())?;
        let events = EventFile::create(&run.tensorboard(), &format!("gen-{generation:03}"), step + 1)?;
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new().name("metrics".into()).spawn(move || write_all(&receiver, lines, events))?;
        Ok(Self { beside: Mutex::new(None), entries: Some(sender), thread: Some(thread) })
    }

    /// The same with further figures, which [`beside_figures`](Self::beside_figures) asks `figures` for.
    #[must_use]
    pub fn beside(mut self, figures: impl FnMut() -> Vec<(&'static str, f64)> + Send + 'static) -> Self {
        self.beside = Mutex::new(Some(Box::new(figures)));
        self
    }

    /// Figures that are not the job's own, since they were asked for last.
    pub fn beside_figures(&self) -> Vec<(&'static str, f64)> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map_or_else(Vec::new, |beside| beside())
    }

    /// Queues a record.
    pub fn record(&self, record: Record) {
        self.send(Entry::Record(record));
    }

    /// Queues a record of figures that are not of steps, and so without those beside.
    pub fn evaluation(&self, record: Record) {
        self.send(Entry::Record(record));
    }

    /// Queues a picture that the writing thread draws, for TensorBoard and for `file`, a PNG.
    pub fn drawing(
        &self,
        step: u64,
        tag: &'static str,
        file: PathBuf,
        draw: impl FnOnce() -> Result<evaluation::Picture, PictureError> + Send + 'static,
    ) {
        self.send(Entry::Drawing(Drawing { step, tag, file, draw: Box::new(draw) }));
    }

    /// Queues a picture.
    pub fn picture(&self, picture: Picture) {
        self.send(Entry::Picture(picture));
    }

    fn send(&self, entry: Entry) {
        if let Some(entries) = &self.entries {
            // A thread that has stopped writing has said why in the log; training goes on without metrics.
            let _ = entries.send(entry);
        }
    }
}

impl Drop for MetricsWriter {
    fn drop(&mut self) {
        self.entries = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process that was killed while it wrote may have left half a line: it must not swallow the next one.
fn end_torn_line(mut lines: &File, path: &Path) -> io::Result<()> {
    let content = fs::read(path)?;
    if content.last().is_some_and(|byte| *byte != b'\n') { lines.write_all(b"\n") } else { Ok(()) }
}

fn write_all(entries: &Receiver<Entry>, mut lines: File, mut events: EventFile) {
    for entry in entries {
        if let Err(error) = write(entry, &mut lines, &mut events) {
            tracing::error!("metrics are no longer written: {error}");
            return;
        }
    }
}

fn write(entry: Entry, lines: &mut File, events: &mut EventFile) -> io::Result<()> {
    match entry {
        Entry::Record(record) => {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            lines.write_all(&line)?;
            events.scalars(record.step, record.figures.iter().map(|(name, value)| (name.as_str(), *value)))?;
        }
        Entry::Drawing(drawing) => match drawing.finished() {
            Ok(picture) => events.picture(picture.step, &picture.tag, picture.size, picture.png)?,
            // Figures are worth going on for.
            Err(error) => tracing::warn!("a picture is missing: {error:#}"),
        },
        Entry::Picture(picture) => events.picture(picture.step, &picture.tag, picture.size, picture.png)?,
    }
    events.flush()
}

impl Drawing {
    /// Draws it and writes its file.
    fn finished(self) -> anyhow::Result<Picture> {
        let Self { step, tag, file, draw } = self;
        let picture = draw()?;
        let (size, png) = ([picture.width() as u32, picture.height() as u32], picture.to_png()?);
        file.parent().map_or(Ok(()), fs::create_dir_all).with_context(|| file.display().to_string())?;
        replace_file(&file, &png, 0o644).with_context(|| file.display().to_string())?;
        Ok(Picture { step, tag: tag.into(), size, png })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_files_hold_every_record_across_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("run"));
        let record = |step, generation, loss| Record {
            step,
            generation,
            time: 2.5,
            figures: BTreeMap::from([("loss".to_owned(), loss), ("learning_rate/unet".to_owned(), 1e-4)]),
        };
        let writer = MetricsWriter::open(&run, 1, 0).unwrap();
        writer.record(record(10, 1, 0.5));
        writer.picture(Picture { step: 10, tag: "segmentation".into(), size: [2, 1], png: vec![1, 2, 3] });
        drop(writer);
        OpenOptions::new().append(true).open(run.metrics()).unwrap().write_all(br#"{"step": 2"#).unwrap();
        let writer = MetricsWriter::open(&run, 2, 10).unwrap();
        writer.record(record(20, 2, 0.25));
        let file = run.training_picture(20);
        writer.drawing(20, "evaluation", file.clone(), || Ok(evaluation::Picture::blank(2)));
        writer.drawing(20, "evaluation", file.clone(), || evaluation::Picture::from_rgb(2, 2, vec![0]));
        drop(writer);
        let drawn = fs::read(&file).unwrap();

        let text = fs::read_to_string(run.metrics()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(serde_json::from_str::<Record>(lines[0]).unwrap(), record(10, 1, 0.5));
        assert_eq!(serde_json::from_str::<Record>(lines[2]).unwrap(), record(20, 2, 0.25));

        let mut files: Vec<_> = fs::read_dir(run.tensorboard()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_by_key(|path| path.extension().map(ToOwned::to_owned));
        let events: Vec<_> = files.iter().flat_map(|path| tensorboard::tests::read(path)).collect();
        let tags: Vec<_> = events.iter().map(|(step, tag, value)| (*step, tag.as_str(), (*value * 1e6) as i64)).collect();
        let expected = [
            (1, "start", 0),
            (10, "learning_rate/unet", 99),
            (10, "loss", 500_000),
            (10, "segmentation", 3_000_000),
            (11, "start", 0),
            (20, "learning_rate/unet", 99),
            (20, "loss", 250_000),
            (20, "evaluation", drawn.len() as i64 * 1_000_000),
        ];
        assert_eq!(tags, expected);
    }
}
