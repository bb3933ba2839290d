//! Train the diffusion model together with its slot encoder.

use super::JobContext;

pub(super) fn run(_context: &mut JobContext) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::Value::Null)
}
