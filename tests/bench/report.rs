//! Prints the table and writes it as JSON.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Shown for comparison alone.
    None,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// What was measured, with its unit in the name.
    pub(crate) ours: f64,
    /// What it is measured against; 0 where the figure stands alone.
    pub(crate) peer: f64,
    pub(crate) unit: &'static str,
    /// ours ÷ peer, or ours where it stands alone.
    pub(crate) value: f64,
    pub(crate) bound: Bound,
}

impl Figure {
    pub(crate) fn ratio(name: impl Into<String>, ours: f64, peer: f64, bound: Bound) -> Self {
        Self {
            name: name.into(),
            ours,
            peer,
            unit: "ms",
            value: ours / peer,
            bound,
        }
    }

    pub(crate) fn alone(
        name: impl Into<String>,
        ours: f64,
        unit: &'static str,
        bound: Bound,
    ) -> Self {
        Self {
            name: name.into(),
            ours,
            peer: 0.0,
            unit,
            value: ours,
            bound,
        }
    }

    pub(crate) fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    fn verdict(&self) -> &'static str {
        match self.bound {
            Bound::AtMost(limit) if self.value <= limit => "met",
            Bound::AtLeast(limit) if self.value >= limit => "met",
            Bound::None => "",
            _ => "MISSED",
        }
    }

    fn line(&self) -> String {
        let must = match self.bound {
            Bound::AtMost(limit) => format!("≤ {limit}"),
            Bound::AtLeast(limit) => format!("≥ {limit}"),
            Bound::None => String::new(),
        };
        let peer = if self.peer > 0.0 {
            format!("{:.1}", self.peer)
        } else {
            String::new()
        };
        format!(
            "| {:<58} | {:>9.1} {:<5} | {:>9} | {:>7.2} | {:>8} | {:<6} |",
            self.name,
            self.ours,
            self.unit,
            peer,
            self.value,
            must,
            self.verdict()
        )
    }
}

/// Prints the table on stdout and writes `json`.
///
/// # Errors
/// The file cannot be written.
#[expect(
    clippy::print_stdout,
    reason = "the table is what the benchmark is for"
)]
pub(crate) fn publish(figures: &[Figure], json: &Path) -> anyhow::Result<()> {
    println!(
        "| {:<58} | {:>15} | {:>9} | {:>7} | {:>8} | {:<6} |",
        "measured (median)", "isol8", "peer", "ratio", "must", ""
    );
    println!(
        "|{}|",
        [
            "-".repeat(60),
            "-".repeat(17),
            "-".repeat(11),
            "-".repeat(9),
            "-".repeat(10),
            "-".repeat(8)
        ]
        .join("|")
    );
    for figure in figures {
        println!("{}", figure.line());
    }
    if let Some(folder) = json.parent() {
        fs::create_dir_all(folder).context("cannot make the folder of the JSON file")?;
    }
    let text = serde_json::to_string_pretty(figures).context("figures are plain data")?;
    fs::write(json, text).with_context(|| format!("cannot write `{}`", json.display()))?;
    println!("\nJSON: {}", json.display());
    Ok(())
}
