//! The communication thread: it owns the backend and does what it is asked to, in the order in which it is asked, while the thread that
//! asks computes on.
//!
//! Two clocks run: the time that the thread spends in the backend ([`Communicator::busy`]), and the time that the job's own thread waits
//! for it, which the worker's [`Activity`] books as [`Phase::Collective`]. Their difference is what computation has hidden.

use super::ordering::{Lane, Moment};
use super::{Aborter, Collective, CollectiveError, Solo};
use common::config::Wire;
use common::control::{Activity, Phase};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor, no_grad};

/// All workers, reached through a thread of its own. Dropping it leaves the backend in an orderly way.
pub struct Communicator {
    submitter: Submitter,
    rank: usize,
    world: usize,
    aborter: Aborter,
    aborted: Arc<AtomicBool>,
    busy: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// A way to ask the communication thread for sums, from whichever thread has the addends ready.
#[derive(Clone)]
pub struct Submitter {
    /// None in a world of one, where a sum is there at once.
    requests: Option<Sender<Request>>,
    /// Where the addends are computed.
    device: Device,
    activity: Arc<Activity>,
}

/// A sum that was asked for.
#[must_use = "the tensor belongs to the communication thread until the ticket was waited for"]
pub struct Ticket(Result<Option<Receiver<Answer>>, CollectiveError>);

struct Request {
    operation: Operation,
    /// When its tensor is there.
    ready: Moment,
    answer: SyncSender<Answer>,
}

/// When the result is there, at the latest.
type Answer = Result<Moment, CollectiveError>;

/// How often an idle thread asks the backend whether all is well.
const CHECK_EVERY: Duration = Duration::from_millis(100);

enum Operation {
    Sum(Tensor, Wire),
    Broadcast(Tensor, usize),
    Barrier,
}

/// What the thread says of itself once it has connected.
type Connected = Result<(usize, usize, Aborter), CollectiveError>;

impl Communicator {
    /// Starts the thread, which connects the workers by `connect` first; what they sum is computed on `device`.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn start(
        connect: impl FnOnce() -> Result<Box<dyn Collective>, CollectiveError> + Send + 'static,
        device: Device,
        activity: Arc<Activity>,
    ) -> Result<Self, CollectiveError> {
        let (requests, inbox) = channel();
        let (told, connected) = sync_channel::<Connected>(1);
        let busy = Arc::new(AtomicU64::new(0));
        let clock = busy.clone();
        let body = move || match connect() {
            Ok(mut backend) => {
                let _ = told.send(Ok((backend.rank(), backend.world(), backend.aborter())));
                serve(backend.as_mut(), &inbox, &clock);
            }
            Err(error) => drop(told.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("communication".into()).spawn(body);
        let thread = thread.map_err(|error| CollectiveError::Transport { operation: "start", cause: error.to_string() })?;
        let (rank, world, aborter) = connected.recv().unwrap_or_else(|_| Err(gone("connect")))?;
        let submitter = Submitter { requests: (world > 1).then_some(requests), device, activity };
        let aborted = Arc::<AtomicBool>::default();
        let flag = aborted.clone();
        let aborter: Aborter = Arc::new(move |code| {
            flag.store(true, Ordering::Relaxed);
            aborter(code);
        });
        Ok(Self { submitter, rank, world, aborter, aborted, busy, thread: Some(thread) })
    }

    /// The only worker of a world of one: nothing is ever waited for, and there is no thread.
    pub fn alone(activity: Arc<Activity>) -> Self {
        let submitter = Submitter { requests: None, device: Device::Cpu, activity };
        let (aborter, aborted) = (Solo.aborter(), Arc::default());
        Self { submitter, rank: 0, world: 1, aborter, aborted, busy: Arc::default(), thread: None }
    }

    /// For whoever shall ask for sums from another thread.
    pub fn submitter(&self) -> Submitter {
        self.submitter.clone()
    }

    /// How long the thread was busy with the backend so far.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
    }

    fn wait_for(&self, operation: Operation) -> Result<(), CollectiveError> {
        self.submitter.wait(self.submitter.submit(operation))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.submitter.requests = None;
        // After an abort the thread may be inside of an operation that never ends.
        if let Some(thread) = self.thread.take().filter(|_| !self.aborted.load(Ordering::Relaxed)) {
            // A panic of the thread was reported by its hook; whoever waited for it has an error.
            let _ = thread.join();
        }
    }
}

impl Submitter {
    /// Asks for the sum of `tensor` over all workers, in place, in the numbers of `wire`.
    pub fn sum(&self, tensor: &Tensor, wire: Wire) -> Ticket {
        self.submit(Operation::Sum(tensor.shallow_clone(), wire))
    }

    /// Whether it is a world of one.
    pub fn is_alone(&self) -> bool {
        self.requests.is_none()
    }

    /// Waits until a sum is there.
    ///
    /// # Errors
    /// A tensor that the backend cannot move, or a failure of the transport.
    pub fn wait(&self, ticket: Ticket) -> Result<(), CollectiveError> {
        let Some(answer) = ticket.0? else { return Ok(()) };
        let before = self.activity.enter(Phase::Collective);
        let result = answer.recv().unwrap_or_else(|_| Err(gone("an operation")));
        self.activity.enter(before);
        result?.before_the_rest(self.device)
    }

    fn submit(&self, operation: Operation) -> Ticket {
        let Some(requests) = &self.requests else { return Ticket(Ok(None)) };
        let (answer, ticket) = sync_channel(1);
        let ask = |ready| {
            // If the thread is gone, the answer is dropped with the request, and that is what `wait` sees.
            let _ = requests.send(Request { operation, ready, answer });
            Some(ticket)
        };
        Ticket(Moment::now(self.device).map(ask))
    }
}

fn gone(operation: &'static str) -> CollectiveError {
    CollectiveError::Transport { operation, cause: "the communication thread has ended".into() }
}

/// Does what is asked until nobody can ask any more.
fn serve(backend: &mut dyn Collective, inbox: &Receiver<Request>, busy: &AtomicU64) {
    // Rounding and copying, too, take their place in the backend's queue.
    let entered = backend.lane().map(Lane::enter).transpose();
    let mut failure = entered.as_ref().err().map(ToString::to_string);
    loop {
        let Request { operation, ready, answer } = match inbox.recv_timeout(CHECK_EVERY) {
            Ok(request) => request,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                if failure.is_none() {
                    failure = backend.check().err().map(|error| error.to_string());
                }
                continue;
            }
        };
        let started = Instant::now();
        let result = match &failure {
            Some(cause) => Err(CollectiveError::Transport { operation: "an earlier operation", cause: cause.clone() }),
            None => carry_out(backend, &operation, &ready),
        };
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        busy.fetch_add(nanoseconds, Ordering::Relaxed);
        drop(operation);
        // Nobody listens any more when the job has failed meanwhile.
        let _ = answer.send(result);
    }
}

fn carry_out(backend: &mut dyn Collective, operation: &Operation, ready: &Moment) -> Answer {
    let device = backend.device();
    ready.before_the_rest(device)?;
    match operation {
        Operation::Sum(tensor, wire) => sum(backend, tensor, *wire)?,
        Operation::Broadcast(tensor, root) => backend.broadcast(tensor, *root)?,
        Operation::Barrier => backend.barrier()?,
    }
    Moment::now(device)
}

fn sum(backend: &mut dyn Collective, tensor: &Tensor, wire: Wire) -> Result<(), CollectiveError> {
    if wire == Wire::Fp32 || tensor.kind() != Kind::Float {
        return backend.all_reduce_sum(tensor);
    }
    let rounded = tensor.to_kind(Kind::BFloat16);
    backend.all_reduce_sum(&rounded)?;
    no_grad(|| tensor.shallow_clone().copy_(&rounded));
    Ok(())
}

impl Collective for Communicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.wait_for(Operation::Sum(tensor.shallow_clone(), Wire::Fp32))
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        super::check_root(root, self.world)?;
        self.wait_for(Operation::Broadcast(tensor.shallow_clone(), root))
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.wait_for(Operation::Barrier)
    }

    fn aborter(&self) -> Aborter {
        self.aborter.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::collectives::InProcess;
    use std::sync::mpsc::Sender;

    fn tensor(value: f64) -> Tensor {
        Tensor::full([3], value, (Kind::Float, Device::Cpu))
    }

    fn start(backend: impl Collective + 'static) -> Communicator {
        Communicator::start(move || Ok(Box::new(backend)), Device::Cpu, Arc::default()).unwrap()
    }

    #[test]
    fn sums_are_under_way_together_and_come_back_in_order() {
        std::thread::scope(|scope| {
            for end in InProcess::world(2) {
                scope.spawn(move || {
                    let communicator = start(end);
                    let submitter = communicator.submitter();
                    let addends: Vec<Tensor> = (0..20).map(|index| tensor(f64::from(index))).collect();
                    let tickets: Vec<Ticket> = addends.iter().map(|addend| submitter.sum(addend, Wire::Fp32)).collect();
                    for (index, (ticket, addend)) in tickets.into_iter().zip(&addends).enumerate() {
                        submitter.wait(ticket).unwrap();
                        assert_eq!(*addend, tensor(2.0 * index as f64));
                    }
                    assert!(communicator.busy() > Duration::ZERO);
                });
            }
        });
    }

    /// A backend whose sums hang, or fail when it is asked how it is.
    struct Broken {
        entered: Sender<()>,
        hangs: bool,
    }

    impl Collective for Broken {
        fn rank(&self) -> usize {
            0
        }
        fn world(&self) -> usize {
            2
        }
        fn all_reduce_sum(&mut self, _tensor: &Tensor) -> Result<(), CollectiveError> {
            self.entered.send(()).unwrap();
            match self.hangs {
                true => loop {
                    std::thread::park();
                },
                false => Ok(()),
            }
        }
        fn broadcast(&mut self, _tensor: &Tensor, _root: usize) -> Result<(), CollectiveError> {
            Ok(())
        }
        fn barrier(&mut self) -> Result<(), CollectiveError> {
            Ok(())
        }
        fn check(&mut self) -> Result<(), CollectiveError> {
            self.entered.send(()).unwrap();
            Err(CollectiveError::Transport { operation: "a sum", cause: "rank 1 is gone".into() })
        }
        fn aborter(&self) -> Aborter {
            Solo.aborter()
        }
    }

    #[test]
    fn whoever_gives_up_does_not_wait_for_a_sum_that_never_ends() {
        let (entered, seen) = channel();
        let communicator = start(Broken { entered, hangs: true });
        let _ticket = communicator.submitter().sum(&tensor(1.0), Wire::Fp32);
        seen.recv().unwrap();
        communicator.abort(1);
        drop(communicator);
    }

    /// On a GPU a sum is only queued when it is answered; its failure shows while nobody asks for anything.
    #[test]
    fn a_failure_that_shows_later_is_that_of_the_next_operation() {
        let (entered, seen) = channel();
        let mut communicator = start(Broken { entered, hangs: false });
        seen.recv().unwrap();
        let error = communicator.all_reduce_sum(&tensor(1.0)).unwrap_err().to_string();
        assert!(error.contains("rank 1 is gone"), "{error}");
    }

    #[test]
    fn a_backend_that_does_not_come_about_says_why() {
        let connect = || Err(CollectiveError::WithoutMpi);
        let error = Communicator::start(connect, Device::Cpu, Arc::default()).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("without MPI")));
    }
}
