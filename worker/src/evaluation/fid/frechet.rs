//! Fréchet Inception Distance (Heusel et al., 2017): the Fréchet distance between two Gaussians that have the means and covariances of
//! the features of two sets of images. All sums are in f64.

use tch::{Device, Kind, Tensor};

use crate::collectives::{Collective, CollectiveError};

/// Sums over feature vectors of length D, from which their mean and covariance follow. They add up over batches and over workers.
#[derive(Debug)]
pub struct Moments {
    /// Number of vectors, [1].
    count: Tensor,
    /// Sum of the vectors, [D].
    sum: Tensor,
    /// Sum of their outer products, [D, D].
    outer: Tensor,
}

impl Moments {
    /// Those of no vectors of length `size`.
    pub fn new(size: i64) -> Self {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Double, Device::Cpu));
        Self { count: zeros(&[1]), sum: zeros(&[size]), outer: zeros(&[size, size]) }
    }

    /// Adds features [B, D].
    pub fn add(&mut self, features: &Tensor) {
        let features = features.to_kind(Kind::Double);
        self.count += features.size()[0] as f64;
        self.sum += features.sum_dim_intlist(0, false, Kind::Double);
        self.outer += features.tr().matmul(&features);
    }

    /// Replaces the sums by those over all workers.
    ///
    /// # Errors
    /// A failure of the transport.
    pub fn all_reduce(&self, collective: &mut impl Collective) -> Result<(), CollectiveError> {
        self.sums().into_iter().try_for_each(|sum| collective.all_reduce_sum(sum))
    }

    /// The sums themselves, f64: number of vectors [1], sum [D], and sum of outer products [D, D].
    pub fn sums(&self) -> [&Tensor; 3] {
        [&self.count, &self.sum, &self.outer]
    }

    /// Those of both sets of vectors together.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self { count: &self.count + &other.count, sum: &self.sum + &other.sum, outer: &self.outer + &other.outer }
    }

    /// Number of vectors.
    pub fn count(&self) -> f64 {
        self.count.double_value(&[0])
    }

    /// [D]
    fn mean(&self) -> Tensor {
        &self.sum / &self.count
    }

    /// Of a sample, [D, D].
    fn covariance(&self) -> Tensor {
        let mean = self.mean();
        (&self.outer - self.count() * mean.outer(&mean)) / (self.count() - 1.0)
    }

    /// The covariance of n vectors has no more than n - 1 eigenvalues that are not 0, whatever rounding makes of the others.
    fn rank(&self) -> i64 {
        (self.count() as i64 - 1).min(self.sum.size()[0])
    }
}

/// The squared Fréchet distance |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), which is what is called FID. Of two vectors or more on
/// either side.
///
/// The trace of the root is taken of R^T S2 R with R R^T = S1, which is symmetric and has those eigenvalues of S1 S2 that are not 0.
pub fn frechet_distance(a: &Moments, b: &Moments) -> f64 {
    let difference = a.mean() - b.mean();
    let (of_a, of_b) = (a.covariance(), b.covariance());
    let factor = factor(&of_a, a.rank());
    let product = factor.tr().matmul(&of_b).matmul(&factor);
    let eigenvalues = ((&product + product.tr()) / 2.0).linalg_eigvalsh("L");
    let rank = a.rank().min(b.rank());
    let trace_of_root = largest(&eigenvalues, rank).clamp_min(0.0).sqrt().sum(Kind::Double);
    let means = difference.square().sum(Kind::Double);
    [means, of_a.trace(), of_b.trace(), trace_of_root * -2.0].iter().map(|term| term.double_value(&[])).sum()
}

/// R [D, rank] with R R^T = a symmetric matrix [D, D] with `rank` eigenvalues that are more than 0.
fn factor(matrix: &Tensor, rank: i64) -> Tensor {
    let (values, vectors) = matrix.linalg_eigh("L");
    vectors.narrow(1, vectors.size()[1] - rank, rank) * largest(&values, rank).clamp_min(0.0).sqrt()
}

/// The last `count` of ascending eigenvalues.
fn largest(eigenvalues: &Tensor, count: i64) -> Tensor {
    eigenvalues.narrow(0, eigenvalues.size()[0] - count, count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::fid::testing::features;
    use proptest::prelude::*;

    fn moments(features: &Tensor) -> Moments {
        let mut moments = Moments::new(features.size()[1]);
        features.split(7, 0).iter().for_each(|batch| moments.add(batch));
        moments
    }

    /// Expected values by SciPy 1.17.1, with `features` as in `testing`:
    /// ```python
    /// def fid(a, b):
    ///     s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    ///     return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    /// fid(features(40, 6, 0), features(50, 6, 1))
    /// ```
    /// and, as SciPy's root of a singular matrix keeps few digits, for less images than features by the singular values of the centred
    /// features:
    /// ```python
    /// a, b = features(4, 6, 0), features(5, 6, 1); x, y = a - a.mean(0), b - b.mean(0)
    /// root = np.linalg.svd(x @ y.T, compute_uv=False).sum() / np.sqrt(3 * 4)
    /// ((a.mean(0) - b.mean(0)) ** 2).sum() + (x ** 2).sum() / 3 + (y ** 2).sum() / 4 - 2 * root
    /// ```
    #[test]
    fn distances_are_those_of_scipy() {
        for (counts, expected) in [([40, 50], 0.597_379_795_061_386_3), ([4, 5], 4.202_068_769_994_622)] {
            let found = frechet_distance(&moments(&features(counts[0], 6, 0)), &moments(&features(counts[1], 6, 1)));
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Also with fewer vectors than they have elements.
        #[test]
        fn it_is_a_squared_distance_and_batches_do_not_matter(n in 2i64..30, m in 2i64..30, size in 1i64..12, shift in -3.0..3.0f64) {
            let (a, b) = (features(n, size, 2), features(m, size, 3));
            let [of_a, of_b] = [&a, &b].map(moments);
            let distance = frechet_distance(&of_a, &of_b);
            prop_assert!(distance > -1e-9, "{}", distance);
            prop_assert!((distance - frechet_distance(&of_b, &of_a)).abs() < 1e-7);
            prop_assert!(frechet_distance(&of_a, &of_a).abs() < 1e-7);
            let moved = frechet_distance(&of_a, &moments(&(&a + shift)));
            prop_assert!((moved - shift * shift * size as f64).abs() < 1e-6, "{}", moved);
            let all = moments(&Tensor::cat(&[&a, &b], 0));
            prop_assert!(frechet_distance(&all, &of_a.with(&of_b)).abs() < 1e-7);
        }
    }
}
