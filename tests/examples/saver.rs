//! Saves checkpoints in a loop and does nothing else, so that tests can kill it hundreds of times in seconds: several processes share each
//! checkpoint as the workers of a run do, without a model.
//!
//! `RANK=0 WORLD_SIZE=2 saver URL ACKNOWLEDGED GENERATION NONCE FROM TO BYTES`: saves the steps after FROM up to TO, each worker two parts of
//! BYTES bytes. Rank 0 adds the number of every step to the file ACKNOWLEDGED that it has committed, and keeps two checkpoints.
#![allow(clippy::print_stderr)]

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::checkpoint::{Attempt, CheckpointError, CheckpointStore, Fence, Manifest, Part, Retention, VERSION};
use common::place::Place;
use common::storage::Store;
use serde_json::Value;

type Error = Box<dyn std::error::Error>;

/// Parts of each writer.
const PARTS: usize = 2;
/// A writer whose rank 0 is dead ends by itself, if nobody ends it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Saver {
    checkpoints: CheckpointStore,
    place: Place,
    acknowledged: String,
    nonce: u64,
    bytes: usize,
    fence: Option<Fence>,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, acknowledged, generation, nonce, from, to, bytes] = &arguments[..] else { return Err("see the source".into()) };
    let (from, to): (u64, u64) = (from.parse()?, to.parse()?);
    let place = Place::detect(|name| std::env::var(name).ok(), generation.parse()?)?;
    let checkpoints = CheckpointStore::new(Store::open(url)?);
    let mut saver =
        Saver { checkpoints, place, acknowledged: acknowledged.clone(), nonce: nonce.parse()?, bytes: bytes.parse()?, fence: None };
    if place.rank == 0 {
        saver.checkpoints.claim("torture").await?;
        saver.fence = Some(saver.checkpoints.fence().await?);
    }
    for step in from + 1..=to {
        saver.save(step).await?;
    }
    Ok(())
}

impl Saver {
    async fn save(&self, step: u64) -> Result<(), Error> {
        let number = self.nonce.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let attempt = self.checkpoints.join(step, self.place.generation, number, self.fence.clone());
        let mut parts = Vec::new();
        for index in 0..PARTS {
            let name = format!("part-{}-{index}", self.place.rank);
            parts.push(attempt.write_part(&name, vec![(step % 251) as u8; self.bytes].into()).await?);
        }
        attempt.write_share(self.place.rank, parts).await?;
        if self.place.rank > 0 {
            return self.wait_for(step).await;
        }
        self.commit(&attempt, step).await?;
        OpenOptions::new().create(true).append(true).open(&self.acknowledged)?.write_all(format!("{step}\n").as_bytes())?;
        // As in a run: the next save tries again.
        if let Err(error) = self.checkpoints.collect(Retention::last(2)).await {
            eprintln!("{error}");
        }
        Ok(())
    }

    async fn commit(&self, attempt: &Attempt, step: u64) -> Result<(), CheckpointError> {
        let parts: Vec<Part> = attempt.gather(self.place.world, |waited| waited > PATIENCE).await?;
        let manifest = Manifest {
            version: VERSION,
            run_id: "torture".into(),
            step,
            generation: self.place.generation,
            world: self.place.world,
            config_hash: String::new(),
            data_fingerprint: String::new(),
            parts,
            extra: Value::Null,
            figure: None,
            figure_of: common::config::BestBy::default(),
        };
        attempt.commit(&manifest).await
    }

    /// Until the checkpoint is committed, as a worker waits that saves again only when it is done with the save before.
    async fn wait_for(&self, step: u64) -> Result<(), Error> {
        let started = Instant::now();
        while !self.checkpoints.list().await?.iter().any(|listed| listed.step >= step) {
            if started.elapsed() > PATIENCE {
                return Err(format!("step {step} was not committed").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}
