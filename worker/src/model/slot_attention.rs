//! Slot Attention: tokens compete for slots over a few rounds (paper, section 3.1; the reference's `MultiHeadSTEVESA`).

use common::config::{SlotAttentionConfig, SlotAttentionStart, SlotInitialisation};
use common::official::EPSILON;
use tch::Tensor;

use super::blocks::layout::to_tokens;
use super::blocks::position::PositionEmbedding;
use super::layers::{LayerNorm, Linear, fused_linear, wide};
use super::precision::in_f32;
use super::variables::{Distribution, Scope};

/// Slot Attention with a token MLP before and a projection of the slots after it.
#[derive(Debug)]
pub struct SlotAttention {
    start: Start,
    pos: PositionEmbedding,
    in_layer_norm: LayerNorm,
    in_mlp: Mlp,
    norm_inputs: LayerNorm,
    norm_slots: LayerNorm,
    norm_mlp: LayerNorm,
    project_q: Linear,
    project_k: Linear,
    project_v: Linear,
    gru: Gru,
    mlp: Mlp,
    out_layer_norm: LayerNorm,
    out_linear: Linear,
    slots: i64,
    slot_size: i64,
    heads: i64,
    iterations: usize,
    bi_level: bool,
}

/// What Slot Attention found in a batch of B images with K slots and h x w tokens.
#[derive(Debug)]
pub struct SlotOutput {
    /// The slots [B, K, D], as probes and the slot library use them.
    pub slots: Tensor,
    /// Share of each slot in each token at the last round [B, K, h, w]; sums to 1 over the slots. The predicted segmentation.
    pub attention: Tensor,
    /// The slots as the denoiser sees them [B, K, out].
    pub conditioning: Tensor,
}

/// Where slots start.
#[derive(Debug)]
enum Start {
    /// Mean and log standard deviation [1, 1, D] of one Gaussian.
    Gaussian { mu: Tensor, log_sigma: Tensor },
    /// One vector per slot [1, K, D].
    Learned(Tensor),
}

impl SlotAttention {
    /// For `input` channels of tokens on a grid of `side` rows and columns.
    pub(crate) fn new(scope: &Scope, config: &SlotAttentionConfig, input: i64, side: i64) -> Self {
        let size = config.slot_size;
        let start = Distribution::Uniform((3.0 / size as f64).sqrt());
        let start = match config.initialisation {
            SlotInitialisation::Sampled => Start::Gaussian {
                mu: scope.parameter("slot_mu", &[1, 1, size], start),
                log_sigma: scope.parameter("slot_log_sigma", &[1, 1, size], start),
            },
            SlotInitialisation::Learned => Start::Learned(scope.parameter("slot_mu", &[1, config.slots, size], start)),
        };
        let norm = |name: &str, size: i64| LayerNorm::new(&(scope / name), size);
        let slot_attention = Self {
            start,
            pos: PositionEmbedding::new(&(scope / "pos"), config.position_embedding, side, input),
            in_layer_norm: norm("in_layer_norm", input),
            in_mlp: Mlp::new(&(scope / "in_mlp"), input, input),
            norm_inputs: norm("norm_inputs", input),
            norm_slots: norm("norm_slots", size),
            norm_mlp: norm("norm_mlp", size),
            project_q: Linear::unbiased(&(scope / "project_q"), size, size),
            project_k: Linear::unbiased(&(scope / "project_k"), input, size),
            project_v: Linear::unbiased(&(scope / "project_v"), input, size),
            gru: Gru::new(&(scope / "gru"), size),
            mlp: Mlp::new(&(scope / "mlp"), size, config.mlp_hidden),
            out_layer_norm: norm("out_layer_norm", size),
            out_linear: Linear::new(&(scope / "out_linear"), size, config.out_size),
            slots: config.slots,
            slot_size: size,
            heads: config.heads,
            iterations: config.iterations,
            bi_level: config.bi_level,
        };
        if config.start == SlotAttentionStart::KMeans && scope.is_random() {
            slot_attention.start_as_k_means();
        }
        slot_attention
    }

    /// Makes every round a step of soft k-means over the tokens: equal maps for queries and keys, so that a slot attends to tokens that are
    /// like it; values as they are; gates that let most of the update through to the new slot; nothing from the MLP. Learned slots start as
    /// long as tokens are, or else updates of equal size would turn them many times as fast.
    fn start_as_k_means(&self) {
        let _guard = tch::no_grad_guard();
        if let Start::Learned(slots) = &self.start {
            let _ = slots.shallow_clone().g_mul_scalar_((self.slot_size as f64).sqrt());
        }
        for linear in [&self.project_q, &self.project_k, &self.project_v, &self.out_linear] {
            set_to_identity(&linear.weight);
        }
        self.gru.start_as_gate();
        for zero in [Some(&self.mlp.second.weight), self.mlp.second.bias.as_ref(), self.out_linear.bias.as_ref()] {
            let _ = zero.map(|tensor| tensor.shallow_clone().zero_());
        }
    }

    /// Shape [K, D] of one image's slots, and so of the noise they start from.
    pub fn slots_shape(&self) -> [i64; 2] {
        [self.slots, self.slot_size]
    }

    /// Standard normal noise [B, K, D] -> initial slots [B, K, D]. Learned slots take only the batch size from it.
    pub fn initial_slots(&self, noise: &Tensor) -> Tensor {
        match &self.start {
            Start::Gaussian { mu, log_sigma } => mu + log_sigma.exp() * noise,
            Start::Learned(slots) => slots.expand(noise.size(), false),
        }
    }

    /// Features [B, C, h, w] and initial slots [B, K, D] -> slots and their attention.
    pub fn forward(&self, features: &Tensor, initial_slots: &Tensor) -> SlotOutput {
        let height = features.size()[2];
        let tokens = self.in_mlp.forward(&self.in_layer_norm.forward(&self.pos.add_to(&to_tokens(features))));
        let kv = fused_linear(&self.norm_inputs.forward(&tokens), &[&self.project_k, &self.project_v]);
        let kv = kv.to_kind(wide(&kv)).chunk(2, -1);
        // Slots are few: rounding them, or the sums over thousands of tokens that they are made of, would save nothing.
        in_f32(features.device(), || self.find(&Inputs::new(&kv[0], &kv[1], self.heads), initial_slots, height))
    }

    /// All rounds, and the projection of what they have found.
    fn find(&self, inputs: &Inputs, initial_slots: &Tensor, height: i64) -> SlotOutput {
        let mut slots = initial_slots.shallow_clone();
        let mut attention = Tensor::new();
        for round in 1..=self.iterations {
            if self.bi_level && round == self.iterations {
                slots = straight_through(&slots, initial_slots);
            }
            (slots, attention) = self.iterate(inputs, &slots);
        }
        SlotOutput {
            conditioning: self.out_linear.forward(&self.out_layer_norm.forward(&slots)),
            attention: attention.unflatten(-1, [height, -1]),
            slots,
        }
    }

    /// One round of competition and update -> new slots [B, K, D], attention [B, K, N].
    fn iterate(&self, inputs: &Inputs, slots: &Tensor) -> (Tensor, Tensor) {
        let queries = self.project_q.forward(&self.norm_slots.forward(slots));
        let (updates, attention) = inputs.compete(&queries, self.heads);
        let slots = self.gru.forward(&updates, slots);
        (&slots + self.mlp.forward(&self.norm_mlp.forward(&slots)), attention)
    }
}

/// The values of `slots`, with the gradient of `initial` in place of the way that led to them: the implicit differentiation of BO-QSA.
fn straight_through(slots: &Tensor, initial: &Tensor) -> Tensor {
    slots.detach() + initial - initial.detach()
}

/// Keys and values of the tokens, which all rounds share.
#[derive(Debug)]
struct Inputs {
    /// Keys [B, heads, d, N], scaled by 1 / sqrt(D) whatever the number of heads, as in the reference.
    keys: Tensor,
    /// Values [B, heads, N, d].
    values: Tensor,
    /// EPSILON * the sum of the values over the tokens [B, heads, 1, d].
    residue: Tensor,
}

impl Inputs {
    /// Keys and values [B, N, D].
    fn new(keys: &Tensor, values: &Tensor, heads: i64) -> Self {
        let split = |x: &Tensor| x.unflatten(-1, [heads, -1]).transpose(1, 2);
        let scale = (keys.size()[2] as f64).powf(-0.5);
        let (keys, values) = (split(keys), split(values));
        let residue = values.sum_dim_intlist([2].as_slice(), true, wide(&values)) * EPSILON;
        Self { keys: (keys * scale).transpose(2, 3), values, residue }
    }

    /// Queries [B, K, D] -> updates [B, K, D] and attention [B, K, N].
    ///
    /// The softmax runs over slots and heads together. The weighted mean with attention + EPSILON over the tokens is taken apart, so
    /// that nothing of the size of the attention is written but the attention itself.
    fn compete(&self, queries: &Tensor, heads: i64) -> (Tensor, Tensor) {
        let queries = queries.unflatten(-1, [heads, -1]).transpose(1, 2);
        let logits = queries.matmul(&self.keys);
        let attention = logits.flatten(1, 2).softmax(1, wide(&logits)).view_as(&logits);
        let tokens = self.keys.size()[3] as f64;
        let mass = attention.sum_dim_intlist([3].as_slice(), true, wide(&attention)) + EPSILON * tokens;
        let updates = (attention.matmul(&self.values) + &self.residue) / mass;
        (updates.transpose(1, 2).flatten(2, 3), attention.sum_dim_intlist([1].as_slice(), false, wide(&attention)))
    }
}

/// Linear, ReLU, linear.
#[derive(Debug)]
struct Mlp {
    first: Linear,
    second: Linear,
}

impl Mlp {
    fn new(scope: &Scope, size: i64, hidden: i64) -> Self {
        Self { first: Linear::new(&(scope / 0), size, hidden), second: Linear::new(&(scope / 2), hidden, size) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.second.forward(&self.first.forward(x).relu())
    }
}

/// A gated recurrent unit, gates in the order reset, update, new.
#[derive(Debug)]
struct Gru {
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
}

impl Gru {
    fn new(scope: &Scope, size: i64) -> Self {
        let parameter = |name: &str, shape: &[i64]| scope.parameter(name, shape, Distribution::fan_in(size));
        Self {
            weight_ih: parameter("weight_ih", &[3 * size, size]),
            weight_hh: parameter("weight_hh", &[3 * size, size]),
            bias_ih: parameter("bias_ih", &[3 * size]),
            bias_hh: parameter("bias_hh", &[3 * size]),
        }
    }

    /// The new state is tanh(update), but for the share sigmoid(KEPT) of the old one.
    fn start_as_gate(&self) {
        const KEPT: f64 = -2.0;
        for tensor in [&self.weight_ih, &self.weight_hh, &self.bias_ih, &self.bias_hh] {
            let _ = tensor.shallow_clone().zero_();
        }
        let size = self.weight_hh.size()[1];
        let _ = self.bias_ih.narrow(0, size, size).fill_(KEPT);
        set_to_identity(&self.weight_ih.narrow(0, 2 * size, size));
    }

    /// Update and state [B, K, D] -> new state [B, K, D].
    fn forward(&self, update: &Tensor, state: &Tensor) -> Tensor {
        let (input, hidden) = (update.flatten(0, 1), state.flatten(0, 1));
        let (bias_ih, bias_hh) = (Some(&self.bias_ih), Some(&self.bias_hh));
        input.gru_cell(&hidden, &self.weight_ih, &self.weight_hh, bias_ih, bias_hh).view_as(state)
    }
}

/// Makes a square matrix the identity.
fn set_to_identity(matrix: &Tensor) {
    let identity = Tensor::eye(matrix.size()[0], (matrix.kind(), matrix.device()));
    matrix.shallow_clone().copy_(&identity);
}
