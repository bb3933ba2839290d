//! The layers of the networks as numbers: what they train, what they compute for one image, and what the backward pass of it needs again.

use crate::config::PositionEmbedding;

/// Layers, added up. Sums and products saturate: a configuration of absurd size is large, not an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// Trained numbers.
    pub(super) parameters: u64,
    /// Floating point operations of the forward pass of an image.
    pub(super) flops: u64,
    /// Numbers per image that autograd keeps from the forward to the backward pass. Each is counted where it is read, so that a map
    /// with several readers counts once.
    pub(super) kept: u64,
    /// Numbers that it keeps once per pass, however many the images: weights brought into another shape.
    pub(super) derived: u64,
}

/// What all transformers of a network have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transformers {
    /// Number of slots.
    pub(super) slots: u64,
    /// Channels of a slot as the denoiser sees it.
    pub(super) context: u64,
    /// Attention heads.
    pub(super) heads: u64,
    /// Position embedding at each attention input.
    pub(super) position: PositionEmbedding,
}

/// A product of sizes.
pub(super) fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, factor| product.saturating_mul(*factor))
}

impl Layers {
    /// Trained tensors of these shapes.
    pub(super) fn weights(&mut self, shapes: &[&[u64]]) {
        self.parameters = shapes.iter().fold(self.parameters, |sum, shape| sum.saturating_add(product(shape)));
    }

    /// A product of matrices for each image: one multiply-add for each combination of these.
    pub(super) fn multiply(&mut self, factors: &[u64]) {
        self.flops = self.flops.saturating_add(product(factors).saturating_mul(2));
    }

    /// Numbers per image that the backward pass needs again.
    pub(super) fn keep(&mut self, factors: &[u64]) {
        self.kept = self.kept.saturating_add(product(factors));
    }

    /// Numbers per pass that it needs again.
    pub(super) fn derive(&mut self, factors: &[u64]) {
        self.derived = self.derived.saturating_add(product(factors));
    }

    /// Other layers too.
    pub(super) fn add(&mut self, other: Self) {
        self.parameters = self.parameters.saturating_add(other.parameters);
        self.flops = self.flops.saturating_add(other.flops);
        self.kept = self.kept.saturating_add(other.kept);
        self.derived = self.derived.saturating_add(other.derived);
    }

    /// A convolution with a square kernel onto a map of so many positions.
    pub(super) fn conv(&mut self, input: u64, output: u64, kernel: u64, positions: u64) {
        self.weights(&[&[output, input, kernel, kernel], &[output]]);
        self.multiply(&[output, input, kernel, kernel, positions]);
    }

    /// A linear layer with a bias, at so many positions.
    pub(super) fn linear(&mut self, input: u64, output: u64, positions: u64) {
        self.conv(input, output, 1, positions);
    }

    /// A linear layer without a bias, at so many positions.
    pub(super) fn projection(&mut self, input: u64, output: u64, positions: u64) {
        self.weights(&[&[output, input]]);
        self.multiply(&[output, input, positions]);
    }

    /// Queries of so many positions compared with so many keys, and the values taken by that.
    pub(super) fn attend(&mut self, channels: u64, queries: u64, keys: u64) {
        self.multiply(&[2, channels, queries, keys]);
    }

    /// Scale and shift of a normalisation.
    pub(super) fn norm(&mut self, channels: u64) {
        self.weights(&[&[2, channels]]);
    }

    /// `ResnetBlock`: the inputs of both normalisations, activations and convolutions.
    pub(super) fn resnet(&mut self, input: u64, output: u64, time: u64, side: u64) {
        let positions = product(&[side, side]);
        self.norm(input);
        self.conv(input, output, 3, positions);
        self.linear(time, output, 1);
        self.norm(output);
        self.conv(output, output, 3, positions);
        if input != output {
            self.conv(input, output, 1, positions);
        }
        self.keep(&[3, input.saturating_add(output), side, side]);
    }

    /// `Downsample` of a map with this side.
    pub(super) fn downsample(&mut self, channels: u64, side: u64) {
        self.conv(channels, channels, 3, product(&[side / 2, side / 2]));
        self.keep(&[channels, side, side]);
    }

    /// `Upsample` of a map with this side; its kernel becomes a wider one.
    pub(super) fn upsample(&mut self, channels: u64, side: u64) {
        self.conv(channels, channels, 3, product(&[4, side, side]));
        self.keep(&[channels, side, side]);
        self.derive(&[channels, channels, 16]);
    }

    /// `TimeEmbedding`; the embedding of an image is too small to count.
    pub(super) fn time_embedding(&mut self, channels: u64) {
        let width = channels.saturating_mul(4);
        self.linear(channels, width, 1);
        self.linear(width, width, 1);
    }

    /// `MapAttention`: the input of the normalisation and of the projection, queries, keys, values, output.
    pub(super) fn map_attention(&mut self, channels: u64, side: u64) {
        let positions = product(&[side, side]);
        self.norm(channels);
        (0..4).for_each(|_| self.linear(channels, channels, positions));
        self.attend(channels, positions, positions);
        self.keep(&[6, channels, side, side]);
        self.derive(&[3, channels, channels]);
    }

    /// `Transformer` on a map with this side. No attention writes a matrix of all pairs of positions.
    pub(super) fn transformer(&mut self, channels: u64, side: u64, shape: Transformers) {
        let Transformers { slots, context, heads, position } = shape;
        let positions = product(&[side, side]);
        self.norm(channels);
        self.linear(channels, channels, positions);
        (0..3).for_each(|_| self.norm(channels));
        (0..2).for_each(|_| self.position(position, side, channels));
        (0..3).for_each(|_| self.projection(channels, channels, positions));
        self.attend(channels, positions, positions);
        self.linear(channels, channels, positions);
        self.projection(channels, channels, positions);
        (0..2).for_each(|_| self.projection(context, channels, slots));
        self.attend(channels, positions, slots);
        self.linear(channels, channels, positions);
        self.linear(channels, product(&[8, channels]), positions);
        self.linear(product(&[4, channels]), channels, positions);
        self.linear(channels, channels, positions);
        // 2 around the first normalisation, 6 up to the output of self-attention, 2 before the attention to the slots, 18 in the gated
        // layer, 1 after it.
        self.keep(&[29, channels, side, side]);
        self.derive(&[3, channels, channels]);
        self.derive(&[2, channels, context]);
        let keys = heads.saturating_mul(slots);
        self.keep(&[3, slots, channels]);
        if keys <= channels {
            // Keys and values go through the projections, whose weights are copied for every image; then one weight per key.
            self.keep(&[2, channels, channels]);
            self.keep(&[2, keys, channels]);
            self.keep(&[keys, side, side]);
        } else {
            self.keep(&[2, channels, side, side]);
        }
    }

    /// `PositionEmbedding`, which is computed once and not for each image.
    pub(super) fn position(&mut self, choice: PositionEmbedding, side: u64, channels: u64) {
        match choice {
            PositionEmbedding::Cartesian => self.weights(&[&[4, channels], &[channels]]),
            PositionEmbedding::Sincos => self.weights(&[&[]]),
            PositionEmbedding::Learned => self.weights(&[&[side, side, channels]]),
            PositionEmbedding::Fourier | PositionEmbedding::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_residual_block_by_hand() {
        let mut layers = Layers::default();
        layers.resnet(2, 3, 8, 4);
        // norm1 4, conv1 54 + 3, time 24 + 3, norm2 6, conv2 81 + 3, shortcut 6 + 3.
        let flops = 2 * (16 * (54 + 81 + 6) + 24);
        assert_eq!(layers, Layers { parameters: 187, flops, kept: 3 * 5 * 16, derived: 0 });
        let mut layers = Layers::default();
        layers.resnet(3, 3, 8, 4);
        assert_eq!(layers.parameters, 6 + 84 + 27 + 6 + 84);
    }

    #[test]
    fn operations_of_maps_that_change_their_side_and_of_attention_by_hand() {
        let flops = |build: fn(&mut Layers)| {
            let mut layers = Layers::default();
            build(&mut layers);
            layers.flops
        };
        assert_eq!(flops(|layers| layers.downsample(3, 8)), 2 * 16 * (9 * 9));
        assert_eq!(flops(|layers| layers.upsample(3, 8)), 2 * 256 * (9 * 9));
        // 16 positions: four layers, then as many comparisons as pairs and as many values.
        assert_eq!(flops(|layers| layers.map_attention(6, 4)), 2 * (4 * 36 * 16 + 2 * 6 * 16 * 16));
        // Before and after, self-attention, attention to 5 slots of 3 channels, and the gated layer.
        let shape = Transformers { slots: 5, context: 3, heads: 2, position: PositionEmbedding::Cartesian };
        let expected = |channels: u64, positions: u64| {
            let own = 4 * channels * channels * positions + 2 * channels * positions * positions;
            let slots = 2 * channels * channels * positions + 2 * 3 * channels * 5 + 2 * channels * positions * 5;
            2 * (2 * channels * channels * positions + own + slots + 12 * channels * channels * positions)
        };
        let mut layers = Layers::default();
        layers.transformer(6, 4, shape);
        assert_eq!(layers.flops, expected(6, 16));
    }

    #[test]
    fn position_embeddings_by_hand() {
        let parameters = |choice| {
            let mut layers = Layers::default();
            layers.position(choice, 8, 12);
            layers.parameters
        };
        let choices = [
            (PositionEmbedding::Cartesian, 4 * 12 + 12),
            (PositionEmbedding::Sincos, 1),
            (PositionEmbedding::Fourier, 0),
            (PositionEmbedding::Learned, 8 * 8 * 12),
            (PositionEmbedding::None, 0),
        ];
        for (choice, expected) in choices {
            assert_eq!(parameters(choice), expected, "{choice:?}");
        }
    }

    #[test]
    fn absurd_sizes_saturate() {
        let mut layers = Layers::default();
        layers.resnet(u64::MAX, 1 << 40, 1 << 40, 1 << 40);
        assert_eq!((layers.parameters, layers.flops, layers.kept), (u64::MAX, u64::MAX, u64::MAX));
    }
}
