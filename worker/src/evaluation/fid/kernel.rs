//! Kernel Inception Distance (Bińkowski et al., 2018): the squared maximum mean discrepancy of features under a cubic kernel, estimated
//! without bias, so that it is about 0 for two samples of the same images however few they are.

use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

/// The distance over subsets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelDistance {
    /// Mean over the subsets; a little below 0 at times.
    pub mean: f64,
    /// Standard deviation over the subsets; none where there is but one.
    pub deviation: Option<f64>,
}

/// The distance between features [n, D] and [m, D], two or more of either, over `subsets` random subsets of `size` vectors of each side,
/// or of as many as the smaller side has. Where that is all of both sides, there is one subset.
pub fn kernel_distance(a: &Tensor, b: &Tensor, subsets: usize, size: usize, seed: u64) -> KernelDistance {
    let counts = [a, b].map(|features| features.size()[0] as usize);
    let size = size.min(counts[0]).min(counts[1]);
    let subsets = if counts == [size; 2] { 1 } else { subsets };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |features: &Tensor, count: usize| {
        let chosen: Vec<i64> = sample(&mut random, count, size).iter().map(|index| index as i64).collect();
        features.index_select(0, &Tensor::from_slice(&chosen))
    };
    let distances: Vec<f64> = (0..subsets).map(|_| discrepancy(&draw(a, counts[0]), &draw(b, counts[1]))).collect();
    let mean = distances.iter().sum::<f64>() / subsets as f64;
    let variance = distances.iter().map(|distance| (distance - mean).powi(2)).sum::<f64>() / subsets as f64;
    KernelDistance { mean, deviation: (subsets > 1).then(|| variance.sqrt()) }
}

/// The unbiased estimate of the squared maximum mean discrepancy of features [m, D] and [m, D].
fn discrepancy(a: &Tensor, b: &Tensor) -> f64 {
    let count = a.size()[0] as f64;
    let within = |features: &Tensor| {
        let kernel = kernel(features, features);
        (kernel.sum(Kind::Double) - kernel.trace()).double_value(&[]) / (count * (count - 1.0))
    };
    within(a) + within(b) - 2.0 * kernel(a, b).mean(Kind::Double).double_value(&[])
}

/// (x . y / D + 1)^3 for all pairs, f64 [m, m].
fn kernel(a: &Tensor, b: &Tensor) -> Tensor {
    (a.matmul(&b.tr()).to_kind(Kind::Double) / a.size()[1] as f64 + 1.0).pow_tensor_scalar(3)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::fid::testing::features;

    /// Expected value by NumPy, with `features` as in `testing`:
    /// ```python
    /// k = lambda x, y: (x @ y.T / 6 + 1) ** 3
    /// within = lambda x: (k(x, x).sum() - np.trace(k(x, x))) / (30 * 29)
    /// a, b = features(30, 6, 0), features(30, 6, 1)
    /// within(a) + within(b) - 2 * k(a, b).mean()
    /// ```
    #[test]
    fn the_distance_is_that_of_numpy() {
        let found = kernel_distance(&features(30, 6, 0), &features(30, 6, 1), 100, 1000, 7);
        assert!((found.mean / 0.049_818_510_717_429_376 - 1.0).abs() < 1e-6 && found.deviation.is_none(), "{found:?}");
    }

    #[test]
    fn subsets_scatter_around_the_whole_and_follow_the_seed() {
        let (a, b) = (features(200, 6, 2), features(150, 6, 3));
        let whole = kernel_distance(&a, &b, 1, 150, 1).mean;
        let found = kernel_distance(&a, &b, 200, 40, 1);
        let deviation = found.deviation.unwrap();
        assert!((found.mean - whole).abs() < 4.0 * deviation / 200_f64.sqrt() + 0.3 * deviation, "{found:?} around {whole}");
        assert_eq!(found, kernel_distance(&a, &b, 200, 40, 1));
        assert_ne!(found, kernel_distance(&a, &b, 200, 40, 2));
        // Two samples of the same.
        let more = features(400, 6, 2);
        let same = kernel_distance(&a, &more.narrow(0, 200, 200), 200, 40, 1);
        assert!(same.mean.abs() < 0.2 * whole, "{same:?} beside {whole}");
    }
}
