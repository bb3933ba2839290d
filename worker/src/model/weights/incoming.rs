//! A safetensors file that comes in pieces, copied into the variables of a network as it comes.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use tch::{Kind, Tensor};

use super::file::{compare, signed};
use super::{WeightsError, format_error};
use crate::model::Variable;

/// Bytes of the number at the beginning of a file that says how long its header is.
const LENGTH: usize = 8;
/// No header is longer; whatever says so is no safetensors file.
const LONGEST_HEADER: usize = 100 << 20;
/// Bytes of an f32.
const F32: usize = 4;

/// A file of f32 tensors on its way into variables. Constants are recomputed, never loaded.
pub struct Incoming<'a> {
    file: &'a str,
    variables: &'a [Variable],
    /// What has come of the header, until it is whole.
    header: Vec<u8>,
    /// Once the header is whole: where the tensors lie among the bytes behind it, and their flat memory.
    targets: Option<Vec<(Range<usize>, Tensor)>>,
    /// Bytes behind the header that have come.
    position: usize,
}

impl<'a> Incoming<'a> {
    /// A file for `variables`; `file` is for messages.
    pub fn new(file: &'a str, variables: &'a [Variable]) -> Self {
        Self { file, variables, header: Vec::new(), targets: None, position: 0 }
    }

    /// Takes the next bytes of the file. Every piece but the last has a multiple of four bytes.
    ///
    /// # Errors
    /// The header is none, or one of another network; then no variable has changed.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), WeightsError> {
        if self.targets.is_none() {
            let needed = self.header_bytes()?.unwrap_or(LENGTH);
            piece = self.take_header(piece, needed);
            let Some(needed) = self.header_bytes()? else { return Ok(()) };
            piece = self.take_header(piece, needed);
            if self.header.len() < needed {
                return Ok(());
            }
            self.targets = Some(self.read_header()?);
        }
        self.copy(piece)
    }

    /// That the whole file has come.
    ///
    /// # Errors
    /// It has not.
    pub fn finish(self) -> Result<(), WeightsError> {
        let end = self.targets.as_ref().and_then(|targets| targets.last()).map(|(range, _)| range.end);
        if end.is_some_and(|end| end <= self.position) {
            Ok(())
        } else {
            Err(format_error(self.file, "not a whole safetensors file"))
        }
    }

    /// How long the header is, its length included, once that is known.
    fn header_bytes(&self) -> Result<Option<usize>, WeightsError> {
        let Some(length) = self.header.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > LONGEST_HEADER {
            return Err(format_error(self.file, format!("not a safetensors file (a header of {length} bytes)")));
        }
        Ok(Some(LENGTH + length))
    }

    /// Adds what `piece` has of the first `needed` bytes; returns the rest of it.
    fn take_header<'b>(&mut self, piece: &'b [u8], needed: usize) -> &'b [u8] {
        let (header, rest) = piece.split_at(piece.len().min(needed.saturating_sub(self.header.len())));
        self.header.extend_from_slice(header);
        rest
    }

    fn read_header(&self) -> Result<Vec<(Range<usize>, Tensor)>, WeightsError> {
        let metadata: Metadata = serde_json::from_slice(&self.header[LENGTH..])
            .map_err(|error| format_error(self.file, format!("not a safetensors file ({error})")))?;
        let stored: BTreeMap<_, _> = metadata.tensors().into_iter().collect();
        let shapes = stored.iter().map(|(name, info)| (name.as_str(), signed(&info.shape))).collect();
        let differences = compare(&shapes, self.variables);
        if !differences.is_empty() {
            return Err(WeightsError::Differ { file: self.file.to_owned(), differences });
        }
        if let Some((name, info)) = stored.iter().find(|(_, info)| info.dtype != Dtype::F32) {
            return Err(format_error(self.file, format!("{name}: {:?} values in a checkpoint", info.dtype)));
        }
        let mut targets = Vec::new();
        for variable in self.variables.iter().filter(|variable| variable.trainable) {
            let Some(info) = stored.get(&variable.name) else { continue };
            let flat = variable.tensor.detach().f_view([-1]);
            let flat = flat.map_err(|error| format_error(self.file, format!("{}: {error}", variable.name)))?;
            targets.push((info.data_offsets.0..info.data_offsets.1, flat));
        }
        targets.sort_by_key(|(range, _)| range.start);
        Ok(targets)
    }

    fn copy(&mut self, piece: &[u8]) -> Result<(), WeightsError> {
        let _guard = tch::no_grad_guard();
        let here = self.position..self.position + piece.len();
        self.position = here.end;
        let targets = self.targets.as_deref().unwrap_or_default();
        let first = targets.partition_point(|(range, _)| range.end <= here.start);
        for (range, flat) in targets[first..].iter().take_while(|(range, _)| range.start < here.end) {
            let common = range.start.max(here.start)..range.end.min(here.end);
            let bytes = &piece[common.start - here.start..common.end - here.start];
            let (start, count) = ((common.start - range.start) / F32, bytes.len() / F32);
            let values = Tensor::f_from_data_size(bytes, &[count as i64], Kind::Float)
                .map_err(|error| format_error(self.file, error.to_string()))?;
            flat.narrow(0, start as i64, count as i64).copy_(&values);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::to_safetensors;
    use super::*;
    use tch::Device;

    fn variables(seed: i64) -> Vec<Variable> {
        let variable = |(index, shape): (usize, &[i64])| Variable {
            name: format!("layer.{index}"),
            tensor: (Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu)) + seed as f64).view(shape),
            trainable: true,
        };
        [&[3, 5][..], &[7], &[2, 2, 2], &[1]].into_iter().enumerate().map(variable).collect()
    }

    #[test]
    fn pieces_of_any_size_fill_the_variables() {
        let bytes = to_safetensors(&variables(100)).unwrap();
        for size in (4..bytes.len() + 4).step_by(4) {
            let target = variables(0);
            let mut incoming = Incoming::new("file", &target);
            bytes.chunks(size).for_each(|piece| incoming.feed(piece).unwrap());
            incoming.finish().unwrap();
            assert!(target.iter().zip(variables(100)).all(|(found, expected)| found.tensor == expected.tensor), "{size}");
        }
    }

    #[test]
    fn another_network_no_file_and_half_a_file_are_told() {
        let bytes = to_safetensors(&variables(100)).unwrap();
        let other = &variables(0)[1..];
        let error = Incoming::new("file", other).feed(&bytes).unwrap_err().to_string();
        assert!(error.contains("1 unknown (layer.0)"), "{error}");
        let all = variables(0);
        let error = Incoming::new("file", &all).feed(&[255; 64]).unwrap_err().to_string();
        assert!(error.contains("not a safetensors file"), "{error}");
        let mut half = Incoming::new("file", &all);
        half.feed(&bytes[..bytes.len() - 4]).unwrap();
        assert!(half.finish().unwrap_err().to_string().contains("not a whole"));
    }
}
