//! Gradient checkpointing of a UNet (Chen et al. 2016): what lies inside of a part is forgotten after the forward pass and computed a second
//! time when the gradients are due.
//!
//! libtorch's Rust binding has no autograd function of one's own. So the graph is cut between the parts: every tensor that crosses a cut
//! is a leaf, which collects the gradient from the parts behind it; and the parts are gone through once more, from the last to the first,
//! each with its graph.

use tch::{Kind, Tensor};

use super::resnet::Time;
use super::unet_body::{Part, UnetBody};
use crate::model::precision::Mixed;

/// A forward pass that can be gone through once more.
#[derive(Debug)]
pub(crate) struct Tape {
    parts: Vec<Recorded>,
    time: Cut,
    slots: Cut,
}

/// A part, with leaves on both sides.
#[derive(Debug)]
struct Recorded {
    part: Part,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// A tensor that enters all parts: with the graph before it, and as the leaf that they see.
#[derive(Debug)]
struct Cut {
    before: Tensor,
    leaf: Tensor,
}

impl Cut {
    fn new(before: &Tensor) -> Self {
        Self { before: before.shallow_clone(), leaf: leaf(before) }
    }
}

impl Tape {
    /// The forward pass of `body` with one time per image [B, T]. Returns the prediction, a leaf, and what [`Tape::backward`] needs.
    pub(crate) fn record(body: &UnetBody, x: &Tensor, time: &Tensor, slots: &Tensor) -> (Tensor, Self) {
        let mut tape = Self { parts: Vec::new(), time: Cut::new(time), slots: Cut::new(slots) };
        let prediction = body.pass(x, |part, inputs| {
            let (kept, time, slots) = (inputs.iter().map(Tensor::shallow_clone).collect(), &tape.time.leaf, &tape.slots.leaf);
            let outputs = tch::no_grad(|| body.part(part, inputs, Time::PerImage(time), Some(slots)));
            let outputs: Vec<Tensor> = outputs.iter().map(leaf).collect();
            tape.parts.push(Recorded { part, inputs: kept, outputs: outputs.iter().map(Tensor::shallow_clone).collect() });
            outputs
        });
        (prediction, tape)
    }

    /// Carries the gradient of the prediction on to the parameters of `body`, and to whatever time and slots were computed from.
    pub(crate) fn backward(mut self, body: &UnetBody, mixed: Mixed) {
        while let Some(Recorded { part, inputs, outputs }) = self.parts.pop() {
            let again = mixed.run(|| body.part(part, inputs, Time::PerImage(&self.time.leaf), Some(&self.slots.leaf)));
            carry_on(again.iter().zip(&outputs));
        }
        carry_on([&self.time, &self.slots].into_iter().map(|cut| (&cut.before, &cut.leaf)));
    }
}

/// A leaf with the values of `x`.
fn leaf(x: &Tensor) -> Tensor {
    x.detach().set_requires_grad(true)
}

/// Goes on behind the leaves with the gradients that they have collected.
fn carry_on<'a>(cuts: impl Iterator<Item = (&'a Tensor, &'a Tensor)>) {
    let cuts = cuts.filter(|(before, leaf)| before.requires_grad() && leaf.grad().defined());
    let products = cuts.map(|(before, leaf)| (before * leaf.grad()).sum(None::<Kind>));
    if let Some(sum) = products.reduce(|sum, product| sum + product) {
        sum.backward();
    }
}
