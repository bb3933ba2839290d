//! Writing: shards in any order by any number of workers, restartable, with a result that depends on neither.

use std::collections::BTreeMap;
use std::ops::Range;

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layout::{self, Filled, Rows};
use super::manifest::{Manifest, ShardEntry, ShardFile, VERSION, existing, problem_of};
use super::schema::Part;
use super::{Schema, ShardError};
use crate::sealed;
use crate::storage::{Entry, Store};

/// Ends the name of the object that says a shard is finished.
const ENTRY_SUFFIX: &str = ".entry.json";
/// Entries read at the same time.
const READS: usize = 8;

/// Writes one data set. Every worker opens one with the same arguments, writes the shards that are its own, and when all workers are
/// done one of them commits.
pub struct ShardWriter {
    store: Store,
    schema: Schema,
    metadata: Value,
    rows: u64,
    rows_per_shard: u64,
    settings: String,
    committed: Option<Manifest>,
}

/// What an entry object holds.
#[derive(Serialize, Deserialize)]
struct Finished {
    version: u32,
    settings: String,
    shard: ShardEntry,
}

impl ShardWriter {
    /// Prepares to write `rows` rows in shards of `rows_per_shard`. `metadata` (a JSON object) says what the data set is; with everything
    /// that determines its content inside, two data sets are the same exactly when their settings are. A place that holds another data
    /// set, complete or not, is [`ShardError::Occupied`]. Writes nothing.
    pub async fn open(store: Store, schema: Schema, metadata: Value, rows: u64, rows_per_shard: u64) -> Result<Self, ShardError> {
        schema.check()?;
        if rows_per_shard == 0 || rows.div_ceil(rows_per_shard) > u64::from(u32::MAX) || !metadata.is_object() {
            let reason = format!("{rows} rows in shards of {rows_per_shard} with metadata {metadata}");
            return Err(ShardError::Schema { reason });
        }
        let settings = settings_digest(&schema, &metadata, rows, rows_per_shard);
        let mut writer = Self { store, schema, metadata, rows, rows_per_shard, settings, committed: None };
        if let Some(manifest) = existing(&writer.store).await? {
            if manifest.settings != writer.settings {
                let difference = writer.difference(&manifest);
                return Err(ShardError::Occupied { url: writer.store.url().to_owned(), state: "a complete", difference });
            }
            writer.committed = Some(manifest);
        } else {
            writer.finished_shards().await?;
        }
        Ok(writer)
    }

    /// The complete data set, when there was one with these settings already: nothing is left to do.
    pub fn committed(&self) -> Option<&Manifest> {
        self.committed.as_ref()
    }

    /// Number of shards of the data set.
    pub fn shards(&self) -> u32 {
        self.rows.div_ceil(self.rows_per_shard) as u32
    }

    /// The global rows of shard `index`.
    pub fn shard_rows(&self, index: u32) -> Range<u64> {
        let start = (u64::from(index) * self.rows_per_shard).min(self.rows);
        start..(start + self.rows_per_shard).min(self.rows)
    }

    /// The shards that are finished, by index: those whose entry is intact and whose files are there in full size. A worker skips
    /// them. Divide shards among workers by index, not by place among the missing ones: workers may see different sets.
    pub async fn finished_shards(&self) -> Result<Vec<ShardEntry>, ShardError> {
        let objects = self.store.list("").await?;
        let sizes: BTreeMap<&str, u64> = objects.iter().map(|entry| (entry.name.as_str(), entry.size)).collect();
        let entries = finished_indices(&objects).into_iter().map(|index| self.read_entry(index));
        let entries: Vec<_> = futures::stream::iter(entries).buffered(READS).try_collect().await?;
        let whole = |shard: &ShardEntry| shard.files.iter().all(|file| sizes.get(file.name.as_str()) == Some(&file.bytes));
        Ok(entries.into_iter().flatten().filter(whole).collect())
    }

    /// A shard's entry, unless it is damaged: then the shard is written again.
    async fn read_entry(&self, index: u32) -> Result<Option<ShardEntry>, ShardError> {
        let name = entry_name(index);
        let document = match self.store.get(&name).await {
            Ok(document) => document,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let finished = match sealed::open::<Finished>(&document, 1..=VERSION) {
            Ok((finished, _)) => finished,
            Err(reason) => {
                tracing::warn!("{}: {reason}; the shard is written again", self.store.name_url(&name));
                return Ok(None);
            }
        };
        if finished.settings != self.settings {
            let difference = "schema, metadata, number of rows or rows per shard".to_owned();
            return Err(ShardError::Occupied { url: self.store.url().to_owned(), state: "an unfinished", difference });
        }
        let shard = finished.shard;
        let expected = self.shard_rows(index);
        let fits =
            shard.index == index && shard.rows == expected.end - expected.start && problem_of(&self.schema, &shard).is_none();
        Ok(fits.then_some(shard))
    }

    /// Writes shard `index`: its files, then the entry that says it is finished. `columns` are in the order of the schema, each with the
    /// rows [`Self::shard_rows`]: as they are, or encoded where the column says so.
    pub async fn write_shard<C>(&self, index: u32, columns: &[C]) -> Result<ShardEntry, ShardError>
    where
        for<'a> &'a C: Into<Rows<'a>>,
    {
        let columns: Vec<Rows<'_>> = columns.iter().map(Into::into).collect();
        let rows = self.check_columns(index, &columns)?;
        let failed = |reason: sealed::SealError| ShardError::Manifest { object: self.store.name_url(&entry_name(index)), reason };
        let mut shard = ShardEntry { index, rows, files: Vec::new() };
        for file in self.schema.files() {
            let fill = |&(index, part): &(usize, Part)| Filled::new(&self.schema.columns[index], part, columns[index]);
            let filled: Vec<_> = file.tensors.iter().filter_map(fill).collect();
            let (bytes, columns) = layout::encode(&filled).map_err(|error| failed(error.into()))?;
            let blake3 = blake3::hash(&bytes).to_hex().to_string();
            let suffix = if file.cold { ".cold.safetensors" } else { ".safetensors" };
            let name = format!("{index:05}-{}{suffix}", &blake3[..16]);
            let size = bytes.len() as u64;
            self.store.put(&name, bytes.into()).await?;
            shard.files.push(ShardFile { name, bytes: size, blake3, columns });
        }
        let finished = Finished { version: self.version(), settings: self.settings.clone(), shard };
        let (document, _) = sealed::seal(&finished).map_err(failed)?;
        self.store.put(&entry_name(index), document).await?;
        Ok(finished.shard)
    }

    /// The oldest format that can say what there is to say: programs from before the newest one read the others too.
    fn version(&self) -> u32 {
        if self.schema.is_encoded() { VERSION } else { 1 }
    }

    /// Takes back shards of a data set that is not complete, as [`Self::write_shard`] returned them.
    pub async fn discard(&self, shards: &[ShardEntry]) -> Result<(), ShardError> {
        for shard in shards {
            // The entry first: without it the files count for nothing.
            self.store.delete(&entry_name(shard.index)).await?;
            for file in &shard.files {
                self.store.delete(&file.name).await?;
            }
        }
        if let Some(folder) = self.store.local_path() {
            // Only if nothing else is in it.
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    fn check_columns(&self, index: u32, columns: &[Rows<'_>]) -> Result<u64, ShardError> {
        let refused = |reason: String| Err(ShardError::Rows { url: self.store.url().to_owned(), shard: index, reason });
        if index >= self.shards() {
            return refused(format!("the data set has only {} shards", self.shards()));
        }
        if columns.len() != self.schema.columns.len() {
            return refused(format!("expected {} columns, got {}", self.schema.columns.len(), columns.len()));
        }
        let range = self.shard_rows(index);
        let rows = range.end - range.start;
        for (column, data) in self.schema.columns.iter().zip(columns) {
            let (name, expected) = (&column.name, rows * column.row_bytes() as u64);
            match (data, column.encoding) {
                (Rows::Fixed(data), None) if data.len() as u64 == expected => {}
                (Rows::Encoded(encoded), Some(_)) if encoded.len() as u64 == rows => {}
                (Rows::Fixed(data), None) => {
                    return refused(format!("column {name} needs {expected} bytes for {rows} rows, got {}", data.len()));
                }
                (Rows::Encoded(encoded), Some(_)) => {
                    return refused(format!("column {name} needs {rows} encoded rows, got {}", encoded.len()));
                }
                (Rows::Fixed(_), Some(encoding)) => return refused(format!("column {name} needs rows encoded as {encoding}")),
                (Rows::Encoded(_), None) => return refused(format!("column {name} needs rows that are not encoded")),
            }
        }
        Ok(rows)
    }

    /// Completes the data set: writes the manifest, then clears away the entries and what interrupted writers left. Call it once, when
    /// all workers have written their shards; on a data set that is complete already it only clears away.
    pub async fn commit(&self) -> Result<Manifest, ShardError> {
        let manifest = match existing(&self.store).await? {
            Some(manifest) if manifest.settings == self.settings => manifest,
            Some(manifest) => {
                let difference = self.difference(&manifest);
                return Err(ShardError::Occupied { url: self.store.url().to_owned(), state: "a complete", difference });
            }
            None => self.write_manifest().await?,
        };
        for index in finished_indices(&self.store.list("").await?) {
            self.store.delete(&entry_name(index)).await?;
        }
        self.store.remove_unfinished("");
        Ok(manifest)
    }

    async fn write_manifest(&self) -> Result<Manifest, ShardError> {
        let shards = self.finished_shards().await?;
        let missing: Vec<u32> = (0..self.shards()).filter(|index| !shards.iter().any(|shard| shard.index == *index)).collect();
        if let Some(&first) = missing.first() {
            let (url, missing) = (self.store.url().to_owned(), missing.len());
            return Err(ShardError::Unfinished { url, missing, shards: self.shards(), first });
        }
        let mut manifest = Manifest {
            version: self.version(),
            settings: self.settings.clone(),
            schema: self.schema.clone(),
            rows_per_shard: self.rows_per_shard,
            metadata: self.metadata.clone(),
            shards,
            fingerprint: String::new(),
        };
        manifest.write(&self.store).await?;
        Ok(manifest)
    }

    /// What a complete data set has otherwise than this writer would, in words.
    fn difference(&self, manifest: &Manifest) -> String {
        let mut differences = Vec::new();
        if manifest.schema != self.schema {
            differences.push("schema".to_owned());
        }
        if manifest.rows() != self.rows {
            differences.push(format!("number of rows ({}, not {})", manifest.rows(), self.rows));
        }
        if manifest.rows_per_shard != self.rows_per_shard {
            differences.push(format!("number of rows per shard ({}, not {})", manifest.rows_per_shard, self.rows_per_shard));
        }
        let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let (theirs, ours) = (fields(&manifest.metadata), fields(&self.metadata));
        let keys: std::collections::BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
        for key in keys.into_iter().filter(|key| theirs.get(*key) != ours.get(*key)) {
            let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            differences.push(format!("{key} ({}, not {})", show(theirs.get(key)), show(ours.get(key))));
        }
        differences.join(", ")
    }
}

/// Digest of everything that the writer was asked for.
fn settings_digest(schema: &Schema, metadata: &Value, rows: u64, rows_per_shard: u64) -> String {
    let settings = serde_json::json!({"schema": schema, "metadata": metadata, "rows": rows, "rows_per_shard": rows_per_shard});
    blake3::hash(settings.to_string().as_bytes()).to_hex().to_string()
}

fn entry_name(index: u32) -> String {
    format!("{index:05}{ENTRY_SUFFIX}")
}

/// Indices of the shards that have an entry, in order.
pub(super) fn finished_indices(objects: &[Entry]) -> Vec<u32> {
    let index = |name: &str| name.strip_suffix(ENTRY_SUFFIX)?.parse().ok();
    let mut indices: Vec<u32> = objects.iter().filter_map(|entry| index(&entry.name)).collect();
    indices.sort_unstable();
    indices
}
