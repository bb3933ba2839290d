//! Workers as threads of one process, for tests: sums in rank order, checks that all ranks call the same operation.

use super::{Aborter, Collective, CollectiveError, check_cpu_tensor, check_root};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tch::{Tensor, no_grad};

/// What one rank brings to an operation.
type Contribution = (&'static str, Tensor);

#[derive(Default)]
struct Exchange {
    /// One place per rank; all are filled when the last rank arrives.
    contributions: Vec<Option<Contribution>>,
    /// How many ranks have taken the result of the current operation.
    taken: usize,
    aborted: bool,
}

struct Room {
    exchange: Mutex<Exchange>,
    changed: Condvar,
}

/// One thread's end of the collective.
pub struct InProcess {
    rank: usize,
    world: usize,
    room: Arc<Room>,
}

impl InProcess {
    /// The ends of a world of `world` threads, in rank order.
    pub fn world(world: usize) -> Vec<Self> {
        let exchange = Exchange { contributions: (0..world).map(|_| None).collect(), ..Exchange::default() };
        let room = Arc::new(Room { exchange: Mutex::new(exchange), changed: Condvar::new() });
        (0..world).map(|rank| Self { rank, world, room: room.clone() }).collect()
    }

    /// Brings a copy of `tensor` and returns everybody's copies in rank order once all ranks have come.
    fn exchange(&self, operation: &'static str, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        // Wait until everybody has left the operation before.
        let mut exchange = self.wait(operation, |exchange| exchange.contributions[self.rank].is_none())?;
        exchange.contributions[self.rank] = Some((operation, no_grad(|| tensor.copy())));
        self.room.changed.notify_all();
        drop(exchange);
        let mut exchange = self.wait(operation, |exchange| exchange.contributions.iter().all(Option::is_some))?;
        let all: Vec<Contribution> =
            exchange.contributions.iter().flatten().map(|(operation, tensor)| (*operation, tensor.shallow_clone())).collect();
        exchange.taken += 1;
        if exchange.taken == self.world {
            exchange.taken = 0;
            exchange.contributions.fill_with(|| None);
            self.room.changed.notify_all();
        }
        drop(exchange);
        same_operation(all)
    }

    fn wait(
        &self,
        operation: &'static str,
        ready: impl Fn(&Exchange) -> bool,
    ) -> Result<MutexGuard<'_, Exchange>, CollectiveError> {
        let exchange = self.room.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.room.changed.wait_while(exchange, |exchange| !exchange.aborted && !ready(exchange));
        let exchange = waited.unwrap_or_else(PoisonError::into_inner);
        if exchange.aborted { Err(CollectiveError::Aborted { operation }) } else { Ok(exchange) }
    }
}

fn same_operation(all: Vec<Contribution>) -> Result<Vec<Tensor>, CollectiveError> {
    let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
    let (first, expected) = (all[0].0, bytes(&all[0].1));
    for (rank, (operation, tensor)) in all.iter().enumerate() {
        if *operation != first || bytes(tensor) != expected {
            return Err(CollectiveError::Mismatch { operation, rank, bytes: bytes(tensor), expected });
        }
    }
    Ok(all.into_iter().map(|(_, tensor)| tensor).collect())
}

impl Collective for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<(), CollectiveError> {
        check_cpu_tensor("all_reduce", tensor)?;
        let all = self.exchange("all_reduce", tensor)?;
        no_grad(|| {
            let mut target = tensor.detach();
            target.copy_(&all[0]);
            for other in &all[1..] {
                let _ = target.g_add_(other);
            }
        });
        Ok(())
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        check_cpu_tensor("broadcast", tensor)?;
        check_root(root, self.world)?;
        let all = self.exchange("broadcast", tensor)?;
        no_grad(|| tensor.detach().copy_(&all[root]));
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.exchange("barrier", &Tensor::zeros([0], (tch::Kind::Float, tch::Device::Cpu))).map(|_| ())
    }

    fn aborter(&self) -> Aborter {
        let room = self.room.clone();
        Arc::new(move |_| {
            room.exchange.lock().unwrap_or_else(PoisonError::into_inner).aborted = true;
            room.changed.notify_all();
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Runs `body` on every rank of a world and returns what each returned, in rank order.
    fn together<T: Send>(world: usize, body: impl Fn(InProcess) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = InProcess::world(world).into_iter().map(|end| scope.spawn(|| body(end))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_means_and_broadcasts_over_many_rounds() {
        let results = together(3, |mut end| {
            let rank = end.rank() as f64;
            let mut seen = Vec::new();
            for round in 0..50 {
                let tensor = Tensor::from_slice(&[rank, f64::from(round)]);
                end.all_reduce_sum(&tensor).unwrap();
                assert_eq!(tensor, Tensor::from_slice(&[3.0, 3.0 * f64::from(round)]));
                let tensor = Tensor::from_slice(&[rank + f64::from(round)]);
                end.broadcast(&tensor, 1).unwrap();
                seen.push(tensor.double_value(&[0]));
                end.barrier().unwrap();
            }
            let tensor = Tensor::from_slice(&[rank]);
            end.all_reduce_mean(&tensor).unwrap();
            assert_eq!(tensor.double_value(&[0]), 1.0);
            seen
        });
        let expected: Vec<f64> = (1..=50).map(f64::from).collect();
        assert!(results.iter().all(|seen| *seen == expected));
    }

    #[test]
    fn differing_sizes_and_a_rank_that_gives_up_are_errors_for_all() {
        let results = together(2, |mut end| {
            let tensor = Tensor::zeros([2 + end.rank() as i64], (tch::Kind::Float, tch::Device::Cpu));
            end.all_reduce_sum(&tensor).unwrap_err().to_string()
        });
        assert!(
            results.iter().all(|error| error.contains("rank 1 entered all_reduce with 12 bytes, rank 0 with 8")),
            "{results:?}"
        );
        let results = together(2, |mut end| {
            if end.rank() == 0 {
                end.abort(1);
            }
            end.barrier()
        });
        assert!(matches!(results[1], Err(CollectiveError::Aborted { operation: "barrier" })));
    }

    #[test]
    fn tensors_that_no_backend_moves_are_refused() {
        let mut end = super::super::Solo;
        let half = Tensor::zeros([2], (tch::Kind::Half, tch::Device::Cpu));
        assert!(end.all_reduce_sum(&half).unwrap_err().to_string().contains("Half"));
        let strided = Tensor::zeros([2, 3], (tch::Kind::Float, tch::Device::Cpu)).transpose(0, 1);
        assert!(end.all_reduce_sum(&strided).unwrap_err().to_string().contains("not contiguous"));
        let fine = Tensor::zeros([2], (tch::Kind::Float, tch::Device::Cpu));
        assert!(matches!(end.broadcast(&fine, 1), Err(CollectiveError::NoSuchRoot { root: 1, world: 1 })));
    }
}
