//! Times and their summary.

use std::time::Duration;

/// How long one thing took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// To the first byte of output; the whole where there was none.
    pub(crate) first_byte: Duration,
    /// To the end.
    pub(crate) whole: Duration,
}

/// Many timings of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    first_byte: Vec<f64>,
    whole: Vec<f64>,
}

impl Samples {
    pub(crate) fn add(&mut self, timing: Timing) {
        self.first_byte.push(timing.first_byte.as_secs_f64() * 1e3);
        self.whole.push(timing.whole.as_secs_f64() * 1e3);
    }

    /// Median milliseconds to the end.
    pub(crate) fn whole_ms(&self) -> f64 {
        median(&self.whole)
    }

    /// Median milliseconds to the first byte.
    pub(crate) fn first_byte_ms(&self) -> f64 {
        median(&self.first_byte)
    }

    /// 99th percentile of milliseconds to the end.
    pub(crate) fn whole_p99_ms(&self) -> f64 {
        quantile(&self.whole, 0.99)
    }
}

/// The median; NaN without samples.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a share `q` of the samples lies; NaN without samples.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a few hundred samples"
    )]
    let index = (last as f64 * q).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
