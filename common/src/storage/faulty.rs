//! A store in memory that fails on command, for tests: a crash after any number of writes, lost answers, conflicts that are none, flipped
//! bits, an unreachable server.
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::Store;

/// The switches of a store made by [`Faults::store`].
#[derive(Debug, Default)]
pub(crate) struct Faults {
    inner: InMemory,
    /// Reads so far.
    pub(crate) reads: AtomicU64,
    /// Writes and deletions that succeed before all fail.
    pub(crate) writes_left: AtomicU64,
    /// Whether the first write that fails takes effect all the same: the answer is lost, not the request.
    pub(crate) last_write_lands: AtomicBool,
    /// The next reads that return one flipped bit.
    pub(crate) flips: AtomicU64,
    /// Whether reads fail.
    pub(crate) unreachable: AtomicBool,
    /// The next creations that take effect, while their answers are lost.
    pub(crate) lost_answers: AtomicU64,
    /// The next creations that are refused as if the object were there, which it is not.
    pub(crate) false_conflicts: AtomicU64,
}

impl Faults {
    pub(crate) fn store() -> (Arc<Self>, Store) {
        let faults = Arc::new(Self { writes_left: AtomicU64::new(u64::MAX), ..Self::default() });
        let backend = Arc::new(Faulty(faults.clone()));
        (faults, Store { backend, prefix: Path::default(), url: "memory://faulty".into(), local: None })
    }

    /// From now on, `writes` writes succeed and then none.
    pub(crate) fn crash_after(&self, writes: u64, last_write_lands: bool) {
        self.writes_left.store(writes, SeqCst);
        self.last_write_lands.store(last_write_lands, SeqCst);
    }

    /// Writes succeed again.
    pub(crate) fn restart(&self) {
        self.crash_after(u64::MAX, false);
    }

    /// Whether this write takes effect, and what its caller hears.
    fn admit(&self) -> (bool, Result<()>) {
        match self.writes_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => (true, Ok(())),
            Err(_) => (self.last_write_lands.swap(false, SeqCst), Err(failure())),
        }
    }
}

/// Whether it is one of the next few.
fn counts_down(left: &AtomicU64) -> bool {
    left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "switched off".into() }
}

#[derive(Debug)]
struct Faulty(Arc<Faults>);

impl fmt::Display for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (lands, answer) = self.0.admit();
        if !lands {
            return Err(failure());
        }
        let creates = options.mode == PutMode::Create;
        if creates && counts_down(&self.0.false_conflicts) {
            return Err(Error::AlreadyExists { path: location.to_string(), source: "409 Conflict".into() });
        }
        let result = self.0.inner.put_opts(location, payload, options).await?;
        if creates && counts_down(&self.0.lost_answers) {
            return Err(failure());
        }
        answer.map(|()| result)
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.0.unreachable.load(SeqCst) {
            return Err(failure());
        }
        let head = options.head;
        let mut result = self.0.inner.get_opts(location, options).await?;
        if !head {
            self.0.reads.fetch_add(1, SeqCst);
        }
        if head || !counts_down(&self.0.flips) {
            return Ok(result);
        }
        let GetResultPayload::Stream(stream) = result.payload else { unreachable!("memory streams") };
        let mut bytes = stream.try_collect::<Vec<_>>().await?.concat();
        *bytes.last_mut().unwrap() ^= 1;
        result.payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes.into()) }).boxed());
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let faults = self.0.clone();
        let delete = move |location: Result<Path>| {
            let faults = faults.clone();
            async move {
                let location = location?;
                let (lands, answer) = faults.admit();
                if lands {
                    faults.inner.delete(&location).await?;
                }
                answer.map(|()| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.0.unreachable.load(SeqCst) {
            return futures::stream::once(async { Err(failure()) }).boxed();
        }
        self.0.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.inner.copy_opts(from, to, options).await
    }
}
