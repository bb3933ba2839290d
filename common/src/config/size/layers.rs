//! The layers of the networks as numbers: what they train, and what the backward pass of one image needs again.

use crate::config::PositionEmbedding;

/// Layers, added up. Sums and products saturate: a configuration of absurd size is large, not an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// Trained numbers.
    pub(super) parameters: u64,
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
        self.kept = self.kept.saturating_add(other.kept);
        self.derived = self.derived.saturating_add(other.derived);
    }

    /// A convolution with a square kernel, or a linear layer with a kernel of 1.
    pub(super) fn conv(&mut self, input: u64, output: u64, kernel: u64) {
        self.weights(&[&[output, input, kernel, kernel], &[output]]);
    }

    /// Scale and shift of a normalisation.
    pub(super) fn norm(&mut self, channels: u64) {
        self.weights(&[&[2, channels]]);
    }

    /// `ResnetBlock`: the inputs of both normalisations, activations and convolutions.
    pub(super) fn resnet(&mut self, input: u64, output: u64, time: u64, side: u64) {
        self.norm(input);
        self.conv(input, output, 3);
        self.conv(time, output, 1);
        self.norm(output);
        self.conv(output, output, 3);
        if input != output {
            self.conv(input, output, 1);
        }
        self.keep(&[3, input.saturating_add(output), side, side]);
    }

    /// `Downsample` of a map with this side.
    pub(super) fn downsample(&mut self, channels: u64, side: u64) {
        self.conv(channels, channels, 3);
        self.keep(&[channels, side, side]);
    }

    /// `Upsample` of a map with this side; its kernel becomes a wider one.
    pub(super) fn upsample(&mut self, channels: u64, side: u64) {
        self.conv(channels, channels, 3);
        self.keep(&[channels, side, side]);
        self.derive(&[channels, channels, 16]);
    }

    /// `TimeEmbedding`; the embedding of an image is too small to count.
    pub(super) fn time_embedding(&mut self, channels: u64) {
        let width = channels.saturating_mul(4);
        self.conv(channels, width, 1);
        self.conv(width, width, 1);
    }

    /// `MapAttention`: the input of the normalisation and of the projection, queries, keys, values, output.
    pub(super) fn map_attention(&mut self, channels: u64, side: u64) {
        self.norm(channels);
        self.weights(&[&[4, channels, channels], &[4, channels]]);
        self.keep(&[6, channels, side, side]);
        self.derive(&[3, channels, channels]);
    }

    /// `Transformer` on a map with this side. No attention writes a matrix of all pairs of positions.
    pub(super) fn transformer(&mut self, channels: u64, side: u64, shape: Transformers) {
        let Transformers { slots, context, heads, position } = shape;
        self.norm(channels);
        self.conv(channels, channels, 1);
        (0..3).for_each(|_| self.norm(channels));
        (0..2).for_each(|_| self.position(position, side, channels));
        self.weights(&[&[4, channels, channels], &[channels]]);
        self.weights(&[&[2, channels, channels], &[2, channels, context], &[channels]]);
        self.conv(channels, product(&[8, channels]), 1);
        self.conv(product(&[4, channels]), channels, 1);
        self.conv(channels, channels, 1);
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

    /// `PositionEmbedding`.
    pub(super) fn position(&mut self, choice: PositionEmbedding, side: u64, channels: u64) {
        match choice {
            PositionEmbedding::Cartesian => self.conv(4, channels, 1),
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
        assert_eq!(layers, Layers { parameters: 187, kept: 3 * 5 * 16, derived: 0 });
        let mut layers = Layers::default();
        layers.resnet(3, 3, 8, 4);
        assert_eq!(layers.parameters, 6 + 84 + 27 + 6 + 84);
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
        assert_eq!((layers.parameters, layers.kept), (u64::MAX, u64::MAX));
    }
}
