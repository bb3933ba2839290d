//! `orchestrator shards stats`: range, mean and deviation of the numbers of each column, and the sizes of encoded rows.

use std::process::ExitCode;

use common::shards::{Column, DType, Dataset, OwnedRows};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Split, open};
use crate::commands::checkpoints::reading::Reading;
use crate::commands::checkpoints::table::{Table, plain};
use crate::commands::output::{colours, print};
use crate::exit::Failure;

/// Rows read at a time.
const BATCH: usize = 256;

/// Figures of a column.
#[derive(Debug, Default, Serialize)]
struct Figures {
    count: u64,
    mean: f64,
    minimum: Option<f64>,
    maximum: Option<f64>,
    not_finite: u64,
    /// Sum of squared distances from the mean (Welford 1962).
    #[serde(skip)]
    squares: f64,
}

impl Figures {
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        self.count += 1;
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
        self.minimum = Some(self.minimum.map_or(value, |least| least.min(value)));
        self.maximum = Some(self.maximum.map_or(value, |most| most.max(value)));
    }

    fn deviation(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.squares / self.count as f64).sqrt() }
    }
}

/// Prints a table per split, over at most `rows` rows that are spread evenly over the data set.
pub(super) async fn run(url: &str, rows: u64, as_json: bool) -> Result<ExitCode, Failure> {
    let mut all = Vec::new();
    for split in open(url).await? {
        let (url, found) = (split.store.url().to_owned(), figures(split, rows.max(1)).await?);
        if !as_json {
            print(&text(&url, &found))?;
        }
        let columns: Vec<Value> = found.columns.iter().map(|(column, figures)| row(column, figures)).collect();
        all.push(json!({"url": url, "rows": found.rows, "rows_read": found.read, "columns": columns}));
    }
    if as_json {
        print(&format!("{:#}\n", json!({"data_sets": all})))?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Found {
    rows: u64,
    read: usize,
    columns: Vec<(Column, Figures)>,
}

async fn figures(split: Split, most: u64) -> Result<Found, Failure> {
    let total = split.manifest.rows();
    let picked: Vec<u64> =
        (0..most.min(total)).map(|index| (u128::from(index) * u128::from(total) / u128::from(most.min(total))) as u64).collect();
    let columns = split.manifest.schema.columns.clone();
    let dataset = Dataset::open(split.store, 64 << 20).await.map_err(anyhow::Error::from)?;
    let reading = Reading::of(columns.iter().map(|column| picked.len() as u64 * column.row_bytes() as u64).sum());
    let mut found = Vec::new();
    for column in columns {
        reading.now(column.name.clone());
        let mut figures = Figures::default();
        for rows in picked.chunks(BATCH) {
            match dataset.read(&column.name, rows).await.map_err(anyhow::Error::from)? {
                OwnedRows::Fixed(bytes) => numbers(column.dtype, &bytes, |value| figures.add(value)),
                OwnedRows::Encoded(rows) => rows.iter().for_each(|row| figures.add(row.len() as f64)),
            }
            reading.read((rows.len() * column.row_bytes()) as u64);
        }
        found.push((column, figures));
    }
    Ok(Found { rows: total, read: picked.len(), columns: found })
}

/// The numbers in little-endian bytes.
fn numbers(dtype: DType, bytes: &[u8], mut each: impl FnMut(f64)) {
    match dtype {
        DType::U8 => bytes.iter().for_each(|byte| each(f64::from(*byte))),
        DType::F16 => bytes.as_chunks().0.iter().for_each(|bytes| each(half::f16::from_le_bytes(*bytes).to_f64())),
        DType::F32 => bytes.as_chunks().0.iter().for_each(|bytes| each(f64::from(f32::from_le_bytes(*bytes)))),
        DType::I64 => bytes.as_chunks().0.iter().for_each(|bytes| each(i64::from_le_bytes(*bytes) as f64)),
        DType::U64 => bytes.as_chunks().0.iter().for_each(|bytes| each(u64::from_le_bytes(*bytes) as f64)),
    }
}

fn text(url: &str, found: &Found) -> String {
    let mut table = Table::new(["<column", "<of", "mean", "deviation", "minimum", "maximum", "not finite"]);
    let figure = |value: f64| if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.4}") };
    for (column, figures) in &found.columns {
        let of = if column.encoding.is_some() { "bytes of a row" } else { "numbers" };
        let bound = |value: Option<f64>| value.map_or_else(String::new, figure);
        let strange = if figures.not_finite > 0 { figures.not_finite.to_string() } else { String::new() };
        let cells = [column.name.clone(), of.into(), figure(figures.mean), figure(figures.deviation())];
        let [name, of, mean, deviation] = cells;
        table.push([name, of, mean, deviation, bound(figures.minimum), bound(figures.maximum), strange].map(plain));
    }
    format!("{url}: {} of {} rows\n{}", found.read, found.rows, table.text(colours()))
}

fn row(column: &Column, figures: &Figures) -> Value {
    let of = if column.encoding.is_some() { "row-bytes" } else { "numbers" };
    json!({"name": column.name, "of": of, "figures": figures, "deviation": figures.deviation()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let mut figures = Figures::default();
        let half = [1.0_f32, 2.0, 6.0, f32::NAN].map(half::f16::from_f32);
        let bytes: Vec<u8> = half.iter().flat_map(|value| value.to_le_bytes()).collect();
        numbers(DType::F16, &bytes, |value| figures.add(value));
        assert_eq!(
            (figures.count, figures.mean, figures.minimum, figures.maximum, figures.not_finite),
            (3, 3.0, Some(1.0), Some(6.0), 1)
        );
        assert!((figures.deviation() - (14.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        let mut wide = Vec::new();
        numbers(DType::I64, &(-5_i64).to_le_bytes(), |value| wide.push(value));
        assert_eq!(wide, [-5.0]);
    }
}
