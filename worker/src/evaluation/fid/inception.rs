//! Inception v3 (Szegedy et al., 2016) as FID knows it: the network that TensorFlow published in December 2015, in the names of its port
//! to PyTorch (`pt_inception-2015-12-05-6726825d.pth`).
//!
//! It differs from torchvision's network of that name in its weights and in three places: average pools leave padding out of the mean,
//! the pool of the last block takes the maximum, and there are 1008 classes, which are not computed here.
//!
//! Batch normalisation is folded into the convolutions when the weights are loaded.

use std::path::Path;

use common::config::FidConfig;
use tch::{Device, Kind, Tensor};
use tokio::runtime::Handle;
use torch_shim::memory::{MemoryFormat, to_memory_format};

use crate::model::weights::{self, WeightsError};
use crate::model::{Distribution, Initial, Scope, Variable, Variables};

/// Length of a feature vector.
pub const FEATURES: i64 = 2048;
/// Side of the images that the network sees.
const SIDE: i64 = 299;
/// Added to variances.
const EPSILON: f64 = 1e-3;

/// The network up to its last pool.
#[derive(Debug)]
pub struct Inception {
    /// 299 -> 73: three convolutions, a pool.
    stem: Vec<Convolution>,
    /// 73 -> 35: two convolutions, a pool.
    second: Vec<Convolution>,
    /// 35 -> 8: the blocks with parallel branches.
    blocks: Vec<Mixed>,
    device: Device,
    /// SHA-256 of the file that the weights come from, in hexadecimal.
    pub digest: String,
}

impl Inception {
    /// Reads the weights that `config` names.
    ///
    /// # Errors
    /// A file that cannot be read, is not the one with the configured digest, or holds another network.
    pub fn load(config: &FidConfig, device: Device, runtime: &Handle) -> Result<Self, WeightsError> {
        let found =
            weights::find(&config.weights, "set fid.weights to the file that docs/gallery.md has the command for", runtime)?;
        if let Some(expected) = &config.sha256 {
            found.check_sha256("fid.sha256", expected)?;
        }
        let (mut inception, variables) = Self::new(device);
        weights::from_safetensors(Path::new(&found.file), &found.bytes, &variables)?;
        inception.digest = found.sha256();
        variables.chunks(Convolution::VARIABLES).try_for_each(fold).map_err(|error| WeightsError::Format {
            file: found.file,
            reason: format!("the weights cannot be prepared: {error}"),
        })?;
        Ok(inception)
    }

    /// Builds the network, whose variables are yet to be loaded and folded.
    pub(super) fn new(device: Device) -> (Self, Vec<Variable>) {
        let variables = Variables::new("inception", Initial::Unset, device);
        let root = variables.root();
        let inception = Self {
            stem: vec![
                Convolution::new(&(&root / "Conv2d_1a_3x3"), [3, 32], [3, 3], 2, [0, 0]),
                Convolution::new(&(&root / "Conv2d_2a_3x3"), [32, 32], [3, 3], 1, [0, 0]),
                Convolution::same(&(&root / "Conv2d_2b_3x3"), [32, 64], [3, 3]),
            ],
            second: vec![
                Convolution::same(&(&root / "Conv2d_3b_1x1"), [64, 80], [1, 1]),
                Convolution::new(&(&root / "Conv2d_4a_3x3"), [80, 192], [3, 3], 1, [0, 0]),
            ],
            blocks: vec![
                Mixed::a(&(&root / "Mixed_5b"), 192, 32),
                Mixed::a(&(&root / "Mixed_5c"), 256, 64),
                Mixed::a(&(&root / "Mixed_5d"), 288, 64),
                Mixed::b(&(&root / "Mixed_6a"), 288),
                Mixed::c(&(&root / "Mixed_6b"), 768, 128),
                Mixed::c(&(&root / "Mixed_6c"), 768, 160),
                Mixed::c(&(&root / "Mixed_6d"), 768, 160),
                Mixed::c(&(&root / "Mixed_6e"), 768, 192),
                Mixed::d(&(&root / "Mixed_7a"), 768),
                Mixed::e(&(&root / "Mixed_7b"), 1280, Pool::Average),
                Mixed::e(&(&root / "Mixed_7c"), 2048, Pool::Maximum),
            ],
            device,
            digest: String::new(),
        };
        // The file has the classifier, which is not computed.
        not_read(&root / "fc", &["weight", "bias"]);
        (inception, variables.into_module().variables)
    }

    /// Images u8 [B, H, W, 3] -> features f32 [B, 2048] on the CPU. Images of another size are brought to 299 x 299 as pytorch-fid does
    /// it: bilinearly, pixels being areas, and without smoothing where they shrink.
    pub fn features(&self, images: &Tensor) -> Tensor {
        let _guard = tch::no_grad_guard();
        let x = images.to_device(self.device).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
        let x = x.upsample_bilinear2d([SIDE, SIDE], false, None, None) * 2.0 - 1.0;
        let x = halved(&chain(&self.stem, &x));
        let x = halved(&chain(&self.second, &x));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(&x));
        x.mean_dim(&[2_i64, 3][..], false, Kind::Float).to_device(Device::Cpu)
    }
}

/// A convolution without bias, batch normalisation, ReLU.
#[derive(Debug)]
struct Convolution {
    /// [out, in, rows, columns]
    weight: Tensor,
    /// [out]: that of the normalisation.
    bias: Tensor,
    stride: i64,
    padding: [i64; 2],
}

impl Convolution {
    /// How many variables there are of one, in the order in which [`Self::new`] makes and [`fold`] takes them.
    const VARIABLES: usize = 6;

    fn new(scope: &Scope, [input, output]: [i64; 2], kernel: [i64; 2], stride: i64, padding: [i64; 2]) -> Self {
        let weight = loaded(&(scope / "conv"), "weight", &[output, input, kernel[0], kernel[1]]);
        let norm = scope / "bn";
        let [_, bias, _, _] = ["weight", "bias", "running_mean", "running_var"].map(|name| loaded(&norm, name, &[output]));
        not_read(norm, &["num_batches_tracked"]);
        Self { weight, bias, stride, padding }
    }

    /// Stride 1, same size.
    fn same(scope: &Scope, channels: [i64; 2], kernel: [i64; 2]) -> Self {
        Self::new(scope, channels, kernel, 1, kernel.map(|side| side / 2))
    }

    /// 3x3, stride 2.
    fn halving(scope: &Scope, channels: [i64; 2]) -> Self {
        Self::new(scope, channels, [3, 3], 2, [0, 0])
    }

    /// [B, in, h, w] -> [B, out, h', w']
    fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(&self.weight, Some(&self.bias), [self.stride; 2], self.padding, [1; 2], 1).relu_()
    }
}

/// Registers what must be in the file; it has no values before.
fn loaded(scope: &Scope<'_>, name: &str, shape: &[i64]) -> Tensor {
    scope.parameter(name, shape, Distribution::Constant(0.0))
}

/// Registers what may be in the file and is not read.
fn not_read(scope: Scope<'_>, names: &[&str]) {
    for name in names {
        let _nothing = scope.constant(name, Tensor::zeros([0], (Kind::Float, Device::Cpu)));
    }
}

/// Turns a convolution and its normalisation into one convolution with bias, channels last. Other variables stay as they are.
fn fold(layer: &[Variable]) -> Result<(), torch_shim::ShimError> {
    let [weight, scale, bias, mean, variance, _] = layer else { return Ok(()) };
    let _guard = tch::no_grad_guard();
    let factor = &scale.tensor / (&variance.tensor + EPSILON).sqrt();
    let folded_bias = &bias.tensor - &mean.tensor * &factor;
    let folded = to_memory_format(&(&weight.tensor * factor.view([-1, 1, 1, 1])), MemoryFormat::ChannelsLast)?;
    weight.tensor.shallow_clone().set_data(&folded);
    bias.tensor.shallow_clone().set_data(&folded_bias);
    Ok(())
}

fn chain(layers: &[Convolution], x: &Tensor) -> Tensor {
    layers.iter().fold(x.shallow_clone(), |x, layer| layer.forward(&x))
}

/// The maximum of every 3x3 positions, stride 2.
fn halved(x: &Tensor) -> Tensor {
    x.max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false)
}

/// What is pooled of every 3x3 positions in a block that keeps its size.
#[derive(Debug, Clone, Copy)]
enum Pool {
    /// The mean of those within the image.
    Average,
    /// The maximum.
    Maximum,
}

impl Pool {
    fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Average => x.avg_pool2d([3, 3], [1, 1], [1, 1], false, false, None),
            Self::Maximum => x.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false),
        }
    }
}

/// A layer of a branch that keeps its size: name, output channels, kernel.
type Layer = (&'static str, i64, [i64; 2]);

/// Convolutions one after another, and at the end possibly two side by side.
#[derive(Debug)]
struct Branch {
    layers: Vec<Convolution>,
    ends: Vec<Convolution>,
}

impl Branch {
    fn new(scope: &Scope, input: i64, layers: &[Layer], ends: &[Layer]) -> Self {
        let mut channels = input;
        let mut chained = Vec::new();
        for &(name, output, kernel) in layers {
            chained.push(Convolution::same(&(scope / name), [channels, output], kernel));
            channels = output;
        }
        let end = |&(name, output, kernel): &Layer| Convolution::same(&(scope / name), [channels, output], kernel);
        Self { layers: chained, ends: ends.iter().map(end).collect() }
    }

    /// The same with a last layer of half the size.
    fn halving(scope: &Scope, input: i64, layers: &[Layer], (name, output): (&str, i64)) -> Self {
        let mut branch = Self::new(scope, input, layers, &[]);
        let channels = layers.last().map_or(input, |&(_, channels, _)| channels);
        branch.layers.push(Convolution::halving(&(scope / name), [channels, output]));
        branch
    }

    /// The outputs, to be concatenated.
    fn forward(&self, x: &Tensor) -> Vec<Tensor> {
        let x = chain(&self.layers, x);
        if self.ends.is_empty() { vec![x] } else { self.ends.iter().map(|end| end.forward(&x)).collect() }
    }
}

/// A block of parallel branches, of which a pool is the last.
#[derive(Debug)]
struct Mixed {
    branches: Vec<Branch>,
    /// A pool and a 1x1 convolution; none: the pool that halves the size.
    pool: Option<(Pool, Convolution)>,
}

impl Mixed {
    /// Figure 5 of the paper, with one 5x5 convolution in the place of two: the blocks at 35 x 35.
    fn a(scope: &Scope, input: i64, pooled: i64) -> Self {
        let branch = |layers: &[Layer]| Branch::new(scope, input, layers, &[]);
        Self {
            branches: vec![
                branch(&[("branch1x1", 64, [1, 1])]),
                branch(&[("branch5x5_1", 48, [1, 1]), ("branch5x5_2", 64, [5, 5])]),
                branch(&[("branch3x3dbl_1", 64, [1, 1]), ("branch3x3dbl_2", 96, [3, 3]), ("branch3x3dbl_3", 96, [3, 3])]),
            ],
            pool: Some((Pool::Average, Convolution::same(&(scope / "branch_pool"), [input, pooled], [1, 1]))),
        }
    }

    /// 35 -> 17.
    fn b(scope: &Scope, input: i64) -> Self {
        let double = [("branch3x3dbl_1", 64, [1, 1]), ("branch3x3dbl_2", 96, [3, 3])];
        Self {
            branches: vec![
                Branch::halving(scope, input, &[], ("branch3x3", 384)),
                Branch::halving(scope, input, &double, ("branch3x3dbl_3", 96)),
            ],
            pool: None,
        }
    }

    /// Figure 6 of the paper: 7x7 convolutions in two factors, at 17 x 17.
    fn c(scope: &Scope, input: i64, inner: i64) -> Self {
        let branch = |layers: &[Layer]| Branch::new(scope, input, layers, &[]);
        Self {
            branches: vec![
                branch(&[("branch1x1", 192, [1, 1])]),
                branch(&[("branch7x7_1", inner, [1, 1]), ("branch7x7_2", inner, [1, 7]), ("branch7x7_3", 192, [7, 1])]),
                branch(&[
                    ("branch7x7dbl_1", inner, [1, 1]),
                    ("branch7x7dbl_2", inner, [7, 1]),
                    ("branch7x7dbl_3", inner, [1, 7]),
                    ("branch7x7dbl_4", inner, [7, 1]),
                    ("branch7x7dbl_5", 192, [1, 7]),
                ]),
            ],
            pool: Some((Pool::Average, Convolution::same(&(scope / "branch_pool"), [input, 192], [1, 1]))),
        }
    }

    /// 17 -> 8.
    fn d(scope: &Scope, input: i64) -> Self {
        let factors = [("branch7x7x3_1", 192, [1, 1]), ("branch7x7x3_2", 192, [1, 7]), ("branch7x7x3_3", 192, [7, 1])];
        Self {
            branches: vec![
                Branch::halving(scope, input, &[("branch3x3_1", 192, [1, 1])], ("branch3x3_2", 320)),
                Branch::halving(scope, input, &factors, ("branch7x7x3_4", 192)),
            ],
            pool: None,
        }
    }

    /// Figure 7 of the paper: 3x3 convolutions in two factors side by side, at 8 x 8.
    fn e(scope: &Scope, input: i64, pool: Pool) -> Self {
        let double = [("branch3x3dbl_1", 448, [1, 1]), ("branch3x3dbl_2", 384, [3, 3])];
        Self {
            branches: vec![
                Branch::new(scope, input, &[("branch1x1", 320, [1, 1])], &[]),
                Branch::new(
                    scope,
                    input,
                    &[("branch3x3_1", 384, [1, 1])],
                    &[("branch3x3_2a", 384, [1, 3]), ("branch3x3_2b", 384, [3, 1])],
                ),
                Branch::new(scope, input, &double, &[("branch3x3dbl_3a", 384, [1, 3]), ("branch3x3dbl_3b", 384, [3, 1])]),
            ],
            pool: Some((pool, Convolution::same(&(scope / "branch_pool"), [input, 192], [1, 1]))),
        }
    }

    /// [B, in, h, w] -> [B, out, h', w']
    fn forward(&self, x: &Tensor) -> Tensor {
        let mut parts: Vec<Tensor> = self.branches.iter().flat_map(|branch| branch.forward(x)).collect();
        parts.push(match &self.pool {
            Some((pool, convolution)) => convolution.forward(&pool.forward(x)),
            None => halved(x),
        });
        Tensor::cat(&parts, 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
